"""Predict with a trained TAM: `python -m zerogen.predict RUN_FOLDER [TEXT ...]`."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from zerogen.config.schema import FILE_ENDINGS
from zerogen.data.predictions import PredictionWriter
from zerogen.data.tables import iter_rows
from zerogen.data.texts import Lines, blocks, items_of_lines, items_of_texts, opened, rows_of_table
from zerogen.errors import UserError
from zerogen.support.console import ArgumentParser, ending_with_the_reader, reporting_errors
from zerogen.support.files import expanded
from zerogen.support.surrogates import refuse_surrogates
from zerogen.support.weights import tam_folder

if TYPE_CHECKING:
    import argparse

_OTHER_TABLES = (".tsv", ".json", ".xls", ".xlsx", ".ods", ".feather", ".arrow", ".gz", ".zip")  # not lines of texts


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m zerogen.predict` or the console script `zerogen-predict`."""
    with reporting_errors(), ending_with_the_reader():
        keep_characters(sys.stdout)
        options = _parser().parse_intermixed_args(arguments)
        path = None if options.file is None else Path(expanded(options.file, "--file"))
        table = path if path is not None and path.suffix.lower() in FILE_ENDINGS else None
        if path is not None and path.suffix.lower() in _OTHER_TABLES:
            raise UserError(
                f"--file {path}: cannot be read; allowed are {', '.join(FILE_ENDINGS)}, or texts, one a line"
            )
        check_options(options, table)
        folder = tam_folder(Path(expanded(options.folder, "folder")))
        # Open files before loading the model, so that a missing file is reported at once.
        rows = None if table is None else iter_rows(table, options.separator or ",")
        lines = None if options.text or table is not None else Lines(*opened(path))
        from zerogen.support.process import devices_of, gpu_of, share_cores, stop_on_signals

        stop_on_signals()
        share_cores()
        device = devices_of(gpu_of(options.gpu))[0]
        from zerogen.tam.tam import load_tam

        tam = load_tam(folder, device)
        kind, contexts = tam.spec.kind, options.context
        if kind == "classification" and (contexts or options.context_column):
            option = "--context" if contexts else "--context-column"
            raise UserError(f"{option}: this model reads a single text; leave it out")
        if rows is not None:
            items = rows_of_table(rows, kind, str(table), options.text_column, options.context_column, contexts)
        elif lines is not None:
            items = items_of_lines(lines, kind, contexts, lines.where)
        else:
            items = items_of_texts(options.text, kind, contexts)
        write = PredictionWriter(options.format or _format_of(table), kind, sys.stdout, str(table))
        blank = 0
        with shown_progress(sys.stdout, sys.stderr) as advance:
            for block in blocks(items, lambda: lines is not None and lines.must_wait()):
                predictions = iter(tam.predict([item.given for item in block if item.given is not None]))
                write([(item, None if item.given is None else next(predictions)) for item in block])
                sys.stdout.flush()
                blank += sum(item.given is None for item in block)
                advance(len(block))
        if blank:
            print(f"zerogen: no prediction where the text is blank: {blank:,} of {write.count:,}", file=sys.stderr)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="zerogen-predict",
        description="Print the label and its probability for texts, or the answer to questions, by the small model "
        "that a run has trained.",
        epilog="Without TEXT and --file, texts are read from standard input, one a line. Where the model reads a text "
        "and a context, each TEXT goes with a --context, and lines are JSON: {text, context}, for answers "
        "{question, context}. Of a table, all columns are written, and the prediction after them.",
    )
    parser.add_argument("folder", help="run folder (or the tam/ folder inside it)")
    parser.add_argument("text", nargs="*", default=[], help="text to label, or question to answer")
    parser.add_argument(
        "--context",
        action="append",
        default=[],
        help="the other text of the pair, or the passage that answers the question: one for all TEXTs, or "
        "--context given once for each",
    )
    parser.add_argument("--file", help="file of texts, one a line; or a table: .csv, .jsonl or .parquet")
    parser.add_argument(
        "--text",
        dest="text_column",
        metavar="COLUMN",
        help="column of the text in a table; default: text, for answers question where there is one",
    )
    parser.add_argument("--context-column", metavar="COLUMN", help="column of the context in a table; default: context")
    parser.add_argument("--separator", help="what stands between the columns of a .csv file; default: a comma")
    parser.add_argument(
        "--format",
        choices=("text", "jsonl", "csv"),
        help="default: text (tab-separated); of a table csv, and jsonl where it is .jsonl",
    )
    parser.add_argument("--gpu", default="auto", help="auto, none or an index; default: auto")
    return parser


def check_options(options: argparse.Namespace, table: Path | None) -> None:
    """Raise `UserError` for options that do not go together. table: the path of `--file` if it is a table."""
    if options.text and options.file is not None:
        raise UserError(f"--file {options.file}: allowed is TEXT or --file, not both")
    for name, value in (("--text", options.text_column), ("--context-column", options.context_column)):
        if value is not None and table is None:
            raise UserError(f"{name} {value}: is for a table; allowed with --file and {', '.join(FILE_ENDINGS)}")
    if options.separator is not None:
        if table is None or table.suffix.lower() != ".csv":
            raise UserError(f"--separator {options.separator!r}: is for a table; allowed with --file and .csv")
        options.separator = options.separator.replace("\\t", "\t")  # a shell passes \t on as two characters
        if len(options.separator) != 1 or options.separator in '"\r\n':
            raise UserError(f"--separator {options.separator!r}: allowed is one character, such as ';' or '\\t'")
    if options.context and options.context_column is not None:
        raise UserError(f"--context-column {options.context_column}: allowed is --context or --context-column")
    for number, context in enumerate(options.context, 1):
        if not context.strip():
            raise UserError("--context: is empty; allowed is a text")
        refuse_surrogates(context, f"--context {number}")
    for number, text in enumerate(options.text, 1):
        refuse_surrogates(text, f"TEXT {number}")
    if options.text and len(options.context) not in (0, 1, len(options.text)):
        raise UserError(
            f"--context: given {len(options.context)} times for {len(options.text)} texts; "
            "allowed is one, or one for each"
        )
    if not options.text and len(options.context) > 1:
        raise UserError(f"--context: given {len(options.context)} times; allowed for a file or lines is one")


def _format_of(table: Path | None) -> str:
    if table is None:
        return "text"
    return "jsonl" if table.suffix.lower() == ".jsonl" else "csv"


def keep_characters(file: TextIO) -> None:
    """Write results to a file or a pipe in UTF-8, unless the user has set another encoding for Python."""
    if isinstance(file, io.TextIOWrapper) and not file.isatty() and "PYTHONIOENCODING" not in os.environ:
        file.reconfigure(encoding="utf-8")


@contextmanager
def shown_progress(answers: TextIO, file: TextIO) -> Iterator[Callable[[int], None]]:
    """Show the number of lines done and the rate on a terminal (`file`), if the answers go elsewhere.

    Yields a function to call with the number of lines just done.
    """
    if answers.isatty() or not file.isatty():
        yield lambda lines: None
        return
    total, started, last_time = 0, time.monotonic(), 0.0

    def advance(lines: int) -> None:
        nonlocal total, last_time
        total += lines
        now = time.monotonic()
        if now - last_time > 0.2:
            last_time = now
            file.write(f"\r{total:,} lines, {total / max(now - started, 1e-9):,.0f} lines/s\x1b[K")
            file.flush()

    try:
        yield advance
    finally:
        file.write("\r\x1b[K")
        file.flush()


if __name__ == "__main__":
    main()
