"""The cards of a run: README.md of its dataset folder and of its TAM, with headers that the Hub reads."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

from zerogen.measures.files import read_lines, read_measures
from zerogen.metrics import metric_of
from zerogen.report.finished import FinishedRun, read_run
from zerogen.report.page import headline, template
from zerogen.runs.result import asked_of_server
from zerogen.support.files import write_whole

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (float("inf"), "1M<n<10M"),
)


def write_cards(folder: Path) -> None:
    """Write the card of each of the dataset and the TAM that a run folder holds.

    Raises `UserError` for a folder that holds no finished run.
    """
    run = read_run(folder)
    if (folder / "dataset").is_dir():
        write_whole(dataset_card(run), folder / "dataset" / "README.md")
    if (folder / "tam").is_dir():
        write_whole(model_card(run), folder / "tam" / "README.md")


def dataset_card(run: FinishedRun) -> str:
    """Return what is in a synthetic dataset, how it was made and what was measured of it."""
    from huggingface_hub import DatasetCardData

    rows, counts = _counted(run)
    data = DatasetCardData(
        pretty_name=f"Synthetic data for {run.task}",
        task_categories=[_category(run)],
        size_categories=[next(name for bound, name in _SIZES if rows < bound)],
        annotations_creators=["machine-generated"],
        language_creators=["machine-generated"],
        tags=["synthetic", "zerogen"],
    )
    return template("dataset.md.jinja").render(
        _shared(run),
        header=data.to_yaml(),
        rows=rows,
        counts=counts,
        measures=read_measures(run.folder, run.task),
        counters=_has_counters(run.config["task"]),
    )


def model_card(run: FinishedRun) -> str:
    """Return what a TAM predicts, what it learned from, how good it is and what it is for."""
    from huggingface_hub import EvalResult, ModelCardData

    result, tam = run.result, run.config["tam"]
    start: str | None = tam["model"] if tam["kind"] == "encoder" else None
    if start is not None and Path(start).exists():  # a folder of this machine says nothing to others
        start = None
    split = (result.evaluated_on or "/").partition("/")[2]
    data = ModelCardData(
        model_name=f"{run.task} {tam['name']}",
        base_model=None if start is None or start.startswith("package:") else start,
        library_name="transformers" if tam["kind"] == "encoder" else "zerogen",
        pipeline_tag=_category(run),
        tags=["zerogen", *(["synthetic"] if run.setting.synthetic else [])],
        eval_results=[
            EvalResult(
                task_type=_category(run),
                dataset_type=run.task,
                dataset_name=run.task,
                dataset_split=split,
                metric_type=metric_of(name, result.further_metrics).hub,
                metric_name=metric_of(name, result.further_metrics).full_title,
                metric_value=round(value, 4),
            )
            for name, value in result.scalars.items()
        ]
        or None,
    )
    return template("model.md.jinja").render(
        _shared(run),
        header=data.to_yaml(),
        start=start,
        headline=headline(run.folder, result),
        tam=tam,
        teachers=run.config.get("self_training", {}).get("teachers", ()),
    )


def _shared(run: FinishedRun) -> dict[str, Any]:
    context = run.config["task"]["context"]
    file = Path(context["source"]).name if context and context["source"] not in ("plm", "gold") else None
    return {
        "result": run.result,
        "setting": run.setting,
        "task": run.config["task"],
        "trainer": run.config["trainer"],
        "context_file": file,
        "by_rules": _by_rules(run),
        "asked_back": _asked_back(run),
        "chat": _chat(run),
    }


def _chat(run: FinishedRun) -> dict[str, Any] | None:
    """Return the user's turns where the PLM was asked in a chat, empty where they are the prompts; None without one."""
    turns: dict[str, Any] = run.config["task"].get("prompts_chat", {})
    chats = run.config["plm"].get("chat") is True or asked_of_server(run.result)["chats"]
    return turns if chats else None


def _by_rules(run: FinishedRun) -> str:
    """Tell how many rows rules made: `all`, `some` or none, the empty string; so do earlier versions."""
    task = run.config["task"]
    made = task.get({"qa": "questions", "pair": "pairs"}.get(task["kind"], ""), "plm")
    if made == "plm" or run.config.get("dataset"):
        return ""
    ways = chain.from_iterable(task["construction"].values()) if made == "construct" else ()
    return "some" if made == "mixed" or "plm" in ways else "all"


def _asked_back(run: FinishedRun) -> dict[str, float] | None:
    """Return the least F1 of a round trip, None where the PLM was not asked back; earlier versions never asked."""
    least = run.config["filter"].get("round_trip")
    return None if least is None or run.config.get("dataset") else {"least": least}


def _has_counters(task: dict[str, Any]) -> bool:
    """Tell whether texts were written with counter-prompts; earlier versions had no contrast."""
    return bool(task["debias"]["decay"]) or task.get("contrast", {}).get("guidance", 1) != 1


def _category(run: FinishedRun) -> str:
    return "question-answering" if run.config["task"]["kind"] == "qa" else "text-classification"


def _counted(run: FinishedRun) -> tuple[int, dict[str, int]]:
    counts = dict.fromkeys(run.config["task"]["labels"], 0)
    rows = 0
    for line in read_lines(run.folder / f"{run.task}-dataset.jsonl"):
        rows += 1
        if line.get("label") in counts:
            counts[line["label"]] += 1
    return rows, counts
