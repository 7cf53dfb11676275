"""How much better or worse the rows of a table are than one of them, on the same gold rows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zerogen.data.overlap import exact_match
from zerogen.errors import UserError, unknown
from zerogen.metrics import metric_of
from zerogen.metrics.squad import best_scores
from zerogen.report.finished import FinishedRun
from zerogen.report.grid import Grid, Row
from zerogen.runs.store import read_predictions

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SAMPLES = 10_000  # of the bootstrap
GoldRow = tuple[str, str, str]  # uid, context and text: two sources may number their rows alike


@dataclass(frozen=True)
class Difference:
    """One row of a table on one task, compared with another one, the base.

    mean, spread: of the main metric over seeds, as shares of 1; spread is None for one seed. gain: mean minus that of
    the base over the seeds that both have, with its 95 % interval (None for the base). seconds: mean over seeds.
    """

    row: Row
    task: str
    metric: str
    mean: float
    spread: float | None
    seeds: int
    gain: float | None
    interval: tuple[float, float] | None
    seconds: float


CAPTION = (
    "Accuracy (of questions exact match) on gold rows in percent, mean ± standard deviation over seeds (number of "
    "seeds); the gain over the first line in points, with its 95 % interval by bootstrap over the gold rows"
)


def lines(found: Sequence[Difference]) -> list[list[str]]:
    """Return the cells of a table of differences, its header first; seconds also as a multiple of the base's."""
    several = len({one.task for one in found}) > 1
    table = [["task"] * several + ["run", metric_of(found[0].metric).title, "gain", "interval", "seconds", "times"]]
    base = found[0]
    names = {task: names_of([one.row for one in found if one.task == task]) for task in {one.task for one in found}}
    for one in found:
        base = one if one.gain is None else base
        spread = "" if one.spread is None else f" ± {100 * one.spread:.1f}"
        interval = "" if one.interval is None else " to ".join(f"{100 * end:+.1f}" for end in one.interval)
        table.append(
            [one.task] * several
            + [
                names[one.task][one.row],
                f"{100 * one.mean:.1f}{spread} ({one.seeds})",
                "" if one.gain is None else f"{100 * one.gain:+.1f}",
                interval,
                f"{one.seconds:,.0f}",
                f"{one.seconds / base.seconds:.1f}" if base.seconds else "",
            ]
        )
    return table


def names_of(rows: Sequence[Row]) -> dict[Row, str]:
    """Name rows by what tells them from each other: models where they differ, and the variant or else the setting."""
    settings, plms, tams = ({getattr(row, part) for row in rows} - {"none"} for part in ("setting", "plm", "tam"))
    return {
        row: " ".join(
            [
                *([row.setting] if not row.variant or len(settings) > 1 else []),
                *([row.plm] if len(plms) > 1 and row.plm != "none" else []),
                *([row.tam] if len(tams) > 1 and row.tam != "none" else []),
                *([", ".join(row.variant)] if row.variant else []),
            ]
        )
        for row in rows
    }


def differences(summary: Grid, base: str) -> list[Difference]:
    """Compare every row with the base, task by task; the base comes first, the others from the best down.

    base: a setting (`zerogen` is that without a variant), or a variant such as `method=supergen`. The interval is that
    of a paired bootstrap over gold rows (Efron and Tibshirani 1993): rows are drawn with replacement, the same for
    both, each with how often the seeds are right about it. Raises `UserError` where there is no base, or its gold rows
    are not those of a row.
    """
    found: list[Difference] = []
    for task in dict.fromkeys(task for task, _ in summary.columns):
        metric = next(metric for of, metric in summary.columns if of == task)
        rows = [row for row in summary.rows if (row, task) in summary.runs]
        first = _base(rows, base, task)
        # Read once: the base is compared with every other row.
        right = {run.folder: _right(run) for row in rows for run in summary.runs[row, task]}
        compared = [_compare(summary, row, first, task, metric, right) for row in rows]
        found += sorted(compared, key=lambda one: (one.gain is not None, -one.mean))
    return found


def _base(rows: Sequence[Row], base: str, task: str) -> Row:
    plain = [row for row in rows if not any(part.startswith("method=") for part in row.variant)]
    named = [row for row in rows if {base, f"method={base}"} & set(row.variant)]
    named = named or [row for row in plain if base in (row.setting, f"method={row.setting}")]
    if not named:
        there = dict.fromkeys(name for row in rows for name in (row.setting, *row.variant))
        raise unknown(f"--against: setting or variant of a run on {task}", base, list(there))
    return min(named, key=lambda row: len(row.variant))


def _compare(
    summary: Grid, row: Row, base: Row, task: str, metric: str, right: Mapping[Path, Mapping[GoldRow, float]]
) -> Difference:
    runs, others, cell = summary.runs[row, task], summary.runs[base, task], summary.cells[row, task, metric]
    gain, interval = None, None
    if row != base:
        seeds = {run.result.seed for run in runs} & {run.result.seed for run in others}
        pairs = [[run for run in of if run.result.seed in seeds] or of for of in (runs, others)]
        gain, interval = paired(*(_how_often([right[run.folder] for run in of]) for of in pairs))
    seconds = statistics.fmean(sum(run.result.seconds.values()) for run in runs)
    return Difference(row, task, metric, cell.mean, cell.spread, len(cell.seeds), gain, interval, seconds)


def _how_often(right: Sequence[Mapping[GoldRow, float]]) -> dict[GoldRow, float]:
    """Return for each gold row how often runs are right about it."""
    rows = dict.fromkeys(row for of_run in right for row in of_run)
    return {row: statistics.fmean(of_run[row] for of_run in right if row in of_run) for row in rows}


def _right(run: FinishedRun) -> dict[GoldRow, float]:
    """Return for each gold row whether a run is right about it."""
    read = read_predictions(run.folder / "predictions.jsonl")
    if read is None:
        raise UserError(f"{run.folder}: has no predictions.jsonl to compare")
    rows, predictions = read
    if any(row.answers for row in rows):
        scores = best_scores(exact_match, rows, predictions)
    else:
        scores = [float(found.label == row.label) for row, found in zip(rows, predictions, strict=True)]
    return {(row.uid, *row.content): score for row, score in zip(rows, scores, strict=True)}


def paired(ours: Mapping[GoldRow, float], theirs: Mapping[GoldRow, float]) -> tuple[float, tuple[float, float]]:
    """Return the mean difference over the rows that both have, and its 95 % interval by bootstrap over these rows."""
    import numpy as np

    shared = [row for row in ours if row in theirs]
    if not shared:
        raise UserError("two runs were reported on different gold rows: nothing to compare")
    each: NDArray[np.float64] = np.array([ours[row] - theirs[row] for row in shared])
    values, counts = np.unique(each, return_counts=True)
    # How often each value is drawn is multinomial: as a draw of rows, but without drawing them one by one.
    drawn = np.random.default_rng(0).multinomial(len(each), counts / len(each), _SAMPLES)
    low, high = np.quantile(drawn @ values / len(each), [0.025, 0.975])
    return float(each.mean()), (float(low), float(high))
