"""Load task definitions without Hydra, and check that their fields are valid together."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

from zerogen.config.rules import check_name
from zerogen.config.schema import FILE_ENDINGS, SPLITS, FilterConfig
from zerogen.config.task_schema import ContrastConfig, DebiasConfig, GoldConfig, TaskConfig
from zerogen.config.template import placeholders, render
from zerogen.config.yaml_files import texts_of
from zerogen.errors import UserError, nearest, unknown
from zerogen.support.files import expanded
from zerogen.support.surrogates import refuse_surrogates

# The arguments of load_dataset that select data; not the split, which we set, nor a token, which no file may hold.
HUB_ARGUMENTS = ("path", "name", "data_dir", "data_files", "revision", "cache_dir")

KINDS = ("classification", "pair", "qa")
ANSWERS = ("auto", "spacy", "rules", "gold")
MADE_BY = {"qa": ("questions", ("plm", "template", "mixed")), "pair": ("pairs", ("plm", "construct", "mixed"))}
REWORDINGS = ("auto", "similar", "random", "none")
QUESTION = "question"  # the only label in question answering, and so the key of its prompt


def override(
    task: TaskConfig,
    data_dir: str | None,
    contexts: str | None,
    answers: str | None,
    questions: str | None = None,
    pairs: str | None = None,
) -> None:
    """Replace what a task says of its data and of who writes with the run's keys of these names, if set.

    Raises `UserError` for a key that the task has no use for, and for files that do not exist.
    """
    if data_dir is not None:
        if not task.gold:
            raise UserError(f"data_dir={data_dir}: task '{task.name}' has no gold source that names the columns")
        name = task.gold_source or next(iter(task.gold))
        if name not in task.gold:
            raise unknown(f"task '{task.name}': gold_source", name, task.gold)
        folder = Path(data_dir) / task.name
        if not folder.is_dir():
            raise UserError(f"data_dir={data_dir}: there is no folder {folder}")
        files: dict[str, str] = {}
        for path in (folder / f"{split}{ending}" for split in SPLITS for ending in FILE_ENDINGS):
            if path.is_file():
                if path.stem in files:
                    raise UserError(f"data_dir={data_dir}: {files[path.stem]} and {path} are both there; keep one")
                files[path.stem] = str(path)
        if not files:
            raise UserError(
                f"data_dir={data_dir}: {folder} holds none of train, validation and test as .jsonl, .csv, .tsv or "
                ".parquet"
            )
        task.gold, task.gold_source = {"data_dir": from_files(task.gold[name], files)}, None
    if contexts is not None:
        if task.context is None:
            raise UserError(f"contexts={contexts}: task '{task.name}' has no context")
        if contexts not in ("plm", "gold") and not Path(contexts).is_file():
            near = nearest(contexts, ("plm", "gold"))
            found = "is a folder" if Path(contexts).is_dir() else "there is no such file"
            raise UserError(f"contexts={contexts}: {found}; allowed are plm, gold or a file{near}")
        task.context.source = contexts
    if answers is not None:
        if task.kind != "qa":
            raise UserError(f"answers={answers}: task '{task.name}' is not about question answering")
        task.answers = answers
    for key, value, kind in (("questions", questions, "qa"), ("pairs", pairs, "pair")):
        if value is not None and (task.kind == kind or value != "plm"):  # which is how all other tasks are written
            if task.kind != kind:
                raise UserError(f"{key}={value}: task '{task.name}' is {task.kind}; allowed is plm")
            setattr(task, key, value)


def from_files(gold: GoldConfig, files: dict[str, str]) -> GoldConfig:
    """Return a gold source with its columns, labels and cleaning, but files by split in place of where it reads."""
    return replace(gold, hub={}, folder=None, package=None, files=files, splits={}, holdout=None)


def prompts_of(task: TaskConfig) -> dict[str, dict[str, str]]:
    """Return every set of prompts after which texts are written, by its key in the task."""
    return {"prompts": task.prompts} | {f"further_prompts[{i}]": more for i, more in enumerate(task.further_prompts)}


def made_by(task: TaskConfig) -> str:
    """Return how rows of a task come about: `plm`, `template`, `construct` or `mixed`."""
    return {"qa": task.questions, "pair": task.pairs}.get(task.kind, "plm")


def making(task: TaskConfig) -> str:
    """Return who makes the rows of a pair or question task as the user writes it: `pairs=construct`."""
    return f"{MADE_BY[task.kind][0]}={made_by(task)}"


def plm_writes(task: TaskConfig) -> bool:
    """Tell whether a PLM writes any of the rows of a task; else rules make all of them."""
    made = made_by(task)
    return made in ("plm", "mixed") or (made == "construct" and _constructs_by_plm(task))


def _constructs_by_plm(task: TaskConfig) -> bool:
    """Tell whether the PLM is among the ways of a label."""
    return any("plm" in ways for ways in task.construction.values())


def asks_plm(task: TaskConfig, filters: FilterConfig) -> bool:
    """Tell whether a PLM writes or checks any of the rows of a task."""
    return plm_writes(task) or filters.round_trip is not None


def counters_of(task: TaskConfig) -> DebiasConfig | ContrastConfig | None:
    """Return what the other labels' prompts do to a text while it is written, None where they do nothing."""
    if task.contrast.guidance != 1:
        return task.contrast
    return task.debias if task.debias.decay else None


def descriptions_of(task: TaskConfig) -> dict[str, list[str]]:
    """Return sentences that describe each label: those of the task, else its scoring prompt, else its prompt.

    Of a prompt, placeholders and what only surrounds them (quotes, colons) are left out; a label without any prompt is
    described by its name.
    """
    described = {}
    for label in task.labels:
        prompt = task.scoring.get(label) or task.prompts.get(label) or label
        bare = render(prompt, dict.fromkeys(placeholders(prompt), "")).replace('""', "").strip(" \n\"':")
        described[label] = task.descriptions.get(label) or [" ".join(bare.split()) or label]
    return described


def priors_of(task: TaskConfig) -> list[float]:
    """Return the share of texts of each label, equal ones unless the task says others."""
    return [task.priors.get(label, 1 / len(task.labels)) for label in task.labels]


def expand_paths(task: TaskConfig) -> None:
    """Replace `~` in the task's paths with the home folder. Raises `UserError` for a user who does not exist."""
    for name, gold in task.gold.items():
        where = f"task '{task.name}': gold.{name}"
        gold.files = {split: expanded(path, f"{where}.files.{split}") for split, path in gold.files.items()}
        if gold.folder is not None:
            gold.folder = expanded(gold.folder, f"{where}.folder")
    if task.context is not None:
        task.context.source = expanded(task.context.source, f"task '{task.name}': context.source")


def normalise_task(task: TaskConfig) -> None:
    """Check labels, prompts and gold sources against each other, and give question answering its only label.

    Raises `UserError` naming task, field and value.
    """
    where = f"task '{task.name}'"
    check_name("task.name", task.name)
    for key, text in texts_of(asdict(task)):
        refuse_surrogates(text, f"{where}: {key}")
    if task.kind not in KINDS:
        raise unknown(f"{where}: kind", task.kind, KINDS)
    if task.kind == "qa" and task.labels in ([], [QUESTION]):
        task.labels = [QUESTION]  # the PLM writes nothing else
    _check_labels(task, where)
    context = {"C"} if task.kind != "classification" else set[str]()
    answer = {"Y"} if task.kind == "qa" else set[str]()
    _check_sets(task, where, "prompts", [task.prompts, *task.further_prompts], context | answer, {"A", "C"} | answer)
    _check_prompts(task, where, "prompts_chat", task.prompts_chat, context | answer, {"A", "C"} | answer)
    _check_sets(task, where, "scoring", [task.scoring, *task.further_scoring], {"X"}, {"X"} | context)
    _check_attributes(task, where)
    _check_descriptions(task, where)
    _check_priors(task, where)
    _check_context(task, where)
    _check_sizes(task, where)
    if task.gold_source is not None and task.gold_source not in task.gold:
        raise unknown(f"{where}: gold_source", task.gold_source, task.gold)
    for name, gold in task.gold.items():
        _check_gold(gold, f"{where}: gold.{name}", task)
    _check_making(task, where)


def _check_labels(task: TaskConfig, where: str) -> None:
    if task.kind == "qa":
        if task.labels != [QUESTION]:
            raise UserError(f"{where}: labels={task.labels}: question answering has none; leave them out")
        if task.answers not in ANSWERS:
            raise unknown(f"{where}: answers", task.answers, ANSWERS)
        for key, value, off in (
            ("debias.decay", task.debias.decay, 0),
            ("contrast.guidance", task.contrast.guidance, 1),
        ):
            if value != off:
                raise UserError(f"{where}: {key}={value}: needs labels; question answering has none")
    elif len(task.labels) < 2 or len(set(task.labels)) != len(task.labels):
        raise UserError(f"{where}: labels={task.labels}: allowed is a list of two or more different names")
    elif blank := [label for label in task.labels if not label.strip()]:
        raise UserError(f"{where}: labels={task.labels}: '{blank[0]}' is blank; allowed are names")


def _check_sets(
    task: TaskConfig, where: str, field: str, sets: list[dict[str, str]], needed: set[str], allowed: set[str]
) -> None:
    """Check the prompts of a field and those of its further sets, which question answering has none of."""
    first, *further = sets
    _check_prompts(task, where, field, first, needed, allowed)
    for number, prompts in enumerate(further):
        _check_prompts(task, where, f"further_{field}[{number}]", prompts, needed, allowed)
    if further and (not first or not all(further) or task.kind == "qa"):
        raise UserError(f"{where}: further_{field}: allowed are prompts for each label, beside those of {field}")


def _check_prompts(
    task: TaskConfig, where: str, field: str, prompts: dict[str, str], needed: set[str], allowed: set[str]
) -> None:
    """Check that there is a prompt for each label, or none at all: the setting that needs prompts refuses none."""
    for label in task.labels if prompts else ():
        if label not in prompts:
            hint = nearest(label, prompts)
            if label in ("True", "False"):
                hint = "; quote labels such as 'yes' in the file: YAML reads an unquoted yes as true"
            raise UserError(f"{where}: {field} has none for label '{label}'{hint}")
    for label, prompt in prompts.items():
        if label not in task.labels:
            raise unknown(f"{where}: {field}", label, task.labels)
        if not isinstance(prompt, str):  # OmegaConf lets pass a list where a dictionary's values are texts
            raise UserError(f"{where}: {field}.{label}={prompt}: allowed is a text")
        if not prompt.strip():
            raise UserError(f"{where}: {field}.{label} is empty")
        names = set(placeholders(prompt))
        for name in sorted(names - allowed):
            options = [f"<{option}>" for option in sorted(allowed)]
            raise unknown(f"{where}: {field}.{label}: placeholder", f"<{name}>", options)
        if needed - names:
            missing = " and ".join(f"<{name}>" for name in sorted(needed - names))
            raise UserError(f"{where}: {field}.{label}: '{prompt}' must hold {missing}")
        if "C" in names and task.context is None and "scoring" not in field:
            raise UserError(f"{where}: {field}.{label} holds <C>, but the task has no context.source or context.prompt")
        if "A" in names and not task.attributes:
            raise UserError(f"{where}: {field}.{label} holds <A>, but the task has no attributes")


def _check_attributes(task: TaskConfig, where: str) -> None:
    for name, values in task.attributes.items():
        if not values or not all(value.strip() for value in values):
            raise UserError(f"{where}: attributes.{name}={values}: allowed is a list of texts, none blank")
    if task.attributes and not _any_holds(task, "A"):
        raise UserError(f"{where}: attributes is set, but none of the prompts holds <A>")


def _any_holds(task: TaskConfig, name: str) -> bool:
    return any(name in placeholders(prompt) for prompts in prompts_of(task).values() for prompt in prompts.values())


def _check_descriptions(task: TaskConfig, where: str) -> None:
    for label, sentences in task.descriptions.items():
        if label not in task.labels:
            raise unknown(f"{where}: descriptions", label, task.labels)
        if not sentences or not all(sentence.strip() for sentence in sentences):
            raise UserError(f"{where}: descriptions.{label}={sentences}: allowed is a list of sentences, none blank")


def _check_priors(task: TaskConfig, where: str) -> None:
    if not task.priors:
        return
    for label in task.priors:
        if label not in task.labels:
            raise unknown(f"{where}: priors", label, task.labels)
    if missing := [label for label in task.labels if label not in task.priors]:
        raise UserError(f"{where}: priors has none for label '{missing[0]}'")
    total = sum(task.priors.values())
    if min(task.priors.values()) <= 0 or not math.isclose(total, 1, abs_tol=1e-6):
        raise UserError(f"{where}: priors={task.priors}: allowed are shares above 0 that sum to 1, not to {total:g}")


def _check_making(task: TaskConfig, where: str) -> None:
    """Check who makes the rows, and that there is a construction for every label where it is rules."""
    for kind, (key, allowed) in MADE_BY.items():
        value = getattr(task, key)
        if value not in (allowed if task.kind == kind else ("plm",)):
            if task.kind == kind:
                raise unknown(f"{where}: {key}", value, allowed)
            raise UserError(f"{where}: {key}={value}: allowed is plm, since its kind is {task.kind}")
    if task.rewording not in REWORDINGS:
        raise unknown(f"{where}: rewording", task.rewording, REWORDINGS)
    for label in task.construction:
        if task.kind != "pair":
            raise UserError(f"{where}: construction: makes pairs, and its kind is {task.kind}; leave it out")
        if label not in task.labels:
            raise unknown(f"{where}: construction", label, task.labels)
    if task.rewording != "auto" and task.kind == "classification":
        raise UserError(
            f"{where}: rewording={task.rewording}: changes questions, and its kind is {task.kind}; leave it out"
        )
    if made_by(task) == "plm":
        return
    key = making(task)
    if task.context is None or task.context.source == "plm":
        raise UserError(
            f"{where}: {key}: rows are made of given contexts; set contexts=FILE or gold, or "
            f"{MADE_BY[task.kind][0]}=plm"
        )
    if task.pairs == "mixed" and _constructs_by_plm(task):
        raise UserError(f"{where}: pairs=mixed: lets the PLM write half of all pairs, so no construction takes plm")
    if task.kind == "pair" and (missing := [label for label in task.labels if not task.construction.get(label)]):
        raise UserError(
            f"{where}: {key}: construction has none for label '{missing[0]}'; add construction.{missing[0]}"
        )
    made: dict[str, str] = {}
    for label, ways in task.construction.items():
        for way in dict.fromkeys(ways):
            if way != "plm" and made.setdefault(way, label) != label:
                raise UserError(
                    f"{where}: construction.{label}: {way} also makes the pairs of '{made[way]}'; allowed is one label "
                    "for each way"
                )


def _check_context(task: TaskConfig, where: str) -> None:
    if task.context is None:
        return
    by_plm = task.context.source == "plm"
    if by_plm and task.kind == "qa":
        raise UserError(
            f"{where}: context.source=plm: question answering needs given passages; allowed are gold or a file"
        )
    if by_plm and (not task.context.prompt or placeholders(task.context.prompt)):
        raise UserError(
            f"{where}: context.prompt='{task.context.prompt}': allowed is a text without placeholders, after "
            "which the PLM writes contexts; or let context.source say where they are"
        )
    if task.context.prompt_chat and (not by_plm or placeholders(task.context.prompt_chat)):
        raise UserError(
            f"{where}: context.prompt_chat='{task.context.prompt_chat}': allowed is a text without placeholders, with "
            "context.source=plm"
        )
    if task.context.source == "gold" and not any(gold.context for gold in task.gold.values()):
        raise UserError(f"{where}: context.source=gold: none of its gold sources has a context column")
    if task.context.per_label < 1 or task.context.max_new_tokens < 1:
        raise UserError(f"{where}: context.per_label and context.max_new_tokens: allowed is 1 or more")
    if not _any_holds(task, "C") and (task.prompts or made_by(task) == "plm"):
        found = "none of the prompts holds <C>" if task.prompts else "there are no prompts that hold <C>"
        raise UserError(f"{where}: context is set, but {found}")


def _check_sizes(task: TaskConfig, where: str) -> None:
    if sorted(task.order) != ["context", "text"]:
        raise UserError(f"{where}: order={task.order}: allowed is [context, text] or [text, context]")
    if task.min_words < 0 or task.answer_tokens < 1:
        raise UserError(f"{where}: allowed is min_words >= 0 and answer_tokens >= 1")
    if task.max_new_tokens < 1:
        raise UserError(f"{where}: max_new_tokens={task.max_new_tokens}: allowed is 1 or more")
    minimum = {"classification": 3, "pair": 8, "qa": 16}[task.kind]  # the special tokens, and a token of each text
    if task.max_length < minimum:
        raise UserError(f"{where}: max_length={task.max_length}: allowed is {minimum} or more for kind {task.kind}")
    if task.parse.fallback not in ("none", "sentence"):
        raise unknown(f"{where}: parse.fallback", task.parse.fallback, ("none", "sentence"))
    if not task.parse.stop or not all(stop.text for stop in task.parse.stop):
        raise UserError(f"{where}: parse.stop: allowed is a list of one or more non-empty strings")


def _check_gold(gold: GoldConfig, where: str, task: TaskConfig) -> None:
    sources = [key for key in ("hub", "files", "folder", "package") if getattr(gold, key)]
    if len(sources) != 1:
        raise UserError(
            f"{where} has {' and '.join(sources) or 'no source'}; allowed is one of hub, files, folder, package"
        )
    if gold.hub:
        if "path" not in gold.hub:
            raise UserError(f"{where}.hub has no path, the id of the dataset")
        for argument in gold.hub:
            if argument not in HUB_ARGUMENTS:
                raise unknown(f"{where}.hub", argument, HUB_ARGUMENTS)
    if task.kind != "classification" and not gold.context:
        raise UserError(f"{where}.context has no value: name the column of the context")
    for value, label in gold.labels.items():
        if label not in task.labels:
            raise unknown(f"{where}.labels.{value}", label, task.labels)
    if gold.evaluate_on not in SPLITS:
        raise unknown(f"{where}.evaluate_on", gold.evaluate_on, SPLITS)
    if len(gold.separator) != 1 or gold.separator in '"\r\n':
        raise UserError(f"{where}.separator={gold.separator!r}: allowed is one character")
    if gold.holdout is not None and gold.holdout.rows < 1:
        raise UserError(f"{where}.holdout.rows={gold.holdout.rows}: allowed is 1 or more")
