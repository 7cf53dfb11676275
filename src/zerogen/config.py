"""Typed schema of the configuration.

The string under an attribute is its help: `zerogen --help` prints those of the top level. Values
that only make sense together are checked in `check`, and in `runs.settings` what depends on the setting; everything
else is checked where it is used.
"""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from zerogen.errors import UserError, unknown
from zerogen.files import LONGEST_NAME

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


def keys_of(config: Config) -> dict[str, Any]:
    """Return a configuration as nested keys and values, as a config.yaml holds them."""
    keys = asdict(config)
    del keys["command"], keys["dry_run"]
    return keys


def help_of(schema: type) -> dict[str, str]:
    """Return attribute name to docstring of a schema class, in order, for the attributes that have one."""
    body = ast.parse(inspect.getsource(schema)).body[0].body  # type: ignore[attr-defined]
    return {
        node.target.id: " ".join(str(text.value.value).split())
        for node, text in pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def _between(key: str, value: float, allowed: str, ok: bool) -> None:
    if not ok:
        raise UserError(f"{key}={value}: allowed is {allowed}")


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise unknown(key, value, allowed)


def check_decoding(decoding: DecodingConfig) -> None:
    """Check the bounds of decoding. Raises `UserError`."""
    if decoding.top_p == 0:
        raise UserError(
            "decoding.top_p=0: allowed is 0 < top_p <= 1 (1 is off; for greedy decoding set decoding.top_k=1)"
        )
    _between("decoding.top_p", decoding.top_p, "0 < top_p <= 1", 0 < decoding.top_p <= 1)
    _between("decoding.top_k", decoding.top_k, "0 (off) or more", decoding.top_k >= 0)
    _between("decoding.temperature", decoding.temperature, "more than 0", decoding.temperature > 0)
    if decoding.batch_size is not None:
        _between("decoding.batch_size", decoding.batch_size, "null, or 1 or more", decoding.batch_size >= 1)
    _between("decoding.chunk_size", decoding.chunk_size, "1 or more", decoding.chunk_size >= 1)


def check_debias(debias: DebiasConfig) -> None:
    """Check the bounds of self-debiasing. Raises `UserError`."""
    _between("task.debias.decay", debias.decay, "0 (off) or more", debias.decay >= 0)
    _between("task.debias.epsilon", debias.epsilon, "0 <= epsilon <= 1", 0 <= debias.epsilon <= 1)


def check_filter(filters: FilterConfig) -> None:
    """Check the bounds of the filters. Raises `UserError`."""
    if filters.min_words is not None:
        _between("filter.min_words", filters.min_words, "null, or 0 or more", filters.min_words >= 0)
    _between("filter.min_acceptance", filters.min_acceptance, "0 <= share < 1", 0 <= filters.min_acceptance < 1)
    _between("filter.patience", filters.patience, "1 or more", filters.patience >= 1)
    if filters.max_words is not None:
        least = filters.min_words or 0
        _between("filter.max_words", filters.max_words, f"filter.min_words={least} or more", filters.max_words >= least)


def check_plm(config: Config) -> None:
    """Check the PLM's arithmetic, and that it can be opened once per device. Raises `UserError`."""
    plm, gpus = config.plm, config.gpu
    _one_of("plm.dtype", plm.dtype, ("auto", "float32", "bfloat16", "float16"))
    if plm.writer in PARALLEL_WRITERS:
        return
    several = f"processes={config.processes}" if config.processes > 1 else ""
    if isinstance(gpus, list) and len(gpus) > 1:
        several = f"gpu={gpus}"
    if several:
        raise UserError(
            f"{several}: plm.writer={plm.writer} writes in one process, on one device; allowed with plm.writer="
            f"{' or '.join(PARALLEL_WRITERS)}"
        )


def check_trainer(trainer: TrainerConfig) -> None:
    """Check the bounds of training. Raises `UserError`."""
    _one_of("trainer.optimizer", trainer.optimizer, ("adamw", "adam", "adadelta"))
    _one_of("trainer.schedule", trainer.schedule, ("linear", "constant"))
    _between("trainer.lr", trainer.lr, "more than 0", trainer.lr > 0)
    _between("trainer.weight_decay", trainer.weight_decay, "0 or more", trainer.weight_decay >= 0)
    _between("trainer.warmup_ratio", trainer.warmup_ratio, "0 <= ratio < 1", 0 <= trainer.warmup_ratio < 1)
    _between("trainer.batch_size", trainer.batch_size, "1 or more", trainer.batch_size >= 1)
    _between("trainer.epochs", trainer.epochs, "1 or more", trainer.epochs >= 1)
    _between("trainer.heldout", trainer.heldout, "0 < share <= 0.5", 0 < trainer.heldout <= 0.5)
    _between("trainer.gradient_clip", trainer.gradient_clip, "more than 0", trainer.gradient_clip > 0)
    if trainer.ema is not None:
        _between("trainer.ema", trainer.ema, "0 < ema < 1, or null", 0 < trainer.ema < 1)
    if trainer.patience is not None:
        _between("trainer.patience", trainer.patience, "1 or more, or null", trainer.patience >= 1)


def check_tam(tam: TamConfig) -> None:
    """Check the sizes of a TAM. Raises `UserError`."""
    _one_of("tam.dtype", tam.dtype, ("auto", "float32", "bfloat16"))
    if tam.dropout is not None:
        _between("tam.dropout", tam.dropout, "0 <= dropout < 1", 0 <= tam.dropout < 1)
    _between("tam.embedding", tam.embedding, "1 or more", tam.embedding >= 1)
    if tam.hidden is not None:
        _between("tam.hidden", tam.hidden, "null, or 1 or more", tam.hidden >= 1)
    _between("tam.vocabulary", tam.vocabulary, "3 or more", tam.vocabulary >= 3)


def check_measures(config: Config) -> None:
    """Check how synthetic rows are measured. Raises `UserError`."""
    _one_of("diversity.tokenizer", config.diversity.tokenizer, TOKENIZERS)
    _between(
        "diversity.self_bleu_texts",
        config.diversity.self_bleu_texts,
        "2 or more",
        config.diversity.self_bleu_texts >= 2,
    )
    _between("correctness.rows", config.correctness.rows, "1 or more", config.correctness.rows >= 1)
    _between("confidence.rows", config.confidence.rows, "0 (off) or more", config.confidence.rows >= 0)
    if config.correctness.evaluator and not config.task.gold:
        raise UserError(
            f"correctness.evaluator={config.correctness.evaluator}: is trained on gold data, and task "
            f"'{config.task.name}' has none (task.gold)"
        )


def check_logger(logger: LoggerConfig) -> None:
    """Check the choices of a logger. Raises `UserError`."""
    _one_of("logger.name", logger.name, ("csv", "tensorboard", "wandb"))
    if logger.mode is not None:
        _one_of("logger.mode", logger.mode, LOGGER_MODES)
        if logger.name != "wandb":
            raise UserError(
                f"logger.mode={logger.mode}: logger={logger.name} does not read it; allowed with logger=wandb"
            )


def check_size(key: str, value: int | None, task: TaskConfig) -> None:
    """Check that a number of rows holds one of each label. Raises `UserError`."""
    labels = len(task.labels)
    if value is not None and value < labels:
        raise UserError(f"{key}={value}: allowed is {labels} or more, the number of labels of task '{task.name}'")


def check(config: Config) -> None:
    """Check what a type cannot say. Raises `UserError` naming the key, the value and what is allowed."""
    check_decoding(config.decoding)
    check_filter(config.filter)
    check_debias(config.task.debias)
    check_trainer(config.trainer)
    check_tam(config.tam)
    check_measures(config)
    check_logger(config.logger)
    check_plm(config)
    _one_of("setting.scope", config.setting.scope, ("prompt", "text"))
    _one_of("setting.calibration", config.setting.calibration, ("none", "prior"))
    for key in ("plm.name", "tam.name"):
        check_name(key, getattr(config, key[:3]).name)
    for key in ("n", "log_every", "limit", "eval_limit"):
        check_size(key, getattr(config, key), config.task)
    if config.seeds is not None and (not config.seeds or len(set(config.seeds)) != len(config.seeds)):
        raise UserError(f"seeds={config.seeds}: allowed is a list of different integers")
    if config.tam.checkpoint and config.train:
        raise UserError(
            f"tam.checkpoint={config.tam.checkpoint}: is evaluated only, with train=false; "
            "to start training from a folder set tam.model"
        )
    if config.metrics and not config.task.gold:
        raise UserError(
            f"metrics=[{','.join(config.metrics)}]: are about gold rows; task '{config.task.name}' has none (task.gold)"
        )
    labels = config.dataset_labels
    if labels is None:
        config.dataset_labels = {}
    elif not isinstance(labels, dict) or not all(isinstance(name, str) for name in labels.values()):
        raise UserError(f"dataset_labels={labels}: allowed is value: label name, such as {{0: positive, 1: negative}}")
    if config.gpu is None:
        config.gpu = "none"
    if config.gpu not in ("auto", "none"):
        indices = config.gpu if isinstance(config.gpu, list) else [config.gpu]
        if not indices or any(type(index) is not int for index in indices) or len(set(indices)) != len(indices):
            raise UserError(f"gpu={config.gpu}: allowed is auto, none, an index such as 0 or a list such as [0,1]")
    _between("processes", config.processes, "1 or more", config.processes >= 1)


def check_name(key: str, name: str) -> None:
    """Check that a name can stand in a file name. Raises `UserError`."""
    if not re.fullmatch(r"[\w-][\w.-]*", name) or len(name.encode(errors="replace")) > LONGEST_NAME:
        raise UserError(
            f"{key}={name}: allowed are letters, digits, '_', '-' and, but for the first one, '.', "
            f"{LONGEST_NAME} bytes in all; it becomes part of file names"
        )
