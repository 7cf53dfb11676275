"""The hashes that name pools and run folders: over all that shapes their rows, models and figures.

A configuration counts by what differs from the defaults, so that a new key whose default changes nothing renames
nothing. Files count by their content and weights by their fingerprint, wherever they lie.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogen.config.schema import CALIBRATIONS_ON_TEXTS, SERVER, Config, PlmConfig
from zerogen.config.task import asks_plm, descriptions_of, made_by, priors_of
from zerogen.config.task_schema import GoldConfig, TaskConfig
from zerogen.data.gold import source_of
from zerogen.data.unlabelled import GOLD
from zerogen.generation.demonstrations import Demonstrations
from zerogen.generation.extractors import provenance
from zerogen.generation.hypotheses import wordnet_version
from zerogen.generation.select import EMBEDDING, needs
from zerogen.runs.settings import setting_of
from zerogen.support.doors import call, is_own
from zerogen.support.doors import fingerprint as fingerprint_of_door
from zerogen.support.hashes import digest, short_hash
from zerogen.support.weights import fingerprint, resolve, tam_folder

if TYPE_CHECKING:
    import torch

POOL_FORMAT = 6  # raise it when the same configuration and seed give other rows
RULES_FORMAT = 4  # raise it when the rules make other rows of the same contexts
RUN_FORMAT = 8  # raise it when the same rows and configuration give another TAM or other metrics
PROMPTED_FORMAT = 1  # raise it when PROMPTING gives the same texts other probabilities
MEASURES_FORMAT = 2  # raise it when the same rows and configuration give other measures

# What of a task shapes the texts that the PLM writes, beside contexts and answers.
_MAKING = ("questions", "pairs")
_PROMPTING = ("prompts", "further_prompts", "debias", "contrast")
_WRITING = ("name", "kind", "labels", *_PROMPTING, *_MAKING, "parse", "max_new_tokens", "min_words")
# What of a task shapes what a TAM learns from given rows, and what is reported of it.
_LEARNING = ("kind", "labels", "order", "answer_tokens")
# What of a task a setting of the user's own may read, beside contexts, answers and gold data.
_ANY = (*_WRITING, *_LEARNING, "scoring", "further_scoring", "max_length", "descriptions", "priors")
# What of a gold source decides which contexts and answers are read from its training split.
_READING = ("text", "context", "answers", "where", "cleaning", "holdout", "separator")


def pool_key(config: Config, device: torch.device) -> dict[str, Any]:
    """Return all that shapes generated rows, and not `n`."""
    return {
        "format": POOL_FORMAT,
        "task": changes(config.task, _writing(config))
        | _attributes_key(config.task)
        | _construction_key(config, device),
        "contexts": _contexts_key(config),
        "plm": plm_key(config, device) if asks_plm(config.task, config.filter) else None,
        "decoding": changes(config.decoding),
        **_demonstrations_key(config, device),
        **_round_trip_key(config),
        "filter": changes(config.filter) | _own("functions", config.filter.functions),
        "seed": config.seed,
    }


def _writing(config: Config) -> tuple[str, ...]:
    """Return what of a task shapes texts: with those for a chat, where the PLM may be asked in one."""
    return (*_WRITING, "prompts_chat") if _may_chat(config) else _WRITING


def _may_chat(config: Config) -> bool:
    """Return whether the PLM may be asked in a chat: a server is where it has no other way."""
    return config.plm.chat is True or config.plm.writer == SERVER


def run_key(config: Config, device: torch.device) -> dict[str, Any]:
    """Return all that shapes a run's data, training and figures, and not `n` or `log_every`."""
    task, reads = config.task, setting_of(config).reads
    key: dict[str, Any] = {
        "format": RUN_FORMAT,
        "gold": _gold_key(task),
        "task": changes(task, _LEARNING),
        "eval_limit": config.eval_limit,
        "device": device.type,
    }
    if is_own(config.setting.name):
        key["own_setting"] = _own_setting_key(config, reads)
    if "tam" in reads:
        if config.tam.checkpoint:
            return key | {"checkpoint": digest(str(tam_folder(Path(config.tam.checkpoint)))), "dtype": config.tam.dtype}
        if config.train:
            key |= tam_key(config, device)
            if "trainer" not in reads and not is_own(config.setting.name):
                del key["trainer"]
        key["max_length"] = task.max_length
    if "scoring_demonstrations" in reads and config.scoring_demonstrations:
        key |= {"scoring_demonstrations": config.scoring_demonstrations, "priors": priors_of(task)}
    if "further_scoring" in reads and config.setting.prompts == "all":
        key["further_scoring"] = task.further_scoring
    if "descriptions" in reads:
        key["descriptions"] = descriptions_of(task)
    # Rows are only compared with the texts where nothing is learned from them; those that prompts show name the pool.
    calibrates = "calibration" in reads and config.setting.calibration in CALIBRATIONS_ON_TEXTS
    learns = config.setting.name != "zerogen" or config.self_training.rounds or calibrates
    if "unlabelled" in reads and config.unlabelled and learns:
        key["unlabelled"] = _unlabelled_key(config)
    if calibrates:
        way = config.setting.calibration
        key |= {"calibration": way} | ({"priors": priors_of(task)} if way == "priors" else {})
    if "seed" in reads:
        key["seed"] = config.seed
    if "self_training" in reads and config.self_training.rounds:
        teachers = sorted(config.self_training.teachers)
        key |= {"self_training": changes(config.self_training) | {"teachers": teachers}, "priors": priors_of(task)}
        if "prompting" in config.self_training.teachers:
            key["prompted"] = prompted_key(config, device)
        if "similarity" in config.self_training.teachers:
            key["descriptions"] = descriptions_of(task)
    if "gold_rows" in reads and config.gold_rows:
        key["gold_rows"] = _few_gold_key(config)
    if "select" in reads:
        key |= _own("select", config.select) | ({"overgenerate": times} if (times := config.overgenerate) != 1 else {})
        if "asked" in needs(config.select):
            key |= {"asked": prompted_key(config, device), "priors": priors_of(task)}
        if not config.train and EMBEDDING in needs(config.select):  # the encoder shapes the rows all the same
            key["embedded"] = encoder_key(config, device)
    if "dataset" in reads and config.dataset:
        labels = {str(value): label for value, label in config.dataset_labels.items()}
        files = config.dataset
        content = [digest(file) for file in files] if isinstance(files, list) else digest(files)
        key |= {"dataset": content, "labels": labels}
    elif "decoding" in reads:
        return key | {"pool": pool_key(config, device)}
    elif "plm" in reads:
        key |= {"plm": plm_key(config, device), "scoring": task.scoring, "setting": changes(config.setting)}
        if config.plm.scoring == "label_tokens":
            key["label_tokens"] = task.further_scoring
    if "limit" in reads:
        key["limit"] = config.limit
    return key


def _own_setting_key(config: Config, reads: Collection[str]) -> dict[str, Any]:
    """Identify a setting of the user's own by its code, and all of the task that it may read."""
    return {
        "code": fingerprint_of_door(config.setting.name),
        "setting": changes(config.setting),
        "task": changes(config.task, _ANY) | _attributes_key(config.task),
        "contexts": _contexts_key(config) if {"contexts", "answers"} & set(reads) else None,
        "limit": config.limit if "limit" in reads else None,
    }


def _attributes_key(task: TaskConfig) -> dict[str, Any]:
    """Identify attributes by their order, too, in which prompts hold them; the keys of a dictionary are sorted."""
    return {"attributes": list(task.attributes.items())} if task.attributes else {}


def _construction_key(config: Config, device: torch.device) -> dict[str, Any]:
    """Identify the constructions of a task that makes rows by them, those of the user's own by their code."""
    task = config.task
    if made_by(task) == "plm":
        return {}
    encoder = {"near": [encoder_key(config, device), device.type]} if rewords_by_encoder(config) else {}
    ways = {label: [fingerprint_of_door(name) for name in names] for label, names in task.construction.items()}
    key = {"rules": RULES_FORMAT, "construction": ways, "rewording": task.rewording, **encoder}
    if any("antonym" in names for names in task.construction.values()):
        key["wordnet"] = wordnet_version()
    return key


def _round_trip_key(config: Config) -> dict[str, Any]:
    """Identify how the PLM is asked questions back, if it is."""
    task = config.task
    return {} if config.filter.round_trip is None else {"asked_back": [task.scoring, task.answer_tokens]}


def rewords_by_encoder(config: Config) -> bool:
    """Tell whether the TAM's encoder finds the words by which rules replace those of questions."""
    task = config.task
    if made_by(task) == "plm" or task.rewording not in ("auto", "similar") or config.tam.kind != "encoder":
        return False
    ways = {way for ways in task.construction.values() for way in ways}
    return task.kind == "qa" or any(way in ("question", "question_of_another") or is_own(way) for way in ways)


def _own(key: str, names: Sequence[str]) -> dict[str, Any]:
    """Identify functions by their names, and those of the user's own also by their code."""
    return {key: [fingerprint_of_door(name) for name in names]} if names else {}


def plm_key(config: Config, device: torch.device) -> dict[str, Any]:
    """Identify the PLM, its arithmetic and where it computes; a user's own writer by what it says of itself.

    One that says nothing counts by its name, its file and its configuration.
    """
    from zerogen.plm.open import opener
    from zerogen.plm.pretrained import precision

    if config.plm.writer != PlmConfig.writer:
        identity = getattr(opener(config.plm), "identity", None)
        if identity is not None:
            what, writer = "identity of plm.writer", config.plm.writer
            value = call(what, writer, identity, config.plm)
            call(what, writer, short_hash, value)  # which takes JSON values only
            return {"writer": config.plm.writer, "identity": value}
        return {"writer": fingerprint_of_door(config.plm.writer), "config": changes(config.plm)}
    weights = fingerprint(resolve(config.plm.model, config.plm.revision, "plm.model"))
    chat = {"chat": True, "system": config.plm.system} if config.plm.chat is True else {}
    return {"weights": weights, "dtype": str(precision(config.plm.dtype, device)), "device": device.type, **chat}


def prompted_key(config: Config, device: torch.device) -> dict[str, Any]:
    """Return all that shapes PROMPTING's predictions of given texts as they are used for self-training."""
    task = config.task
    return {
        "format": PROMPTED_FORMAT,
        "labels": task.labels,
        "scoring": [task.scoring, *task.further_scoring],
        "plm": plm_key(config, device),
    }


def encoder_key(config: Config, device: torch.device) -> dict[str, Any]:
    """Identify the untrained encoder of the TAM and its arithmetic."""
    from zerogen.tam.tam import uses_bfloat16

    weights = fingerprint(resolve(str(config.tam.model), config.tam.revision, "tam.model"))
    return {"weights": weights, "half": uses_bfloat16(config.tam.dtype, device)}


def tam_key(config: Config, device: torch.device) -> dict[str, Any]:
    """Identify what training starts from and how it goes on."""
    from zerogen.tam.tam import uses_bfloat16
    from zerogen.tam.vectors import word_list

    tam, vectors = config.tam, Path(config.tam.vectors or "")
    own = [fingerprint_of_door(name) for name in (tam.kind, config.trainer.loss) if is_own(name)]
    return {
        "weights": tam.model and fingerprint(resolve(tam.model, tam.revision, "tam.model")),
        "tam": changes(tam),
        "trainer": changes(config.trainer),
        "half": uses_bfloat16(tam.dtype, device),
        "vectors": digest(tam.vectors or ""),
        "words": digest(str(word_list(vectors) or "")) if vectors.suffix == ".npy" else "",
        **({"own": own} if own else {}),
    }


def describe_plm(config: PlmConfig) -> str | None:
    """Name the PLM and which version of it: of its weights, or of the user's own writer."""
    if config.writer == SERVER:
        return f"{config.model}, on a server"
    if config.writer != PlmConfig.writer:
        return f"{config.model} by {fingerprint_of_door(config.writer)}"
    return describe_weights(config.model, config.revision, "plm.model")


def describe_weights(model: str | None, revision: str | None, what: str) -> str | None:
    """Name weights and which version of them: a revision of the Hub, or the fingerprint of local files."""
    if model is None:
        return None
    source = resolve(model, revision, what)
    return f"{model}@{fingerprint(source)}" if source.local else fingerprint(source)


def _contexts_key(config: Config) -> Any:
    """Identify contexts and answers by what is read of files and gold data."""
    task, context = config.task, config.task.context
    if context is None:
        return None
    key: dict[str, Any] = {"context": changes(context)}
    if context.source == "plm":
        if not _may_chat(config):
            key["context"].pop("prompt_chat", None)
        return key
    gold, answers = source_of(task), provenance(task.answers) if task.kind == "qa" else None
    if answers is not None:
        key["answers"] = answers
    if context.source != "gold":
        key["context"]["source"] = digest(context.source)
        key["read"] = None if gold is None else changes(gold, ("context", "separator"))
    if gold is not None and "gold" in (context.source, answers):
        split = gold.splits.get("train", "train")
        files = [digest(gold.folder or ""), gold.package, digest(gold.files.get(split, ""))]
        key["gold"] = {"from": [gold.hub, *files, split], "read": changes(gold, _READING)}
    return key


def _demonstrations_key(config: Config, device: torch.device) -> dict[str, Any]:
    """Identify what is shown before prompts; copies of it are rejected, which an earlier version did not do."""
    name = config.demonstrations
    if name == Config.demonstrations:
        return {}
    shown = Demonstrations.of(name)
    texts = {"shown": texts_key(config)} if shown.unlabelled else {}
    encoder = {"embedded": encoder_key(config, device)} if shown.among else {}
    return _own("demonstrations", [name]) | {"copies": "rejected"} | texts | encoder


def texts_key(config: Config) -> list[Any]:
    """Identify the unlabelled texts of a run by themselves: they lack those reported on, and gold rows that it uses."""
    used = [_few_gold_key(config), config.seed] if config.gold_rows else []
    return [_unlabelled_key(config), _gold_key(config.task), *used]


def _few_gold_key(config: Config) -> list[Any]:
    rows = config.gold_rows
    return [rows if isinstance(rows, int) else digest(rows), config.gold_weight]


def _unlabelled_key(config: Config) -> list[Any]:
    """Identify unlabelled texts by their file and how it is read; those of gold data are identified with it."""
    if config.unlabelled == GOLD:
        return [GOLD, config.unlabelled_limit]
    path = Path(str(config.unlabelled))
    return [digest(str(path)), path.suffix.lower(), config.unlabelled_column, config.unlabelled_limit]


def _gold_key(task: TaskConfig) -> Any:
    source: GoldConfig | None = source_of(task)
    if source is None:
        return None
    files = {split: digest(path) for split, path in source.files.items()}
    return changes(source) | {"files": files, "folder": digest(source.folder or "")}


def changes(value: Any, names: Collection[str] | None = None) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their defaults, by name; those of `names` alone if given."""
    found = {}
    for field in fields(value):
        mine = getattr(value, field.name)
        if (names is None or field.name in names) and mine != _default(field):
            found[field.name] = _plain(mine)
    return found


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return changes(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
