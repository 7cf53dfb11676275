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
    """

    def __init__(self, style: str, kind: str, file: TextIO, where: str = "") -> None:
        self.style, self.file, self.where = style, file, where
        self.text = "question" if kind == "qa" else "text"
        self.names = ["answer", "probability", "start"] if kind == "qa" else ["label", "probability"]
        self.columns: list[str] = []  # columns of the first row
        self.count = 0

    def __call__(self, pairs: Sequence[tuple[Item, Prediction | AnswerPrediction | None]]) -> None:
        """Write items with their predictions, None where there is none.

        Raises `UserError` for a row with a column that the first row lacks, if it is to be written as CSV or has the
        name of a prediction's column.
        """
        for item, prediction in pairs:
            self.count += 1
            values = _values(prediction, len(self.names))
            if self.style == "text":
                probability = "" if values[1] is None else f"{values[1]:.4f}"
                # One line with three columns, whatever the texts hold.
                self.file.write("\t".join((_one_line(values[0] or ""), probability, _one_line(item.text))) + "\n")
                continue
            row = self._of_table(item.row, values) if item.row is not None else self._of_line(item.text, values)
            if self.style == "jsonl":
                self.file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                continue
            if self.count == 1:
                self.file.write(_csv_line(row))
                self.columns = list(row)
            self.file.write(_csv_line(as_cell(row.get(column)) for column in self.columns))

    def _of_line(self, text: str, values: Sequence[Any]) -> Row:
        row = dict(zip(self.names[:2], values, strict=False)) | {self.text: text}
        return row | dict(zip(self.names[2:], values[2:], strict=True)) if self.style == "jsonl" else row

    def _of_table(self, row: Row, values: Sequence[Any]) -> Row:
        if self.count == 1:
            self.columns = list(row)
            while not set(self.names).isdisjoint(row):
                self.names = [f"predicted_{name}" for name in self.names]
        for column in row:
            if column in self.names or (self.style == "csv" and column not in self.columns):
                hint = "rename it, predictions have that name" if column in self.names else "--format jsonl writes it"
                raise UserError(f"{self.where}: row {self.count}: column '{column}' is not in the first row; {hint}")
        return row | dict(zip(self.names, values, strict=True))


def _values(prediction: Prediction | AnswerPrediction | None, count: int) -> list[Any]:
    """Return the values of a prediction in column order; `count` times None if there is no prediction."""
    if prediction is None:
        return [None] * count
    if isinstance(prediction, AnswerPrediction):
        return [prediction.text, round(prediction.probability, 4), prediction.start]
    return [prediction.label, round(prediction.probabilities[prediction.label], 4)]


def _csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)  # with \n alone, a \r in a text is not quoted
    return line.getvalue().removesuffix("\r\n") + "\n"


def _one_line(text: str) -> str:
    return re.sub(r"[\t\r\n]+", " ", text)
