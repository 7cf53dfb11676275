"""Predict with a trained TAM, or with a PLM by PROMPTING: `python -m zerogen.predict RUN_FOLDER [TEXT ...]`."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from zerogen.config.schema import FILE_ENDINGS
from zerogen.data.predictions import PredictionWriter
from zerogen.data.records import AnswerPrediction, Input, Prediction
from zerogen.data.tables import Row, iter_rows
from zerogen.data.texts import Item, Lines, blocks, items_of_lines, items_of_texts, opened, rows_of_table
from zerogen.errors import UserError
from zerogen.runs.labelling import PromptingPlm, prompting_by, prompting_of
from zerogen.support.console import ArgumentParser, ending_with_the_reader, reporting_errors
from zerogen.support.files import expanded
from zerogen.support.hashes import digest, short_hash
from zerogen.support.resumable import Output, is_finished, resumable
from zerogen.support.surrogates import refuse_surrogates
from zerogen.support.weights import find_tam, tam_folder

if TYPE_CHECKING:
    import argparse

    import torch

_OTHER_TABLES = (".tsv", ".json", ".xls", ".xlsx", ".ods", ".feather", ".arrow", ".gz", ".zip")  # not lines of texts


class Predictor(Protocol):
    """A loaded model. labels: none for one that answers questions."""

    @property
    def kind(self) -> str: ...

    @property
    def labels(self) -> Sequence[str]: ...

    def predict(self, inputs: Sequence[Input]) -> Sequence[Prediction | AnswerPrediction]: ...


class Model(Protocol):
    """A model that is not loaded yet. block: how many inputs it is given at a time, at most."""

    @property
    def block(self) -> int: ...

    def identity(self, device: torch.device) -> Any:
        """Return a JSON value that changes if other predictions are to be expected."""

    def open(self, device: torch.device) -> Predictor:
        """Load it. Raises `UserError` where that cannot be."""


@dataclass(frozen=True)
class TrainedTam:
    """The TAM in a folder."""

    folder: Path
    block: int = 1024

    def identity(self, device: torch.device) -> Any:
        return [digest(str(self.folder)), device.type]

    def open(self, device: torch.device) -> Predictor:
        from zerogen.tam.tam import load_tam

        return load_tam(self.folder, device)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m zerogen.predict` or the console script `zerogen-predict`."""
    with reporting_errors(), ending_with_the_reader():
        keep_characters(sys.stdout)
        options = _options(arguments)
        model = _model(options)
        # Open files before loading the model, so that a missing file is reported at once.
        rows = None if options.table is None else iter_rows(options.table, options.separator or ",")
        lines = None if options.text or rows is not None else Lines(*opened(options.file))
        from zerogen.support.process import devices_of, gpu_of, share_cores, stop_on_signals

        stop_on_signals()
        share_cores()
        device = devices_of(gpu_of(options.gpu))[0]
        key = _key(options, model, device) if options.output else {}
        if options.output and is_finished(options.output, key, "--output"):
            _say(f"{options.output}: is there already, nothing done")
            return
        predictor = model.open(device)
        _check_kind(options, predictor.kind)
        items = _items(options, predictor.kind, rows, lines)
        parts = blocks(items, lambda: lines is not None and lines.must_wait(), model.block)
        with _output(options.output, key) as output, shown_progress(output.file, sys.stderr) as advance:
            labels = predictor.labels if options.probabilities else ()
            write = PredictionWriter(options.format, predictor.kind, output.file, str(options.table), labels)
            blank = write_predictions(parts, predictor, write, output, advance)
        if blank:
            _say(f"no prediction where the text is blank: {blank:,} of {write.count:,}")


def write_predictions(
    parts: Iterator[list[Item]],
    predictor: Predictor,
    write: PredictionWriter,
    output: Output,
    advance: Callable[[int], None],
) -> int:
    """Predict and write items block by block, but for those that are written already; return how many were blank."""
    blank = 0
    for block in parts:
        blank += sum(item.given is None for item in block)
        if write.count < output.rows:  # which is where a block ends: the same input makes the same blocks
            write.skip(block)
            continue
        inputs = [item.given for item in block if item.given is not None]
        predictions = iter(predictor.predict(inputs) if inputs else ())
        write([(item, None if item.given is None else next(predictions)) for item in block])
        output.keep(write.count)
        advance(len(block))
    return blank


def _model(options: argparse.Namespace) -> Model:
    """Return the model that the options name. Raises `UserError` if there is none."""
    if options.plm is not None:
        config = prompting_by(options.plm, options.task)
    else:
        folder = Path(expanded(options.folder, "folder"))
        found = None if find_tam(folder) else prompting_of(folder)
        if found is None:
            return TrainedTam(tam_folder(folder))
        config = found
    from zerogen.support.process import go_offline_without_network

    go_offline_without_network()
    return PromptingPlm(config, _say)


def _items(options: argparse.Namespace, kind: str, rows: Iterator[Row] | None, lines: Lines | None) -> Iterator[Item]:
    """Return what to predict, from a table, from lines, or from the TEXTs themselves."""
    contexts = options.context
    if rows is not None:
        return rows_of_table(rows, kind, str(options.table), options.text_column, options.context_column, contexts)
    if lines is not None:
        return items_of_lines(lines, kind, contexts, lines.where)
    return items_of_texts(options.text, kind, contexts)


def _key(options: argparse.Namespace, model: Model, device: torch.device) -> dict[str, Any]:
    """Return all that the bytes of `--output` depend on; a file that is not finished goes on only if all is the same.

    Raises `UserError` for an input that cannot be read twice.
    """
    if not options.text and (options.file is None or not options.file.is_file()):
        where = "standard input" if options.file is None else f"--file {options.file}"
        raise UserError(
            f"--output {options.output}: {where} cannot be read again from where it was stopped; allowed is a file "
            "(--file), or send standard output to a file: > FILE"
        )
    return {
        "model": short_hash(model.identity(device)),
        "input": short_hash(options.text) if options.text else digest(str(options.file)) + options.file.suffix,
        "--format": options.format,
        "--probabilities": options.probabilities,
        "--text": options.text_column,
        "--context": options.context,
        "--context-column": options.context_column,
        "--separator": options.separator,
        "version of zerogen": version("zerogen"),
    }


def _output(path: Path | None, key: dict[str, Any]) -> AbstractContextManager[Output]:
    if path is None:
        return nullcontext(Output(sys.stdout, 0, lambda rows: sys.stdout.flush()))
    return resumable(path, key, "--output", _say)


def _say(line: str) -> None:
    """Write a line to standard error, in the place of what `shown_progress` shows there."""
    print("\r\x1b[K" * sys.stderr.isatty() + f"zerogen: {line}", file=sys.stderr)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="zerogen-predict",
        description="Print the label and its probability for texts, or the answer to questions: by the small model "
        "that a run has trained, or by a PLM without training, as a run of setting=prompting does.",
        epilog="Without TEXT and --file, texts are read from standard input, one a line. Where the model reads a text "
        "and a context, each TEXT goes with a --context, and lines are JSON: {text, context}, for answers "
        "{question, context}. Of a table, all columns are written, and the prediction after them.",
    )
    parser.add_argument(
        "folder", nargs="?", help="run folder, of setting=prompting too, or the tam/ folder inside it; not with --plm"
    )
    parser.add_argument(
        "--plm", help="in place of a run: a plm option such as smollm2, a YAML file of one, a Hub id, a folder or .gguf"
    )
    parser.add_argument("--task", help="with --plm: the task that says what is asked, by name or YAML file")
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
        help="default: that of --output by its ending; else text (tab-separated), of a table csv, or jsonl for .jsonl",
    )
    parser.add_argument(
        "--probabilities", action="store_true", help="also write the probability of every label (jsonl and csv)"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="write here; if it was stopped, the same command goes on after the last block"
    )
    parser.add_argument("--gpu", default="auto", help="auto, none or an index; default: auto")
    return parser


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line. `table` is the path of `--file` if that is a table. Raises `UserError`."""
    options = _parser().parse_intermixed_args(arguments)
    _settle_model(options)
    for name in ("file", "output"):
        value = getattr(options, name)
        setattr(options, name, None if value is None else Path(expanded(value, f"--{name}")))
    path = options.file
    options.table = path if path is not None and path.suffix.lower() in FILE_ENDINGS else None
    if path is not None and path.suffix.lower() in _OTHER_TABLES:
        raise UserError(f"--file {path}: cannot be read; allowed are {', '.join(FILE_ENDINGS)}, or texts, one a line")
    options.format = options.format or _format_of(options.output, options.table)
    check_options(options, options.table)
    return options


def _settle_model(options: argparse.Namespace) -> None:
    """Tell a run folder from a TEXT: with `--plm` there is none. Raises `UserError` for both, or neither."""
    if options.plm is None:
        if options.task is not None:
            raise UserError(f"--task {options.task}: goes with --plm; a run has a task of its own")
        if options.folder is None:
            raise UserError("folder: is missing; allowed is a run folder, or --plm and --task")
        return
    if options.task is None:
        raise UserError(f"--plm {options.plm}: needs --task, which says what is asked")
    if options.folder is not None:
        if _is_model(options.folder):
            raise UserError(f"--plm {options.plm}: takes the place of a run; leave out {options.folder} or --plm")
        options.text.insert(0, options.folder)
        options.folder = None


def _is_model(text: str) -> bool:
    """Tell whether a text is the path of a run folder or of a model."""
    folder = Path(text)
    try:
        return find_tam(folder) is not None or (folder / "config.yaml").is_file()
    except OSError:  # it is too long for a path
        return False


def check_options(options: argparse.Namespace, table: Path | None) -> None:
    """Raise `UserError` for options that do not go together. table: the path of `--file` if it is a table."""
    if options.probabilities and options.format == "text":
        raise UserError("--probabilities: is for --format jsonl or csv")
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


def _check_kind(options: argparse.Namespace, kind: str) -> None:
    """Raise `UserError` for an option that a model of a kind has no use for."""
    if kind == "classification" and (options.context or options.context_column):
        option = "--context" if options.context else "--context-column"
        raise UserError(f"{option}: this model reads a single text; leave it out")
    if kind == "qa" and options.probabilities:
        raise UserError("--probabilities: is about labels, and this model answers questions; leave it out")


def _format_of(output: Path | None, table: Path | None) -> str:
    for path in (output, table):
        if path is not None and path.suffix.lower() in (".jsonl", ".csv"):
            return path.suffix.lower()[1:]
    return "text" if table is None else "csv"


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
