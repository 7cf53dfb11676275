"""Typed schema of a task: what can stand in a task's YAML file, with defaults and help."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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
    """A text that does not end with this is rejected: `?` for questions."""
    fallback: str = "none"
    """What happens to a row without a stop string: `none` rejects it as unfinished, `sentence` cuts it at the first
    newline or else after its last full stop."""


@dataclass
class ContextConfig:
    source: str = "plm"
    """`plm` writes them (stage 1), `gold` takes the contexts of the gold training split without their labels, anything
    else is a file: .txt with one per line, or .jsonl, .csv, .tsv, .parquet with the context column of the gold data."""
    prompt: str = ""
    """Prompt of stage 1; what the PLM writes after it, up to the closing quote, is a context."""
    prompt_chat: str = ""
    """The user's turn in place of `prompt` where the PLM is asked as in a chat."""
    max_new_tokens: int = 10
    """Maximum number of tokens of a context; one without its closing quote by then is rejected."""
    per_label: int = 4
    """Number of texts requested per context and label; in question answering, per context and answer."""


@dataclass
class DebiasConfig:
    decay: float = 0.0
    """Self-debiasing: how strongly tokens that the other labels' prompts favour more are suppressed; 0 is off."""
    epsilon: float = 0.01
    """The smallest factor by which the probability of a token is multiplied."""


@dataclass
class ContrastConfig:
    guidance: float = 1.0
    """Contrast (classifier-free guidance): above 1, tokens that the label's own prompt favours over those of the other
    labels become more probable the more it does, by their ratio to the power of guidance - 1; 1 is off."""
    floor: float = 0.001
    """Tokens whose probability after the own prompt is below this share of the most probable token's are not drawn."""


@dataclass
class HoldoutConfig:
    rows: int = 1000
    """Number of unique texts moved from the training split to the validation split, those of a context together."""
    seed: int = 0
    """Seed of the hash that picks them."""


@dataclass
class GoldConfig:
    hub: dict[str, Any] = field(default_factory=dict)
    """Arguments of `datasets.load_dataset` (`path`, `name`, `revision`, ...) for a dataset on the Hub."""
    files: dict[str, str] = field(default_factory=dict)
    """Map from split name to a .jsonl, .csv, .tsv or .parquet file."""
    folder: str | None = None
    """Folder written by `save_to_disk` of a `DatasetDict`, or of a `Dataset`, which is then the training split."""
    package: str | None = None
    """`NAME/path/inside/it.csv`: a file of an installed Python package, used as the training split."""
    splits: dict[str, str] = field(default_factory=dict)
    """Map from our split (train, validation, test) to its name in the source, where they differ."""
    evaluate_on: str = "validation"
    """The split that results are reported on."""
    separator: str = ","
    """Separator of the columns of a .csv file, such as `";"` or `"\\t"`."""
    text: str = "text"
    """Column of the text."""
    context: str | None = None
    """Column of the other text of a pair, or of the passage that holds the answers."""
    label: str = "label"
    """Column of the label."""
    answers: str = "answers"
    """Column of the reference answers, {text: [...], answer_start: [...]} as in SQuAD."""
    uid: str | None = None
    """Column that identifies a row; by default rows are numbered."""
    labels: dict[Any, str] = field(default_factory=dict)
    """Map from gold value to label name; may be left out where the column holds label names."""
    where: dict[str, Any] = field(default_factory=dict)
    """Keep only rows whose columns have these values: a value, or a list of allowed values."""
    cleaning: dict[str, str] = field(default_factory=dict)
    """Map from regular expression to replacement, applied in this order to each text; then white space is collapsed."""
    holdout: HoldoutConfig | None = None
    """Split a validation set off the training split, for sources without one; duplicate texts are dropped."""


@dataclass
class TaskConfig:
    name: str = "???"
    """Name of the task, part of the names of folders and files."""
    kind: str = "classification"
    """`classification` of a text, `pair` (of a text and its context), or `qa` (the answer to the text, a question, is a
    span of its context)."""
    labels: list[str] = field(default_factory=list)
    """Label names; their order defines the integer `Y` of exported rows. Not for question answering."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Map from label to the prompt after which the PLM writes a text X of that label; may contain `<C>` and `<A>`. In
    question answering there is one, `question`, with `<C>` and the answer `<Y>`."""
    prompts_chat: dict[str, str] = field(default_factory=dict)
    """Map from label to the user's turn in place of `prompts` (and of all further ones) where the PLM is asked as in a
    chat; may contain `<C>` and `<A>`, in question answering `<C>` and `<Y>`. Its answer begins with the quote that
    `parse.stop` closes."""
    further_prompts: list[dict[str, str]] = field(default_factory=list)
    """Further sets of prompts, each a map from label to prompt: for each text the seed draws one of all sets, and
    counter-prompts are of the same set. Not for question answering."""
    attributes: dict[str, list[str]] = field(default_factory=dict)
    """Map from the name of an attribute, such as `length`, to its values: for each text the seed draws a value of every
    attribute, and they replace `<A>` in its prompt and counter-prompts, joined by commas."""
    scoring: dict[str, str] = field(default_factory=dict)
    """Map from label to the prompt that setting=prompting scores once it is filled; must contain `<X>`, may contain
    `<C>`. In question answering there is one, `question`, after which the PLM writes the answer."""
    further_scoring: list[dict[str, str]] = field(default_factory=list)
    """Further sets of scoring prompts, each a map from label to prompt: used by self-training, and by setting=prompting
    with setting.prompts=all. Where the prompts of a set begin alike up to the text, what follows it is scored."""
    descriptions: dict[str, list[str]] = field(default_factory=dict)
    """Map from label to sentences that a text of it is like, such as `this film is great, i loved it`, for
    setting=similarity; a label without any is described by its scoring prompt (or prompt) without the placeholders."""
    priors: dict[str, float] = field(default_factory=dict)
    """Map from label to the share of texts that have it, where setting.calibration=priors; equal shares by default."""
    context: ContextConfig | None = None
    """Stage 1; to be left out if the prompts need no `<C>`."""
    parse: ParseConfig = field(default_factory=ParseConfig)
    """Where a generated text ends."""
    debias: DebiasConfig = field(default_factory=DebiasConfig)
    """Self-debiasing of the generated text, with the other labels' prompts as counter-prompts."""
    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    """Contrast of the generated text with the other labels' prompts, in place of self-debiasing."""
    max_new_tokens: int = 40
    """Maximum number of tokens of a generated text."""
    max_length: int = 128
    """Maximum number of tokens that the TAM reads: of a text, a pair, or a question with a window of its passage."""
    min_words: int = 10
    """Minimum number of words of a generated text, unless filter.min_words overrides it. In scripts without spaces
    (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan) each character counts as a word."""
    order: list[str] = field(default_factory=lambda: ["context", "text"])
    """The order in which the TAM reads the two texts of a pair."""
    answers: str = "auto"
    """Where the answers of generated questions come from: `spacy` (named entities; for questions by template also noun
    phrases), `rules` (numbers, dates, names and noun phrases; needs nothing), `gold` (those of the gold training
    split), `auto` (spacy if its model is installed, else rules)."""
    questions: str = "plm"
    """Who asks generated questions: `plm` by the prompts, `template` (rules for English turn the clause that holds the
    answer into a question) or `mixed` (either, one as likely as the other)."""
    pairs: str = "plm"
    """Who makes generated pairs: `plm` by the prompts, `construct` (rules for English make them of given contexts, see
    construction) or `mixed` (either, one as likely as the other)."""
    construction: dict[str, list[str]] = field(default_factory=dict)
    """Map from label to the ways, one or more of them, in which pairs of it are constructed: `question` (a sentence and
    a question that it answers), `question_of_another` (that question and a similar sentence); `shortened`,
    `apposition`, `negated`, `other_number`, `other_name`, `antonym` (a passage and one of its sentences, changed so),
    `similar` (and a sentence of another passage); `plm` (a passage and what the PLM writes by the label's prompt); or
    your own `module:function`."""
    rewording: str = "auto"
    """What becomes of questions that rules make: words are left out, and some are replaced by `similar` words of the
    passages (the untrained TAM's encoder embeds them near) or by `random` ones; `none` leaves them as they are; `auto`:
    similar where the TAM is an encoder, else random."""
    answer_tokens: int = 30
    """Maximum number of tokens of an answer."""
    gold: dict[str, GoldConfig] = field(default_factory=dict)
    """Sources of human-labelled data by name; empty for a task that has none."""
    gold_source: str | None = None
    """Which source of `gold` to read; the first one by default."""
