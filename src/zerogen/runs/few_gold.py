"""A few gold rows beside the synthetic ones: some are trained on, the others pick the best epoch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogen.config.schema import Config
from zerogen.config.task import from_files
from zerogen.config.task_schema import GoldConfig, TaskConfig
from zerogen.data.gold import load_gold, source_of
from zerogen.data.records import Example
from zerogen.data.stratified import stratified, stratified_order
from zerogen.errors import UserError, nearest
from zerogen.metrics import scalars
from zerogen.tam.batches import split_heldout

if TYPE_CHECKING:
    from zerogen.runs.run import Outcome, Run

FEWEST = 4  # rows of each label: two are trained on, two pick the epoch
_FIRST = 25  # rows of the first model that is trained on gold rows alone; each further one has twice as many


@dataclass(frozen=True)
class FewGold:
    """train: rows trained on, with their weight. heldout: rows that pick the best epoch. others: further gold rows."""

    train: list[Example]
    heldout: list[Example]
    others: list[Example]

    @property
    def rows(self) -> list[Example]:
        return [*self.train, *self.heldout]


def few_gold(config: Config, reported: set[tuple[str, str]]) -> FewGold:
    """Read the gold rows that `gold_rows` asks for, without those that are reported on.

    A number of them is drawn from the gold training split by the seed, stratified by label; half of the rows are
    trained on. Raises `UserError` for rows that cannot be read, and where a label has too few.
    """
    wanted, task = config.gold_rows, config.task
    rows = load_gold(task if isinstance(wanted, int) else _of_file(task, Path(wanted)), "train")
    rows = [row for row in rows if row.content not in reported]
    if isinstance(wanted, int) and wanted > len(rows):
        raise UserError(f"gold_rows={wanted}: the gold training split of task '{task.name}' has {len(rows):,}")
    ordered = stratified_order(rows, config.seed)
    few, others = (ordered[:wanted], ordered[wanted:]) if isinstance(wanted, int) else (ordered, [])
    for label in task.labels:
        if (number := sum(row.label == label for row in few)) < FEWEST:
            raise UserError(
                f"gold_rows={wanted}: {number} of them have label '{label}'; allowed are {FEWEST} or more of each"
            )
    train, heldout = split_heldout(few, 0.5, config.seed)
    return FewGold([replace(row, weight=config.gold_weight) for row in train], heldout, others)


def _of_file(task: TaskConfig, path: Path) -> TaskConfig:
    """Return the task with a file as its gold training split, whose columns are those of the gold data."""
    if not path.is_file():
        near = nearest(path.name, [file.name for file in path.parent.glob("*") if file.is_file()])
        raise UserError(f"gold_rows={path}: there is no such file; allowed is a number of rows or a file{near}")
    source = from_files(source_of(task) or GoldConfig(), {"train": str(path)})
    return replace(task, gold={"gold_rows": source}, gold_source=None)


def labels_alone(run: Run, outcome: Outcome) -> None:
    """Train on gold rows alone, twice as many each time, until that beats the outcome or there are no more of them.

    What each reaches on the reported rows is added to the outcome, and said.
    """
    from zerogen.metrics import evaluate
    from zerogen.tam.fit import fit

    few, config = run.few_gold, run.config
    if few is None or not outcome.metrics:
        return
    metric, target = next(iter(scalars(outcome.metrics).items()))
    rows = [replace(row, weight=1.0) for row in few.rows] + few.others
    for size in sizes_alone(len(rows)):
        with run.stage("labels alone"):
            tam, _ = fit(
                stratified(rows, size, config.seed),
                config.task,
                config.tam,
                config.trainer,
                seed=config.seed,
                device=run.device,
                progress=run.progress,
            )
            metrics = evaluate(config.task, run.gold, tam.predict(tam.inputs_of(run.gold)), {})
        outcome.labels_alone.append({"rows": size, "metrics": scalars(metrics)})
        if metrics[metric] > target:
            break
    run.progress.say(describe_labels_alone(outcome.labels_alone, metric, target))


def sizes_alone(rows: int) -> list[int]:
    """Return the numbers of gold rows that are trained on alone: 25, 50, 100 and so on, and all of them."""
    sizes: list[int] = []
    while (size := _FIRST << len(sizes)) < rows:
        sizes.append(size)
    return [*sizes, rows]


def describe_labels_alone(found: list[dict[str, Any]], metric: str, target: float) -> str:
    """Say from how many gold rows on they beat what was reached with synthetic rows."""
    values = [(one["rows"], one["metrics"][metric]) for one in found]
    shown = ", ".join(f"{rows:,}: {value:.1%}" for rows, value in values)
    rows, value = values[-1]
    verdict = f"{rows:,} of them beat" if value > target else f"{rows:,} of them do not beat"
    return f"trained on gold rows alone, {shown}; {verdict} the {target:.1%} that were reached here"
