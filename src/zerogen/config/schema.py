"""Typed schema of the configuration: every key, its default and its help.

The string under an attribute is its help: `zerogen --help` prints those of the top level. Keys that must fit together
are checked in `config.rules`, what depends on the setting in `runs.settings`, everything else where it is used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from zerogen.config.task_schema import TaskConfig

LOGGER_MODES = ("online", "offline", "off")
SPLITS = ("train", "validation", "test")
FILE_ENDINGS = (".jsonl", ".csv", ".tsv", ".tab", ".parquet")
PARALLEL_WRITERS = ("transformers",)  # which may be opened once in each of several processes
ENGINES = ("local", "ray", "lightning")
SERVER = "openai"  # the writer that asks a server
SERVER_KEYS = (  # of `plm`, about it
    *("base_url", "key_variable", "scoring", "concurrency", "timeout", "retries", "max_positions"),
    *("price_in", "price_out", "extra"),
)


@dataclass
class PlmConfig:
    name: str = "???"
    """Short name, part of folder names."""
    model: str = "???"
    """Hub id, folder, .gguf file, or `package:NAME` of an installed Python package."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    dtype: str = "auto"
    """`auto` (bfloat16 where the hardware has it), `float32`, `bfloat16` or `float16`."""
    writer: str = "transformers"
    """What opens the PLM: `transformers`, `openai` (a server that speaks the OpenAI API), or your own
    `module:attribute`, a function (PlmConfig, device) that returns a Writer and gives the other keys their meaning."""
    chat: Any = "auto"
    """Whether prompts are put to the PLM as a user's turn in its chat template, and its answer begins with what stands
    open after the quote: true, false, or `auto`: only on a server that offers nothing else."""
    system: str | None = None
    """Chat: text of the system's turn; null: the template's own, or none."""
    base_url: str | None = None
    """Server: URL of its API, such as http://localhost:8000/v1. The key comes from the environment alone, see
    `key_variable`."""
    key_variable: str = "OPENAI_API_KEY"
    """Server: name of the environment variable that holds the key; a server that wants none may go without."""
    scoring: str = "auto"
    """Server: how the labels of texts are scored. `auto`: by the log-probability of given texts, where the server tells
    it; `label_tokens`: setting=prompting compares the probabilities of the first tokens of the labels' words."""
    concurrency: int = 16
    """Server: maximum number of requests in flight."""
    timeout: float = 600.0
    """Server: seconds that a request may take."""
    retries: int = 6
    """Server: how often a request is repeated that it was too busy for, or that a broken connection cut off."""
    max_positions: int | None = None
    """Server: tokens that it reads and writes in one request; null: as it says itself, else 4,096."""
    price_in: float | None = None
    """Server: price of a million tokens read; with price_out results say what they cost."""
    price_out: float | None = None
    """Server: price of a million tokens written."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Server: further fields of each request for a text."""


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
    """LSTM: width of each direction; null: 150 for single texts, 300 for pairs, 100 for question answering."""
    dropout: float | None = None
    """LSTM: dropout before the recurrent layers and before the output; null: 0.5, for question answering 0.2."""
    vectors: str | None = None
    """LSTM: file of word vectors to start from (text of GloVe or word2vec, or word2vec's .bin, also as .gz; or NAME.npy
    with its words in NAME.txt); it sets `embedding`, and its words, in their order, fill up the vocabulary."""
    vocabulary: int = 30000
    """LSTM: maximum size of the vocabulary; words of the training texts come first."""


@dataclass
class TrainerConfig:
    optimizer: str = "adamw"
    """`adamw`, `adam` or `adadelta`."""
    lr: float = 2e-5
    """Peak learning rate."""
    weight_decay: float = 0.01
    """Weight decay, applied to all parameters except biases and norms."""
    schedule: str = "linear"
    """`linear` (warm-up, then decay to zero) or `constant`."""
    warmup_ratio: float = 0.1
    """Share of the training steps spent on warm-up."""
    batch_size: int = 32
    """Rows per step."""
    epochs: int = 3
    """Maximum number of epochs."""
    patience: int | None = None
    """Stop after this many epochs without an improvement; null: never."""
    gradient_clip: float = 1.0
    """Maximum norm of the gradient."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights, which is then evaluated and saved; null: no average."""
    heldout: float = 0.1
    """Share of the training rows held out to pick the best epoch, split by context and stratified by label."""
    loss: str = "cross_entropy"
    """Loss of each row, from its logits and its target: `cross_entropy`, `smoothed` (label smoothing), `gce`
    (generalised), `sce` (symmetric) or `rce` (reverse cross-entropy), or your own `module:function`. A step minimises
    their mean, weighted where rows have weights."""
    ensembling: float | None = None
    """Temporal ensembling: weight of the pull towards the moving average of the model's own predictions. Rows to whose
    label that average gives less than 0.8 are left out; null: off. Not for question answering."""
    ensembling_steps: int = 100
    """Steps after which the model predicts its training rows again for that average."""


@dataclass
class DecodingConfig:
    top_p: float = 0.9
    """Nucleus sampling: sample among the most probable tokens that together have this probability; 1 is off."""
    top_k: int = 0
    """Sample among the k most probable tokens; 0 is off, 1 is greedy."""
    temperature: float = 1.0
    """The logits are divided by it before sampling."""
    batch_size: int | None = None
    """Rows decoded at a time, counter-prompts included; null: as memory allows, up to 192 on a CPU, 2,048 on a GPU."""
    chunk_size: int = 512
    """Maximum number of requests per chunk, the unit of resuming; the first chunks are smaller: 64, 128, 256, ..."""


@dataclass
class FilterConfig:
    min_words: int | None = None
    """Minimum number of words; null: that of the task. In scripts without spaces each character counts as a word."""
    max_words: int | None = None
    """Maximum number of words; null: no maximum."""
    duplicates: bool = False
    """Accept texts that were generated before, under the same or another label. Of pairs and questions, only texts with
    the same context are compared, since elsewhere they mean something else."""
    min_acceptance: float = 0.02
    """Stop the run if the share of accepted texts of a label stays below this."""
    patience: int = 512
    """Number of latest requests of a label over which that share is taken."""
    round_trip: float | None = None
    """Questions: the PLM is asked each of them over its passage (PROMPTING), and one is rejected where the F1 of what
    it answers with the answer that was asked for is below this; 0 only stores its answer; null: it is not asked."""
    functions: list[str] = field(default_factory=list)
    """Further filters, each a `module:function` that takes a row and this group and returns a reject reason or None."""


FEWEST_UNLABELLED = 50  # texts of which something can be learned
ENOUGH_LABELLED = 500  # texts to which self_training.synthetic=auto adds no synthetic rows
CALIBRATIONS_ON_TEXTS = ("priors", "em")  # which need unlabelled texts


@dataclass
class SettingConfig:
    name: str = "???"
    """`supervised`, `prompting`, `similarity`, `zerogen`, or your own `module:attribute`, a `Setting`."""
    scope: str = "prompt"
    """PROMPTING: mean log-probability of the whole filled `prompt` (as in the paper), or of the `text` X and what
    follows it, given what precedes it."""
    calibration: str = "none"
    """What is done to the scores of labels. `prior`: subtract the log-probability of the prompt without a text
    (PROMPTING). With `unlabelled` texts: `priors` shifts the scores of labels (of a trained TAM in its weights) so
    that the texts have them as often as task.priors says; `em` so that they have them as often as expectation
    maximisation estimates. `none`: nothing."""
    prompts: str = "first"
    """PROMPTING: score by `first`, the prompts of task.scoring alone, or `all`, those of task.further_scoring too,
    whose scores are averaged."""


@dataclass
class SelfTrainingConfig:
    rounds: int = 0
    """Rounds in which teachers label `unlabelled` texts, and a fresh TAM is trained on those that they are surest of; 0
    is off."""
    teachers: list[str] = field(default_factory=lambda: ["prompting", "similarity", "tam"])
    """What labels them, each shifted to task.priors and on the same scale: `prompting` (the PLM), `similarity` (the
    untrained TAM's encoder) and `tam` (the model of the round before, at first that of the synthetic rows)."""
    share: float = 0.5
    """Share of the unlabelled texts that a round trains on, of each label as many as its prior says."""
    synthetic: Any = True
    """Whether it also trains on the synthetic rows: true, false, or `auto`: where fewer than 500 texts are labelled."""


TOKENIZERS = ("auto", "13a", "zh", "ja-mecab", "char", "spacy")


@dataclass
class DiversityConfig:
    self_bleu_texts: int = 1000
    """Number of texts that Self-BLEU compares with each other, drawn at random if there are more."""
    tokenizer: str = "auto"
    """Splits texts for Self-BLEU and distinct n-grams: sacrebleu's `13a`, `zh` (Chinese), `ja-mecab` (Japanese; needs
    `pip install 'sacrebleu[ja]'`) or `char` (characters), or `spacy` (blank English, as in the paper). `auto` goes by
    the script of most of the text: zh for Han; ja-mecab, or char if that is not installed, for kana; char for Thai,
    Lao, Khmer, Burmese and Tibetan; otherwise 13a."""


@dataclass
class CorrectnessConfig:
    evaluator: str | None = None
    """A model that is trained on all gold training rows (a SUPERVISED run of its own, reused) and then judges the
    labels of synthetic rows: a bundled `tam` option such as `minilm` or `roberta-large` (the paper's), a Hub id or a
    folder; null: labels are not judged."""
    rows: int = 10000
    """Maximum number of synthetic rows that it judges, a stratified sample."""


@dataclass
class ConfidenceConfig:
    rows: int = 10000
    """Maximum number of rows that the PLM scores again under each label's prompt, a stratified sample; 0 is off."""


@dataclass
class LoggerConfig:
    name: str = "csv"
    """`csv` (losses of every training, always written), `tensorboard` or `wandb` (Weights & Biases)."""
    mode: str | None = None
    """Weights & Biases: `online`, `offline` or `off`; null: as WANDB_MODE says, else online."""


@dataclass
class EngineConfig:
    name: str = "local"
    """What writes the rows: `local` (this process, or one per GPU of `gpu` or as many as `processes` says), `ray` (the
    actors of a Ray cluster) or `lightning` (all processes that torchrun or srun has started)."""
    nodes: int = 1
    """Lightning: number of nodes, as torchrun or srun was told."""
    address: str | None = None
    """Ray: address of the cluster; null: as RAY_ADDRESS says, else the one that runs on this machine, else a new one on
    this machine alone."""
    workers: int | None = None
    """Ray: number of actors that write, each with the whole PLM; null: as many as the cluster has room for."""
    cpus: int | None = None
    """Ray: cores that each actor takes, and its threads; null: as many threads as this machine would use."""
    # Where processes exchange chunks, once they are started; not a key.
    folder: str = field(default="", metadata={"omegaconf_ignore": True})


@dataclass
class PoolConfig:
    repair: bool = False
    """Write again what follows a damaged line of a pool, and keep the damaged file beside; false: name the line and
    stop. A last line that is not whole, as a killed run leaves it, is always written again."""


@dataclass
class Config:
    task: TaskConfig = field(default_factory=TaskConfig)
    setting: SettingConfig = field(default_factory=SettingConfig)
    plm: PlmConfig = field(default_factory=PlmConfig)
    tam: TamConfig = field(default_factory=TamConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    diversity: DiversityConfig = field(default_factory=DiversityConfig)
    correctness: CorrectnessConfig = field(default_factory=CorrectnessConfig)
    confidence: ConfidenceConfig = field(default_factory=ConfidenceConfig)
    self_training: SelfTrainingConfig = field(default_factory=SelfTrainingConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    method: str = "default"
    """a group of its own: what several keys are set to, by the name that tables have for it"""
    n: int = 2000
    """accepted synthetic examples in all, an equal share per label"""
    log_every: int | None = None
    """train and evaluate a fresh TAM at every multiple of it, and at n"""
    seed: int = 42
    """the run's seed"""
    seeds: list[int] | None = None
    """a list of seeds, [0,1,2]: one full run each, and their mean and standard deviation"""
    gpu: Any = "auto"
    """auto (one that no other run has), none, the index of a GPU, or a list of them: all write, the first one trains"""
    processes: int = 1
    """number of processes that write texts side by side on a CPU, each with the whole PLM in memory"""
    data_dir: str | None = None
    """read gold data from {train,validation,test}.{jsonl,csv,parquet} in DATA_DIR/<task>, not from the task's source"""
    contexts: str | None = None
    """where contexts come from: plm, gold (unlabelled texts of the gold training split) or a file"""
    answers: str | None = None
    """question answering: where answers come from: auto, spacy, rules or gold"""
    questions: str | None = None
    """question answering: who asks: plm, template (rules for English, no PLM) or mixed; by default as the task says"""
    pairs: str | None = None
    """pairs: who makes them: plm, construct (rules for English, no PLM) or mixed; by default as the task says"""
    unlabelled: str | None = None
    """texts without labels: a file (.txt, .jsonl, .csv, .tsv, .parquet), or gold (those of the gold training split)"""
    unlabelled_limit: int | None = None
    """maximum number of those texts, a sample that is the same for every seed"""
    unlabelled_column: str | None = None
    """the column of the text in that file; by default that of the gold data, or text"""
    dataset: Any = None
    """train on this synthetic file (JSONL with C, X, Y or label; for questions SQuAD's columns) or datasets folder
    instead of generating; or on a list of them, as of several PLMs"""
    dataset_labels: Any = None
    """labels of an integer Y in that file, such as {0: positive, 1: negative}"""
    demonstrations: str = "none"
    """setting=zerogen: what stands before a prompt: none, random (rows of the label accepted so far), influence (of
    these the most helpful), unlabelled (texts of unlabelled), or what your own module:function chooses"""
    select: list[str] = field(default_factory=list)
    """setting=zerogen: what selects, relabels or weighs rows before training, in order: confidence, logprob, margin,
    round_trip (rank them), asked (label and rank them anew by PROMPTING in all ways), relabel, soft, unigen,
    weigh, cross_fitted, sungen, fusegen, or your own as [module:function]"""
    scoring_demonstrations: int = 0
    """more ways of asking, with the last set of scoring prompts: each first shows one text per label, of those that
    PROMPTING is surest of (Wan et al. 2023); from the unlabelled texts or, for select=[asked], the generated ones"""
    overgenerate: float = 1.0
    """setting=zerogen: how many times n rows are generated; of each label, those that select puts first are kept"""
    gold_rows: Any = None
    """setting=zerogen: a few gold rows that it may use, a number of the gold training split or a file: half of them are
    trained on, the others pick the best epoch"""
    gold_weight: float = 1.0
    """weight of each of those rows in training, where a synthetic one has 1"""
    limit: int | None = None
    """size of a seeded stratified sample of the training rows (of the synthetic file; in setting=supervised of gold)"""
    eval_limit: int | None = None
    """size of a stratified sample of the gold rows that results are reported on, the same for every seed"""
    metrics: list[str] = field(default_factory=list)
    """further metrics to report: your own as [module:attribute], each a zerogen.metrics.Metric"""
    train: bool = True
    """false: only evaluate tam.checkpoint=FOLDER; in setting=zerogen without a checkpoint, only generate"""
    output_dir: str = "outputs"
    """folder of all results"""
    dry_run: bool = False
    """only look at what is there, probe 32 requests and say what to expect of the run; write nothing"""
    on_error: str = "continue"
    """of several runs, what follows one that fails: `continue` with the others, or `stop`"""
    # The words of the command line that say what to run; kept with the result, not a key.
    command: list[str] = field(default_factory=list, metadata={"omegaconf_ignore": True})
    # What Hydra's group hydra/launcher says of how a command's jobs are started, empty for one after the other; no key.
    launcher: dict[str, Any] = field(default_factory=dict, metadata={"omegaconf_ignore": True})
