"""Use a trained TAM: `python -m zerogen.predict RUN_FOLDER [TEXT ...]`."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from zerogen.console import ArgumentParser, reporting_errors
from zerogen.errors import UserError, nearest
from zerogen.gold import json_rows
from zerogen.models import tam_folder
from zerogen.records import Span

if TYPE_CHECKING:
    from zerogen.tam.train import Input


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m zerogen.predict` and of the console script `zerogen-predict`."""
    parser = ArgumentParser(
        prog="zerogen-predict",
        description="Print the label and its probability for texts, or the answer to questions, by the small model "
        "that a run has trained.",
        epilog="Without TEXT and --file, texts are read from standard input, one a line. Where the model reads a text "
        "and a context, each TEXT goes with a --context, and lines are JSON: {text, context}, for answers "
        "{question, context}.",
    )
    parser.add_argument("folder", type=Path, help="run folder (or the tam/ folder inside it)")
    parser.add_argument("text", nargs="*", default=[], help="text to label, or question to answer")
    parser.add_argument(
        "--context",
        action="append",
        default=[],
        help="the other text of the pair, or the passage that answers the question: one for all TEXTs, or one for each",
    )
    parser.add_argument("--file", type=Path, help="file of texts, one a line")
    parser.add_argument(
        "--format", choices=("text", "jsonl", "csv"), default="text", help="default: text (tab-separated)"
    )
    parser.add_argument("--gpu", default="auto", help="auto, none or an index; default: auto")
    with reporting_errors():
        options = parser.parse_intermixed_args(arguments)
        if options.text and options.file:
            raise UserError(f"--file {options.file}: allowed is TEXT or --file, not both")
        folder = tam_folder(options.folder)
        lines = [] if options.text else read_lines(options.file)
        from zerogen.process import devices_of, gpu_of, stop_on_signals

        stop_on_signals()
        device = devices_of(gpu_of(options.gpu))[0]
        from zerogen.tam.train import load_tam

        tam = load_tam(folder, device)
        where = str(options.file or "standard input")
        inputs = read_inputs(tam.use.kind, options.text, options.context, lines, where)
        write(inputs, tam.predict(inputs), options.format, sys.stdout)
        sys.stdout.flush()


def read_lines(path: Path | None) -> list[str]:
    """Read texts, one a line, from a file or from standard input. Raises `UserError` when there are none."""
    if path is not None and not path.is_file():
        raise UserError(f"--file {path}: there is no such file")
    try:
        content = (sys.stdin.buffer.read() if path is None else path.read_bytes()).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path or 'standard input'}: not UTF-8 text ({error})") from error
    # Not splitlines(): a text may hold a line separator of Unicode's.
    lines = [line.removesuffix("\r") for line in content.removesuffix("\n").split("\n")] if content else []
    if not lines:
        raise UserError(f"{path or 'standard input'}: holds no text")
    return lines


def read_inputs(
    kind: str, texts: Sequence[str], contexts: Sequence[str], lines: Sequence[str], where: str
) -> list[Input]:
    """Return what a TAM of a kind reads, from texts of the command line or from lines.

    Raises `UserError` for contexts that are missing, empty or not wanted, and for a line that is not JSON with the two
    texts.
    """
    if kind == "classification":
        if contexts:
            raise UserError("--context: this model reads a single text; leave it out")
        return list(texts or lines)
    name = "question" if kind == "qa" else "text"
    if any(not context.strip() for context in contexts):
        raise UserError("--context: is empty; allowed is a text")
    if len(contexts) not in (0, 1, len(texts or lines)):
        raise UserError(
            f"--context: given {len(contexts)} times for {len(texts or lines)} texts; allowed is one, or one for each"
        )
    if contexts:
        given = list(texts or lines)  # every line is a text of its own
        return [(text, contexts[place % len(contexts)]) for place, text in enumerate(given)]
    if texts:
        raise UserError(f"--context: this model reads a {name} and a context; give the context")
    inputs: list[Input] = []
    for number, row in json_rows(lines, where):
        for key in (name, "context"):
            if key not in row:
                raise UserError(f"{where}:{number}: has no '{key}'; allowed is {{{name}, context}}{nearest(key, row)}")
            if not isinstance(row[key], str) or not row[key].strip():
                raise UserError(f"{where}:{number}: '{key}' is {row[key]!r}; allowed is a text")
        inputs.append((row[name], row["context"]))
    return inputs


def write(inputs: Sequence[Input], predictions: Sequence[Any], style: str, file: TextIO) -> None:
    """Write a line per input: label (or answer), probability and text, as tab-separated text, JSON or CSV.

    JSON also says where an answer begins in its context, -1 for none.
    """
    rows: list[dict[str, Any]] = []
    for given, found in zip(inputs, predictions, strict=True):
        text = given if isinstance(given, str) else given[0]
        if isinstance(found, Span):
            probability, start = round(found.probability, 4), {"start": found.start} if style == "jsonl" else {}
            rows.append({"answer": found.text, "probability": probability, "question": text} | start)
        else:
            probability = round(found.probabilities[found.label], 4)
            rows.append({"label": found.label, "probability": probability, "text": text})
    if style == "csv":
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([[*rows[0]], *(row.values() for row in rows)] if rows else [])
    elif style == "jsonl":
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        for value, probability, text in (row.values() for row in rows):
            # A line each, and three columns, whatever the texts hold.
            file.write("\t".join((_one_line(value), f"{probability:.4f}", _one_line(text))) + "\n")


def _one_line(text: str) -> str:
    return re.sub(r"[\t\r\n]+", " ", text)


if __name__ == "__main__":
    main()
