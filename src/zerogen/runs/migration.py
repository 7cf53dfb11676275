"""Former names of pools and run folders, so that existing folders stay usable.

Version 0.1 hashed whole configurations, as they were then. What has keys of later versions set has no such name.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogen.config.schema import Config
from zerogen.config.task_schema import GoldConfig
from zerogen.data.gold import source_of
from zerogen.generation.extractors import provenance
from zerogen.runs.identity import changes, plm_key
from zerogen.support.doors import is_own
from zerogen.support.hashes import digest
from zerogen.support.weights import fingerprint, resolve, tam_folder

if TYPE_CHECKING:
    import torch

_POOL_FORMAT, _RUN_FORMAT = 6, 8
_FIELDS = {
    "ParseConfig": "stop must_end fallback",
    "StopConfig": "text keep",
    "ContextConfig": "source prompt max_new_tokens per_label",
    "DebiasConfig": "decay epsilon",
    "HoldoutConfig": "rows seed",
    "GoldConfig": "hub files folder package splits evaluate_on separator text context label answers uid labels where "
    "cleaning holdout",
    "TamConfig": "name kind model revision dtype checkpoint embedding hidden dropout vectors vocabulary",
    "TrainerConfig": "optimizer lr weight_decay schedule warmup_ratio batch_size epochs patience gradient_clip ema "
    "heldout",
    "DecodingConfig": "top_p top_k temperature batch_size chunk_size",
    "FilterConfig": "min_words max_words duplicates min_acceptance patience",
    "SettingConfig": "name scope calibration",
}
_TASK = "name kind labels prompts scoring context parse debias max_new_tokens max_length min_words order answers"
_TASK += " answer_tokens gold gold_source"
# Of a task, where no key of a later version asks for them.
_UNREAD = "further_scoring descriptions priors construction rewording prompts_chat"
_CONFIG = "task setting plm tam decoding filter trainer diversity correctness confidence logger n log_every seed seeds"
_CONFIG += " gpu processes data_dir contexts answers dataset dataset_labels limit eval_limit train output_dir dry_run"
_CONFIG += " command"
_SPREAD = "method questions pairs"  # what only says how other keys are set
_HOW = "on_error pool engine launcher"  # of running it


class _Later(Exception):
    """A key of a later version is set."""


def former_pool_key(config: Config, device: torch.device) -> dict[str, Any] | None:
    """Return what the name of a pool was the hash of; None where there was no such pool."""
    try:
        return _pool_key(config, device)
    except _Later:
        return None


def former_run_key(config: Config, device: torch.device) -> dict[str, Any] | None:
    """Return what the name of a run folder was the hash of; None where there was no such run."""
    try:
        return _run_key(config, device)
    except _Later:
        return None


def _refuse_later(value: Any, names: str) -> None:
    if set(changes(value)) - set(names.split()):
        raise _Later


def _whole(value: Any) -> Any:
    """Return all fields that a dataclass had, as `asdict` does."""
    if isinstance(value, (list, tuple)):
        return [_whole(item) for item in value]
    if type(value).__name__ not in _FIELDS:
        return value
    names = _FIELDS[type(value).__name__]
    _refuse_later(value, names)
    return {field.name: _whole(getattr(value, field.name)) for field in fields(value) if field.name in names.split()}


def _pool_key(config: Config, device: torch.device) -> dict[str, Any]:
    task = config.task
    _refuse_later(task, f"{_TASK} {_UNREAD}")
    if config.demonstrations != Config.demonstrations:
        raise _Later
    _refuse_later(config.plm, "name model revision dtype")
    return {
        "format": _POOL_FORMAT,
        "task": [task.name, task.labels, task.prompts, task.max_new_tokens],
        "kind": [task.kind, task.min_words],
        "context": _given_key(config),
        "parse": _whole(task.parse),
        "debias": _whole(task.debias),
        "plm": plm_key(config, device),
        "decoding": _whole(config.decoding),
        "filter": _whole(config.filter),
        "seed": config.seed,
    }


def _given_key(config: Config) -> Any:
    task = config.task
    context = task.context
    if context is None:
        return None
    key = _whole(replace(context, prompt_chat=""))  # which no earlier version read
    if context.source == "plm":
        return key
    answers = provenance(task.answers) if task.kind == "qa" else None
    gold = source_of(task)
    if context.source != "gold":
        key["source"] = [digest(context.source), gold.context if gold else None, *(_separator(gold) if gold else ())]
    key["answers"] = answers
    if gold is not None and "gold" in (context.source, answers):
        split = gold.splits.get("train", "train")
        read = [gold.text, gold.context, gold.answers, gold.where, gold.cleaning, _whole(gold.holdout)]
        key["gold"] = {
            "from": [gold.hub, digest(gold.folder or ""), gold.package, digest(gold.files.get(split, "")), split],
            "read": [*read, *_separator(gold)],
        }
    return key


def _separator(gold: GoldConfig) -> list[str]:
    return [] if gold.separator == "," else [gold.separator]


def _run_key(config: Config, device: torch.device) -> dict[str, Any]:
    from zerogen.tam.tam import uses_bfloat16
    from zerogen.tam.vectors import word_list

    task, tam = config.task, config.tam
    measured = "unlabelled unlabelled_column unlabelled_limit" if config.setting.name == "zerogen" else ""
    _refuse_later(config, f"{_CONFIG} {_SPREAD} {_HOW} metrics {measured}")  # which name no folder
    shifted = config.setting.name == "zerogen" and config.setting.calibration != "none"
    if is_own(config.setting.name) or shifted:
        raise _Later
    _refuse_later(task, f"{_TASK} {_UNREAD} questions pairs")  # which name the pool
    gold = source_of(task)
    if gold is not None:
        files = {split: digest(path) for split, path in gold.files.items()}
        gold_key = _whole(gold) | {"files": files, "folder": digest(gold.folder or "")}
        if not _separator(gold):
            del gold_key["separator"]
    key: dict[str, Any] = {
        "format": _RUN_FORMAT,
        "gold": None if gold is None else gold_key,
        "task": [task.kind, task.order, task.answer_tokens],
        "eval": [config.eval_limit, "of every seed" if config.eval_limit else None, task.labels],
        "device": device.type,
    }
    if config.setting.name == "prompting":
        return key | {"plm": plm_key(config, device), "scoring": task.scoring, "setting": _whole(config.setting)}
    if tam.checkpoint:
        return key | {"checkpoint": digest(str(tam_folder(Path(tam.checkpoint)))), "dtype": tam.dtype}
    if config.train:
        vectors = Path(tam.vectors or "")
        if vectors.suffix == ".npy":
            key["words"] = digest(str(word_list(vectors) or ""))
        weights = "" if tam.model is None else fingerprint(resolve(tam.model, tam.revision, "tam.model"))
        key |= {"weights": weights, "tam": _whole(tam), "trainer": _whole(config.trainer)}
        key |= {"half": uses_bfloat16(tam.dtype, device), "vectors": digest(tam.vectors or "")}
    key |= {"seed": config.seed, "max_length": task.max_length}
    if config.setting.name == "supervised":
        return key | {"limit": config.limit}
    if config.dataset:
        if not isinstance(config.dataset, str):
            raise _Later
        labels = {str(value): label for value, label in config.dataset_labels.items()}
        return key | {"dataset": digest(config.dataset), "labels": labels, "limit": config.limit}
    return key | {"pool": _pool_key(config, device)}
