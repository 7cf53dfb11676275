"""`report.html`: one self-contained page about a run, with a browser of its rows."""

from __future__ import annotations

import json
import re
import shlex
import statistics
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import nsmallest
from pathlib import Path
from typing import Any

import yaml

from zerogen.data.overlap import f1
from zerogen.data.records import Example, Prediction
from zerogen.data.synthetic import unique
from zerogen.data.words import words
from zerogen.errors import UserError
from zerogen.generation.pool import samples_of
from zerogen.measures.files import MEASURED_ROWS, read_lines, read_measures
from zerogen.metrics import OWN, metric_of, scalars
from zerogen.metrics.diversity import unsaid
from zerogen.report.finished import FinishedRun, curve, latest, main_metric, read_run, read_runs, variants
from zerogen.report.plots import Curve, Level, histogram_figure, png, svg, trend_figure
from zerogen.runs.result import Result, asked_of_server
from zerogen.runs.store import read_predictions
from zerogen.support.files import write_whole

_BYTES = 8_000_000  # of rows in a page; what is around them is far below another two million
_REJECTED, _DISPUTED = 3, 10  # examples


def write_report(folder: Path) -> Path:
    """Write report.html and trend.png into a run folder from the files in it, and from runs beside it for comparison.

    Raises `UserError` for a folder that holds no finished run.
    """
    run = read_run(folder)
    result, config = run.result, run.config
    measures = read_measures(folder, run.task)
    rows = BrowserRows(folder, config["task"], measures is not None)
    overview, shown = Overview.of(rows, config["task"]["labels"]), sample(rows, _BYTES)
    curves, levels, metric = trend(run)
    curves = [curve for curve in curves if curve.sizes]  # none of a run that trained on unlabelled texts alone
    figure = trend_figure(curves, levels, metric) if curves else None
    if figure is not None:
        png(figure, folder / "trend.png")
    page = template("page.html.jinja").render(
        title=f"{config['task']['name']}, {result.setting.upper()}",
        result=result,
        asked=asked_of_server(result),
        setting=run.setting,
        measures=measures,
        headline=headline(folder, result),
        names={name: metric_of(name).title for name in [*OWN, *_reached_by_evaluator(measures)]},
        trend=svg(figure) if figure is not None else None,
        curves=curves,
        levels=levels,
        metric=metric,
        round_metrics={name: metric_of(name).title for name in scalars(result.rounds[-1]["metrics"]) if name in OWN}
        if result.rounds
        else {},
        histogram=svg(histogram_figure(overview.lengths)) if overview.lengths else None,
        rejects=rejects(folder, result),
        accepted=result.requests - sum(result.rejects.values()),
        config_task=config["task"],
        disputed=overview.disputed,
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        command=command(result),
        synthetic=(folder / f"{config['task']['name']}-dataset.jsonl").is_file(),
        rows=overview.rows,
        shown=len(shown),
        labels=[label for label in config["task"]["labels"] if label in overview.lengths],
        data=embedded({"rows": shown, "prompts": _prompts(config["task"])}),
    )
    write_whole(page, folder / "report.html")
    return folder / "report.html"


def _prompts(task: dict[str, Any]) -> dict[str, str]:
    """Return label to the prompt that its texts were written after, none where it varied from text to text."""
    prompts: dict[str, str] = task["prompts"]
    return {} if task.get("further_prompts") or task.get("attributes") else prompts


def template(name: str) -> Any:
    """Return a page of this package by its file name; what it is given is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here),
        autoescape=lambda template: template is None or ".html" in template,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["percent"] = lambda value: "none" if value is None else f"{100 * value:.1f} %"
    environment.filters["quoted"] = lambda value: json.dumps(value, ensure_ascii=False)
    environment.filters["visible"] = visible
    environment.filters["markdown"] = lambda text: re.sub(r"([\\`*_{}\[\]<>#|&])", r"\\\1", " ".join(str(text).split()))
    environment.filters["code"] = code
    environment.filters["count"] = lambda value: f"{value:,}"
    environment.globals["unsaid"] = unsaid
    environment.globals["page_css"] = (here / "page.css").read_text(encoding="utf-8")
    environment.globals["page_js"] = (here / "page.js").read_text(encoding="utf-8")
    return environment.get_template(name)


def code(text: str) -> str:
    """Return Markdown that shows a line as code: fenced by more backticks than it has in a row."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=1))
    return f"{fence} {text} {fence}"


def visible(text: str) -> str:
    """Show characters that show nothing, or turn what follows around, by a sign; page.js does the same."""
    return re.sub(
        "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]",
        lambda match: (
            chr(0x2400 + ord(match[0]))
            if match[0] < " "
            else "\u2421"
            if match[0] == "\u007f"
            else f"[U+{ord(match[0]):04X}]"
        ),
        text,
    )


def embedded(value: Any) -> str:
    """Return JSON that can stand in a script element whatever the texts hold: it has no `<`, `>`, `&` of theirs."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


@dataclass(frozen=True)
class BrowserRows:
    """What the page shows of each synthetic row; of a run without any, of each gold row and its prediction.

    They are read again from the run's files each time: nothing here holds them all.

    task: of the run's configuration. measured: what was measured is that of these rows.

    Each has uid, text, context, label (of questions the answer) and those that are known of said, agreement,
    probability, confidence, margin, logprob, way, reply and round_trip (the F1 of the reply with the answer).
    """

    folder: Path
    task: dict[str, Any]
    measured: bool

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from self._synthetic() if self._uids else self._gold()

    @cached_property
    def _uids(self) -> list[str]:
        return unique([str(row["id" if self.task["kind"] == "qa" else "uid"]) for row in self._dataset()])

    def _dataset(self) -> Iterator[dict[str, Any]]:
        return read_lines(self.folder / f"{self.task['name']}-dataset.jsonl")

    def _synthetic(self) -> Iterator[dict[str, Any]]:
        # In the order of the rows, some of which have none.
        lines = read_lines(self.folder / MEASURED_ROWS) if self.measured else iter(())
        following = next(lines, {})
        for uid, row in zip(self._uids, self._dataset(), strict=True):
            if self.task["kind"] == "qa":
                line = {"uid": uid, "text": row["question"], "context": row["context"], "label": ""}
                line["answer"] = (row["answers"]["text"] or [""])[0]
            else:
                line = {"uid": uid, "text": row["X"], "context": row["C"] or "", "label": row["label"]}
            line |= {key: row[key] for key in ("logprob", "way", "reply") if row.get(key) is not None}
            if "reply" in line:
                line["round_trip"] = f1(line["reply"], line["answer"])
            if following.get("uid") == uid:
                about, following = following, next(lines, {})
                if "evaluator" in about:
                    about["said"] = about.pop("evaluator")
                line |= about
            yield line

    def _gold(self) -> Iterator[dict[str, Any]]:
        for row in read_lines(self.folder / "predictions.jsonl"):
            line = {"uid": row["uid"], "context": row.get("context", ""), "said": row["prediction"]}
            if self.task["kind"] == "qa":
                line |= {"text": row["question"], "label": "", "answer": " | ".join(row["answers"])}
                line["agreement"] = max(f1(row["prediction"], answer) for answer in row["answers"] or [""])
            else:
                line |= {"text": row["text"], "label": row["label"]}
                line["agreement"] = float(row["label"] == row["prediction"])
                if isinstance(probability := row["probabilities"][row["label"]], float):
                    line["probability"] = probability
            yield line


@dataclass(frozen=True)
class Overview:
    """What the page says of all rows.

    lengths: numbers of words by label, in the task's order, of labels with rows. disputed: the rows that the evaluator
    is surest to have another label.
    """

    rows: int
    lengths: dict[str, list[int]]
    disputed: list[dict[str, Any]]

    @classmethod
    def of(cls, rows: Iterable[dict[str, Any]], labels: Sequence[str]) -> Overview:
        """Look at each row once."""
        lengths: dict[str, list[int]] = {label: [] for label in labels}
        disputed: list[dict[str, Any]] = []
        for row in rows:
            lengths.setdefault(row["label"] or "texts", []).append(len(words(row["text"])))
            if row.get("agreement") == 0:
                disputed.append(row)
            if len(disputed) > 100 * _DISPUTED:
                disputed = _most_disputed(disputed)
        lengths = {label: counts for label, counts in lengths.items() if counts}
        return cls(sum(map(len, lengths.values())), lengths, _most_disputed(disputed))


def _most_disputed(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return nsmallest(_DISPUTED, rows, key=lambda row: row.get("probability", 0))


def sample(rows: Iterable[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """Return as many rows as fit `limit` bytes of JSON, in their order: of each label the same share, evenly spaced.

    rows: looked at twice.
    """
    seen: dict[str, int] = {}
    sizes, ranks = array("q"), array("d")
    for row in rows:
        sizes.append(len(embedded(row).encode()) + 1)
        rank = seen.get(row["label"], 0)
        seen[row["label"]] = rank + 1
        # Van der Corput's sequence: every beginning of the order is spread evenly over the rows of a label.
        ranks.append(int(f"{rank:032b}"[::-1], 2) / 2**32)
    if sum(sizes) <= limit:
        return list(rows)
    chosen, left = set(), limit
    for place in sorted(range(len(ranks)), key=ranks.__getitem__):
        left -= sizes[place]
        if left < 0:
            break
        chosen.add(place)
    return [row for place, row in enumerate(rows) if place in chosen]


def headline(folder: Path, result: Result) -> list[dict[str, Any]]:
    """Return the metrics with what people call them and a 95 % interval."""
    lines = []
    evaluated = _evaluated(folder, result)
    for name, value in result.scalars.items():
        metric, interval = metric_of(name, result.further_metrics), None
        if name in result.further_metrics:
            interval = result.further_metrics[name].interval
        elif metric.interval is not None and evaluated is not None:
            interval = metric.interval(*evaluated)
        lines.append({"name": metric.full_title, "value": value, "interval": interval})
    return lines


def _evaluated(folder: Path, result: Result) -> tuple[Sequence[Example], Sequence[Any], Sequence[str]] | None:
    """Return gold rows, predictions and labels of a run; None where there are none.

    Of labels all is in the confusion matrix, which is read sooner than the file of the predictions.
    """
    confusion: dict[str, dict[str, int]] | None = result.metrics.get("confusion")
    if confusion is None:
        read = read_predictions(folder / "predictions.jsonl")
        return None if not read or not read[0] else (*read, [])
    rows, predictions = list[Example](), list[Prediction]()
    for label, counts in confusion.items():
        for predicted, count in counts.items():
            rows += [Example("", "", label)] * count
            predictions += [Prediction(predicted, {})] * count
    return rows, predictions, list(confusion)


def _reached_by_evaluator(measures: dict[str, Any] | None) -> Sequence[str]:
    """Return the metrics that are known of the evaluator, maybe with some that were asked for of its run."""
    judged = measures and measures["correctness"]
    return list(judged["gold"]) if judged else []


def rejects(folder: Path, result: Result) -> list[dict[str, Any]]:
    """Return each reject reason with its count and up to three examples, from the pool that the rows come from."""
    counts = result.rejects
    examples: dict[str, list[dict[str, Any]]] = {reason: [] for reason in counts}
    # By its name beside the run, so that outputs can move.
    pool = folder.parent / Path(result.pool or "").name / "texts.jsonl"
    for one in samples_of(pool) if counts else ():
        if one["reason"] in examples and len(examples[one["reason"]]) < _REJECTED:
            examples[one["reason"]].append(one)
            if all(len(some) == _REJECTED for some in examples.values()):
                break
    return [{"reason": reason, "count": count, "examples": examples[reason]} for reason, count in counts.items()]


def trend(run: FinishedRun) -> tuple[list[Curve], list[Level], str]:
    """Return the curve of a run over its seeds, the levels of other settings on the same gold rows, and the metric.

    The runs beside it count: those that differ from it in seed and size alone for its curve.
    """
    name = main_metric([run])
    if name is None:
        return [], [], ""
    called = metric_of(name).title
    here = run.folder.absolute()
    others = [other for other in read_runs([here.parent], skip=True) if other.folder != here]
    beside = [run, *(other for other in latest(others) if _comparable(run, other) and not _again(run, other))]
    same = [other for other in beside[1:] if other.models == run.models and _but_size(other) == _but_size(run)]
    # Of a seed, the run of most rows: an earlier version may have had another folder for fewer.
    largest = {other.result.seed: other for other in sorted(same, key=lambda other: other.result.n_train)}
    seeds = [run, *(other for other in largest.values() if _readable(other))]
    levels: dict[str, list[float]] = {}
    for other, different in zip(beside, variants(beside), strict=True):
        setting, plm, tam = other.models
        # By the model that it used, if any.
        model, own = (tam, run.models[2]) if plm == "none" else (plm, run.models[1])
        if other.setting.grows or other is run or (model != "none" and own not in (model, "none")):
            continue
        rows, kind = other.result.n_train, "synthetic" if other.setting.synthetic else "gold"
        named = model if own == "none" != model else ""
        words = [setting.upper(), f"{rows:,} {kind} rows" if rows else "", named]
        words += [word for word in different if not word.startswith("limit=")]
        levels.setdefault(", ".join(filter(None, words)), []).append(other.result.metrics[name])
    drawn = [Level(title, statistics.fmean(values), len(values)) for title, values in levels.items()]
    if not run.setting.grows or not run.result.n_train:  # or only evaluates a checkpoint
        return [], [Level(run.result.setting.upper(), run.result.metrics[name]), *drawn], called
    return [curve(run.result.setting.upper(), seeds, name)], drawn, called


def _comparable(run: FinishedRun, other: FinishedRun) -> bool:
    return all(getattr(run.result, key) == getattr(other.result, key) for key in ("task", "evaluated_on", "n_eval"))


def _readable(run: FinishedRun) -> bool:
    try:
        run.points("")
    except UserError:  # a damaged neighbour
        return False
    return True


def _again(run: FinishedRun, other: FinishedRun) -> bool:
    """Tell whether two runs have the same configuration and seed, and maybe another size."""
    return (run.models, run.result.seed, _but_size(run)) == (other.models, other.result.seed, _but_size(other))


def _but_size(run: FinishedRun) -> dict[str, Any]:
    return {key: value for key, value in run.choices.items() if key != "n"}


def command(result: Result) -> str | None:
    """Return the command line that makes a run again, None where it was not made by one."""
    if not result.command:
        return None
    words = [word for word in result.command if word.lstrip("+").partition("=")[0] not in ("seed", "seeds", "logger")]
    words = [word for word in words if not word.lstrip("+").startswith("logger.")]
    # An experiment may set several seeds.
    several = ["seeds=null"] if any(word.startswith("experiment=") for word in words) else []
    return shlex.join(["python", "-m", "zerogen", *words, *several, f"seed={result.seed}"])
