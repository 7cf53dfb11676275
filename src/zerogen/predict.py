"""Use a trained TAM: `python -m zerogen.predict RUN_FOLDER [TEXT ...]`."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from zerogen.console import ArgumentParser, reporting_errors
from zerogen.errors import UserError
from zerogen.models import tam_folder

if TYPE_CHECKING:
    from zerogen.records import Prediction


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m zerogen.predict` and of the console script `zerogen-predict`."""
    parser = ArgumentParser(
        prog="zerogen-predict",
        description="Print the label and its probability for texts, by the small model that a run has trained.",
        epilog="Without TEXT and --file, texts are read from standard input, one a line.",
    )
    parser.add_argument("folder", type=Path, help="run folder (or the tam/ folder inside it)")
    parser.add_argument("text", nargs="*", default=[], help="text to label")
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
        texts = options.text or read_lines(options.file)
        from zerogen.jobs import devices_of, stop_on_signals

        stop_on_signals()
        gpu = int(options.gpu) if options.gpu.isdigit() else options.gpu
        if gpu not in ("auto", "none") and not isinstance(gpu, int):
            raise UserError(f"--gpu {gpu}: allowed is auto, none or an index")
        device = devices_of(gpu)[0]
        from zerogen.tam.train import load_tam

        tam = load_tam(folder, device)
        write(texts, tam.predict(texts), options.format, sys.stdout)
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


def write(texts: Iterable[str], predictions: Iterable[Prediction], style: str, file: TextIO) -> None:
    """Write a line per text: label, probability and text, as tab-separated text, JSON or CSV."""
    rows = [
        (prediction.label, round(prediction.probabilities[prediction.label], 4), text)
        for text, prediction in zip(texts, predictions, strict=True)
    ]
    if style == "csv":
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("label", "probability", "text"))
        writer.writerows(rows)
        return
    for label, probability, text in rows:
        if style == "jsonl":
            file.write(
                json.dumps({"label": label, "probability": probability, "text": text}, ensure_ascii=False) + "\n"
            )
        else:
            file.write(f"{label}\t{probability:.4f}\t{text}\n")


if __name__ == "__main__":
    main()
