"""Write predictions as lines of tab-separated text, JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from zerogen.data.records import AnswerPrediction, Prediction
from zerogen.data.tables import Row, as_cell
from zerogen.data.texts import Item
from zerogen.errors import UserError


class PredictionWriter:
    """Writes a line per item: label (or answer), probability and text, as tab-separated text, JSON or CSV.

    JSON also holds the start of an answer in its context, -1 for none. For a table, JSON and CSV hold all its columns,
    then label and probability, or answer, probability and start; `predicted_label` and so on if the table already has a
    column with one of these names.

    labels: those whose probabilities JSON and CSV hold, too: JSON as `probabilities`, CSV in a column for each.
    """

    def __init__(self, style: str, kind: str, file: TextIO, where: str = "", labels: Sequence[str] = ()) -> None:
        self.style, self.file, self.where, self.labels = style, file, where, labels
        self.text = "question" if kind == "qa" else "text"
        self.names = ["answer", "probability", "start"] if kind == "qa" else ["label", "probability"]
        if labels:
            self.names += ["probabilities"] if style == "jsonl" else [f"probability_{label}" for label in labels]
        self.columns: list[str] = []  # columns of all rows, named by the first one
        self.count = 0

    def __call__(self, pairs: Sequence[tuple[Item, Prediction | AnswerPrediction | None]]) -> None:
        """Write items with their predictions, None where there is none.

        Raises `UserError` for a row with a column that the first row lacks, if it is to be written as CSV or has the
        name of a prediction's column.
        """
        for item, prediction in pairs:
            if not self.count:
                self._name_columns(item.row)
                if self.style == "csv":
                    self.file.write(_csv_line(self.columns))
            self.count += 1
            values = self._values(prediction)
            if self.style == "text":
                probability = "" if values[1] is None else f"{values[1]:.4f}"
                # One line with three columns, whatever the texts hold.
                self.file.write("\t".join((_one_line(values[0] or ""), probability, _one_line(item.text))) + "\n")
                continue
            row = self._of_table(item.row, values) if item.row is not None else self._of_line(item.text, values)
            if self.style == "jsonl":
                self.file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                continue
            self.file.write(_csv_line(as_cell(row.get(column)) for column in self.columns))

    def skip(self, items: Sequence[Item]) -> None:
        """Count items that were written before; the first of all names the columns of those to come."""
        if not self.count:
            self._name_columns(items[0].row)
        self.count += len(items)

    def _name_columns(self, row: Row | None) -> None:
        if row is None:
            first, others = self.names[:2], self.names[2:]
            self.columns = [*first, self.text, *(others if self.labels else ())]  # a start is for JSON alone
            return
        while not set(self.names).isdisjoint(row):
            self.names = [f"predicted_{name}" for name in self.names]
        self.columns = [*row, *self.names]

    def _of_line(self, text: str, values: Sequence[Any]) -> Row:
        named = list(zip(self.names, values, strict=True))
        return dict([*named[:2], (self.text, text), *named[2:]])

    def _of_table(self, row: Row, values: Sequence[Any]) -> Row:
        for column in row:
            if column in self.names or (self.style == "csv" and column not in self.columns):
                hint = "rename it, predictions have that name" if column in self.names else "--format jsonl writes it"
                raise UserError(f"{self.where}: row {self.count}: column '{column}' is not in the first row; {hint}")
        return row | dict(zip(self.names, values, strict=True))

    def _values(self, prediction: Prediction | AnswerPrediction | None) -> list[Any]:
        """Return the values of a prediction in the order of the names, all None if there is none."""
        if prediction is None:
            return [None] * len(self.names)
        if isinstance(prediction, AnswerPrediction):
            return [prediction.text, round(prediction.probability, 4), prediction.start]
        values = [prediction.label, round(prediction.probabilities[prediction.label], 4)]
        every = {label: round(prediction.probabilities[label], 4) for label in self.labels}
        if self.style == "jsonl":
            return [*values, every] if self.labels else values
        return [*values, *every.values()]


def _csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)  # with \n alone, a \r in a text is not quoted
    return line.getvalue().removesuffix("\r\n") + "\n"


def _one_line(text: str) -> str:
    return re.sub(r"[\t\r\n]+", " ", text)
