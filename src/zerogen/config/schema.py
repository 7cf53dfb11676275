"""Typed schema of the configuration.

The string under an attribute is its help: `zerogen --help` prints those of the top level. Values
that only make sense together are checked in `check`, and in `runs.settings` what depends on the setting; everything
else is checked where it is used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LOGGER_MODES = ("online", "offline", "off")
SPLITS = ("train", "validation", "test")
FILE_ENDINGS = (".jsonl", ".csv", ".parquet")
PARALLEL_WRITERS = ("transformers",)  # which may be opened once in each of several processes


@dataclass
class StopConfig:
    text: str = '"'
    """A generated row ends where this string appears."""
    keep: bool = False
    """Whether the string stays in the text (a question mark) or is dropped (a closing quote)."""


@dataclass
class ParseConfig:
    stop: list[StopConfig] = field(default_factory=lambda: [StopConfig()])
    """Stop strings; the first one that appears ends the row."""
    must_end: str = ""
    """A text that ends otherwise is rejected: `?` for questions."""
    fallback: str = "none"
    """What becomes of a row without a stop string: `none` rejects it as unfinished, `sentence` cuts it at the first
    newline or else behind its last full stop."""


@dataclass
class ContextConfig:
    source: str = "plm"
    """`plm` writes them (stage 1), `gold` takes the unlabelled contexts of the gold training split, anything else is a
    file: .txt with one a line, or .jsonl, .csv, .parquet with the column that the gold data has them in."""
    prompt: str = ""
    """Prompt of stage 1; what the PLM writes behind it, up to the closing quote, is a context."""
    max_new_tokens: int = 10
    """Token limit of a context; a context that is not closed by then is rejected."""
    per_label: int = 4
    """Texts asked for per context and label; in question answering, per context and answer."""


@dataclass
class DebiasConfig:
    decay: float = 0.0
    """Self-debiasing: how strongly a token is suppressed that the other labels' prompts want more; 0 is off."""
    epsilon: float = 0.01
    """The smallest factor that a token's probability is multiplied by."""


@dataclass
class HoldoutConfig:
    rows: int = 1000
    """Unique texts moved from the training split to the validation split, those of a context together."""
    seed: int = 0
    """Seed of the hash that picks them."""


@dataclass
class GoldConfig:
    hub: dict[str, Any] = field(default_factory=dict)
    """Arguments of `datasets.load_dataset` (`path`, `name`, `revision`, ...) for a dataset of the Hub."""
    files: dict[str, str] = field(default_factory=dict)
    """Split name to a .jsonl, .csv or .parquet file."""
    folder: str | None = None
    """Folder written by `save_to_disk` of a `DatasetDict` (or of one `Dataset`, then the training split)."""
    package: str | None = None
    """`NAME/path/inside/it.csv`: a file of an installed Python package, used as the training split."""
    splits: dict[str, str] = field(default_factory=dict)
    """Our split (train, validation, test) to the name of that split in the source, where they differ."""
    evaluate_on: str = "validation"
    """The split that results are reported on."""
    separator: str = ","
    """What stands between the columns of a .csv file: `";"`, `"\\t"`."""
    text: str = "text"
    """Column of the text."""
    context: str | None = None
    """Column of the other text of a pair, or of the passage that holds the answers."""
    label: str = "label"
    """Column of the label."""
    answers: str = "answers"
    """Column of the reference answers, {text: [...], answer_start: [...]} as in SQuAD."""
    uid: str | None = None
    """Column that identifies a row; by default rows are counted."""
    labels: dict[Any, str] = field(default_factory=dict)
    """Gold value to label name; may be left out where the column holds label names."""
    where: dict[str, Any] = field(default_factory=dict)
    """Keep only rows whose columns have these values (a value, or a list of values that will do)."""
    cleaning: dict[str, str] = field(default_factory=dict)
    """Regular expression to replacement, applied in this order to each text; white space is then collapsed."""
    holdout: HoldoutConfig | None = None
    """Split a validation set off the training split, for sources that have none. Duplicate texts are dropped."""


@dataclass
class TaskConfig:
    name: str = "???"
    """Name of the task, part of folder and file names."""
    kind: str = "classification"
    """`classification` of a text, `pair` (of a text and its context), or `qa` (the answer to the text, a question, is a
    span of its context)."""
    labels: list[str] = field(default_factory=list)
    """Label names; their order defines the integer `Y` of exported rows. None for question answering."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Label to the prompt behind which the PLM writes a text X of that label; may hold `<C>`. In question answering
    there is one, `question`, with `<C>` and the answer `<Y>`."""
    scoring: dict[str, str] = field(default_factory=dict)
    """Label to the filled prompt that setting=prompting scores; must hold `<X>`, may hold `<C>`. In question answering
    there is one, `question`, behind which the PLM writes the answer."""
    context: ContextConfig | None = None
    """Stage 1; left out where the prompts need no `<C>`."""
    parse: ParseConfig = field(default_factory=ParseConfig)
    """Where a generated text ends."""
    debias: DebiasConfig = field(default_factory=DebiasConfig)
    """Self-debiasing of the generated text, with the other labels' prompts as counter-prompts."""
    max_new_tokens: int = 40
    """Token limit of a generated text."""
    max_length: int = 128
    """Tokens of a text (of a pair; of a window of a question and its passage) that the TAM reads."""
    min_words: int = 10
    """Shorter generated texts are rejected, if filter.min_words does not say otherwise. In scripts without spaces
    (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan) each character is a word."""
    order: list[str] = field(default_factory=lambda: ["context", "text"])
    """Which of the two texts of a pair the TAM reads first."""
    answers: str = "auto"
    """Where generated questions get their answers: `spacy` (named entities), `rules` (numbers, dates, names, noun
    phrases; needs nothing), `gold` (those of the gold training split), `auto`: spacy where its model is installed, else
    rules."""
    answer_tokens: int = 30
    """Longest answer in tokens."""
    gold: dict[str, GoldConfig] = field(default_factory=dict)
    """Named sources of human-labelled data; empty for a task without any."""
    gold_source: str | None = None
    """Which of `gold` to read; the first one by default."""


@dataclass
class PlmConfig:
    name: str = "???"
    """Short name, part of folder names."""
    model: str = "???"
    """Hub id, folder, or `package:NAME` of an installed Python package."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    dtype: str = "auto"
    """`auto` (bfloat16 where the hardware has it), `float32`, `bfloat16` or `float16`."""
    writer: str = "transformers"
    """What opens the PLM: `transformers`, or your own `module:attribute`, a function (PlmConfig, device) that returns a
    Writer; the other keys then mean what it makes of them."""


@dataclass
class TamConfig:
    name: str = "???"
    """Short name, part of folder names."""
    kind: str = "encoder"
    """`encoder` (what AutoModelForSequenceClassification or AutoModelForQuestionAnswering opens), `lstm` (with its
    own vocabulary: a BiLSTM for a text, a two-stream BiLSTM for a pair, BiDAF for question answering), or your own
    `module:attribute`, from the working directory or installed."""
    model: str | None = None
    """Encoder weights: Hub id, folder, or `package:NAME`."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    dtype: str = "auto"
    """Arithmetic of training and prediction: `auto` (bfloat16 where the hardware has it), `float32`, `bfloat16`."""
    checkpoint: str | None = None
    """A trained TAM folder to evaluate with `train=false`."""
    embedding: int = 100
    """LSTM: width of the word embeddings."""
    hidden: int | None = None
    """LSTM: width of each direction; null: 150 for one text, 300 for a pair, 100 for question answering."""
    dropout: float | None = None
    """LSTM: dropout before the recurrent layers and before the output; null: 0.5, for question answering 0.2."""
    vectors: str | None = None
    """LSTM: file of word vectors to start from (GloVe's or word2vec's text or word2vec's .bin, maybe .gz; or NAME.npy
    with its words in NAME.txt); sets `embedding`, and its words, in their order, fill up the vocabulary."""
    vocabulary: int = 30000
    """LSTM: largest number of word types kept, first those of the training texts."""


@dataclass
class TrainerConfig:
    optimizer: str = "adamw"
    """`adamw`, `adam` or `adadelta`."""
    lr: float = 2e-5
    """Peak learning rate."""
    weight_decay: float = 0.01
    """Weight decay of everything but biases and norms."""
    schedule: str = "linear"
    """`linear` (warm-up, then decay to zero) or `constant`."""
    warmup_ratio: float = 0.1
    """Share of the steps spent on warm-up."""
    batch_size: int = 32
    """Rows per step."""
    epochs: int = 3
    """Most passes over the training rows."""
    patience: int | None = None
    """Stop after this many epochs without a better one; none by default."""
    gradient_clip: float = 1.0
    """Largest gradient norm."""
    ema: float | None = None
    """Decay of a moving average of the weights, which is what is checked and kept; none by default."""
    heldout: float = 0.1
    """Share of the training rows on which the best epoch is picked, split by context and stratified by label."""
    loss: str = "cross_entropy"
    """Loss of each row, from its logits and its target: `cross_entropy`, or your own `module:function`. A step
    minimises their mean, weighted where rows have weights."""


@dataclass
class DecodingConfig:
    top_p: float = 0.9
    """Nucleus sampling keeps the most probable tokens up to this mass; 1 is off."""
    top_k: int = 0
    """Sample among the k most probable tokens; 0 is off, 1 is greedy."""
    temperature: float = 1.0
    """Divides the logits before sampling."""
    batch_size: int | None = None
    """Rows decoded at a time, with counter-prompts; null: what memory holds, up to 192 on a CPU and 256 on a GPU."""
    chunk_size: int = 512
    """Most requests per chunk, the unit of resuming; the first chunks are smaller: 64, 128, 256, ..."""


@dataclass
class FilterConfig:
    min_words: int | None = None
    """Shorter texts are rejected; null: as the task says. In scripts without spaces each character is a word."""
    max_words: int | None = None
    """Longer texts are rejected."""
    duplicates: bool = False
    """Keep texts that were generated before (under the same or another label; of pairs and questions about the same
    context, since elsewhere they mean something else)."""
    min_acceptance: float = 0.02
    """A label whose acceptance stays below this share stops the run."""
    patience: int = 512
    """Number of latest requests of a label over which acceptance is judged."""
    functions: list[str] = field(default_factory=list)
    """Further filters, each `module:function`: given a row, it returns the reason to reject it, or None."""


@dataclass
class SettingConfig:
    name: str = "???"
    """`supervised`, `prompting`, `zerogen`, or a `module:attribute` of your own that is a `Setting`."""
    scope: str = "prompt"
    """PROMPTING: mean log-probability over the whole filled `prompt` (the paper's way), or over the `text` X and what
    stands behind it, given what stands before it."""
    calibration: str = "none"
    """PROMPTING: `prior` subtracts the log-probability of the prompt without a text, `none` does not."""


TOKENIZERS = ("auto", "13a", "zh", "ja-mecab", "char", "spacy")


@dataclass
class DiversityConfig:
    self_bleu_texts: int = 1000
    """Self-BLEU compares this many texts with each other, drawn at random where there are more."""
    tokenizer: str = "auto"
    """Splits texts for Self-BLEU and distinct n-grams: sacrebleu's `13a`, `zh` (Chinese), `ja-mecab` (Japanese; needs
    `pip install 'sacrebleu[ja]'`) or `char` (characters), or `spacy` (blank English, as in the paper). `auto` goes by
    the script that the texts are mostly written in: zh for Han; ja-mecab, or char where it is not installed, for kana;
    char for Thai, Lao, Khmer, Burmese and Tibetan; else 13a."""


@dataclass
class CorrectnessConfig:
    evaluator: str | None = None
    """A model that is trained on all gold training rows (a SUPERVISED run of its own, reused) and then judges the
    labels of synthetic rows: a bundled `tam` option such as `minilm` or `roberta-large` (the paper's), a Hub id or a
    folder; null: labels are not judged."""
    rows: int = 10000
    """Most synthetic rows judged, a stratified sample."""


@dataclass
class ConfidenceConfig:
    rows: int = 10000
    """Most synthetic rows that the PLM scores again under each label's prompt, a stratified sample; 0 is off."""


@dataclass
class LoggerConfig:
    name: str = "csv"
    """`csv` (losses of every training, always written), `tensorboard` or `wandb` (Weights & Biases)."""
    mode: str | None = None
    """Weights & Biases: `online`, `offline` or `off`; null: as WANDB_MODE says, else online."""


@dataclass
class Config:
    task: TaskConfig = field(default_factory=TaskConfig)
    setting: SettingConfig = field(default_factory=SettingConfig)
    plm: PlmConfig = field(default_factory=PlmConfig)
    tam: TamConfig = field(default_factory=TamConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    diversity: DiversityConfig = field(default_factory=DiversityConfig)
    correctness: CorrectnessConfig = field(default_factory=CorrectnessConfig)
    confidence: ConfidenceConfig = field(default_factory=ConfidenceConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    n: int = 2000
    """accepted synthetic examples in all, an equal share per label"""
    log_every: int | None = None
    """train and evaluate a fresh TAM at every multiple of it, and at n"""
    seed: int = 42
    """the run's seed"""
    seeds: list[int] | None = None
    """a list of seeds, [0,1,2]: one full run each, and their mean and standard deviation"""
    gpu: Any = "auto"
    """auto, none, the index of a GPU or a list of indices: each writes texts, the first one trains"""
    processes: int = 1
    """processes that write texts side by side on a CPU, each with the whole PLM"""
    data_dir: str | None = None
    """read gold data from DATA_DIR/<task>/{train,validation,test}.{jsonl,csv,parquet} instead of the task's source"""
    contexts: str | None = None
    """where contexts come from: plm, gold (unlabelled texts of the gold training split) or a file"""
    answers: str | None = None
    """question answering: where answers come from, auto, spacy, rules or gold"""
    dataset: str | None = None
    """train on this synthetic file (JSONL with C, X, Y or label; for questions SQuAD's columns) or datasets folder
    instead of generating"""
    dataset_labels: Any = None
    """what an integer Y means in that file, {0: positive, 1: negative}"""
    select: list[str] = field(default_factory=list)
    """setting=zerogen: functions, module:function, that select, relabel or weigh the rows before training, in order"""
    limit: int | None = None
    """seeded stratified sample of the training rows (of the synthetic file, or of gold in setting=supervised)"""
    eval_limit: int | None = None
    """stratified sample of the gold rows that results are reported on, the same for every seed"""
    metrics: list[str] = field(default_factory=list)
    """further metrics to report: your own as [module:attribute], each a zerogen.metrics.Metric"""
    train: bool = True
    """false: with tam.checkpoint=FOLDER only evaluate; in setting=zerogen without it only generate"""
    output_dir: str = "outputs"
    """folder of all results"""
    dry_run: bool = False
    """only look at what is there, probe 32 requests and say what to expect of the run; nothing is written"""
    # The words of the command line that say what to run; kept with the result, not a key.
    command: list[str] = field(default_factory=list, metadata={"omegaconf_ignore": True})
