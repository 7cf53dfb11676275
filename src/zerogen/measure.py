"""Measure synthetic rows: `python -m zerogen.measure RUN_OR_FILE`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from zerogen.config.bundled import load_task, plm_option
from zerogen.config.rules import check_measures
from zerogen.config.schema import TOKENIZERS, Config, SettingConfig
from zerogen.config.task import override
from zerogen.data.records import Example
from zerogen.data.synthetic import load_synthetic, single_stage, synthetic_rows
from zerogen.data.unlabelled import GOLD
from zerogen.errors import UserError
from zerogen.measures.files import MEASURES
from zerogen.measures.rows import describe, measure
from zerogen.measures.store import measure_run
from zerogen.report import present, present_evaluator
from zerogen.runs.evaluator import require_measures
from zerogen.runs.run import Run
from zerogen.runs.store import CONFIG, read_config
from zerogen.support.console import ArgumentParser, ending_with_the_reader, make_console, reporting_errors
from zerogen.support.files import exclusive, expanded
from zerogen.support.progress import Progress, RichProgress

_TEXT_COLUMNS = ("X", "question", "text")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m zerogen.measure` and of the console script `zerogen-measure`."""
    with reporting_errors(), ending_with_the_reader():
        options = _parser().parse_args(arguments)
        options.place = Path(expanded(options.place, "RUN_OR_FILE"))
        options.output_dir = expanded(options.output_dir, "--output-dir")
        if options.unlabelled and options.unlabelled != GOLD:
            options.unlabelled = expanded(options.unlabelled, "--unlabelled")
        options.data_dir = options.data_dir and expanded(options.data_dir, "--data-dir")
        from zerogen.support.process import (
            devices_of,
            go_offline_without_network,
            gpu_of,
            require_writable,
            share_cores,
            stop_on_signals,
        )

        stop_on_signals()
        share_cores()
        go_offline_without_network()
        config = _config_of(options)
        if config.correctness.evaluator:
            require_writable(Path(config.output_dir))
        console = make_console() if options.format == "text" else None
        run = Run(config, devices_of(gpu_of(options.gpu))[:1])
        if console is not None:
            run.progress = RichProgress(console)
        require_measures(run)
        measures, written = _measured(run, options)
        if console is None:
            json.dump(measures, sys.stdout, indent=2, ensure_ascii=False)
            print()
            return
        for line in describe(measures):
            console.print(line, markup=False, highlight=False)
        for path in written:
            console.print(str(path), markup=False, highlight=False, soft_wrap=True)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="zerogen-measure",
        description="Measure synthetic rows: their diversity, whether an evaluator agrees with their labels, and how "
        "sure the PLM is of them.",
        epilog="What is found about a run is written into its folder; of a file it is only printed.",
    )
    parser.add_argument("place", metavar="RUN_OR_FILE", help="run folder, or a .jsonl, .csv or .parquet file")
    parser.add_argument("--evaluator", help="trained on gold: a tam option such as minilm, a Hub id or a folder")
    parser.add_argument("--tokenizer", choices=TOKENIZERS, help="of Self-BLEU and distinct n-grams; default: auto")
    parser.add_argument("--texts", type=int, help="texts that Self-BLEU compares; default: 1000")
    parser.add_argument("--confidence", type=int, metavar="ROWS", help="rows that the PLM scores again; 0: none")
    parser.add_argument("--unlabelled", metavar="FILE", help="real texts to compare with; of a run also gold")
    parser.add_argument("--task", help="of a file: task, by name or YAML file; without it only diversity is measured")
    parser.add_argument("--data-dir", help="of a file: folder of the task's gold data, as data_dir of a run")
    parser.add_argument(
        "--plm", help="of a file: the PLM that scores its rows: a plm option, a YAML file of one, or weights"
    )
    parser.add_argument("--output-dir", default="outputs", help="of a file: where the evaluator lies; default: outputs")
    parser.add_argument("--gpu", default="auto", help="auto, none or an index; default: auto")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    return parser


def _measured(run: Run, options: Any) -> tuple[dict[str, Any], list[Path]]:
    """Measure a run or a file; return the measures and the files written."""
    place: Path = options.place
    if not _is_run(place):
        measures, _ = measure(run, _read(place, run.config, bool(options.task), run.progress))
        present_evaluator(measures)
        return measures, []
    with exclusive(place, run.progress):
        found = measure_run(run, place)
    finished = (place / "result.json").is_file()
    if found is None and not finished:
        raise UserError(f"{place}: the run is not finished; run its command again to go on")
    if found is None:
        raise UserError(f"{place}: holds no synthetic rows; only runs of setting=zerogen have some")
    present_evaluator(found)
    return found, [place / MEASURES, *([present(place)] if finished else [])]


def _is_run(place: Path) -> bool:
    return (place / CONFIG).is_file()


def _config_of(options: Any) -> Config:
    """Return the configuration of a run folder, or one for the rows of a file, with the measures that options ask for.

    Raises `UserError`.
    """
    config = _config_of_run(options) if _is_run(options.place) else _config_of_file(options)
    config.correctness.evaluator = options.evaluator or config.correctness.evaluator
    config.diversity.tokenizer = options.tokenizer or config.diversity.tokenizer
    if options.unlabelled:
        config.unlabelled, config.unlabelled_limit, config.unlabelled_column = options.unlabelled, None, None
    if options.texts is not None:
        config.diversity.self_bleu_texts = options.texts
    if options.confidence is not None:
        config.confidence.rows = options.confidence
    check_measures(config)
    return config


def _config_of_run(options: Any) -> Config:
    place: Path = options.place
    for name in ("task", "data_dir", "plm"):
        if getattr(options, name):
            raise UserError(f"--{name.replace('_', '-')}: is for a file; {place} is a run, which has its own")
    config = read_config(place)
    if config.unlabelled not in (None, GOLD) and not Path(str(config.unlabelled)).is_file():
        config.unlabelled = None  # what was measured of texts that are gone stays
    return config


def _config_of_file(options: Any) -> Config:
    place: Path = options.place
    if not place.exists():
        raise UserError(f"{place}: there is no such file or folder")
    if place.is_dir() and not (place / "state.json").is_file():
        raise UserError(f"{place}: is neither a run folder (config.yaml) nor a datasets folder")
    if options.task is None:
        for name in ("evaluator", "plm", "data_dir"):
            if getattr(options, name):
                raise UserError(f"--{name.replace('_', '-')}: needs --task, which says what the labels mean")
    config = Config(setting=SettingConfig(name="zerogen"), output_dir=options.output_dir)
    config.tam.name = "none"
    if options.task is not None:
        config.task = load_task(options.task)
        override(config.task, options.data_dir, None, None)
        config.task.questions = config.task.pairs = "plm"  # who made the rows of a file is not known
    if options.plm:
        config.plm = plm_option(options.plm, "--plm")
    else:
        config.confidence.rows = 0
    return config


def _read(place: Path, config: Config, labelled: bool, progress: Progress) -> list[Example]:
    """Read rows of a task, or any texts. Raises `UserError` for a file without a column of texts."""
    if labelled:
        return load_synthetic(str(place), config.task, {}, progress)
    rows = synthetic_rows(str(place))
    first = next(rows)
    column = next((name for name in _TEXT_COLUMNS if name in first), None)
    if column is None:
        raise UserError(f"{place}: no column {' or '.join(_TEXT_COLUMNS)}; there are: {', '.join(map(str, first))}")
    found = []
    every = enumerate(chain([first], rows))
    numbered = ((f"{place}: row {number + 1}", number, row) for number, row in every)
    for where, number, row in single_stage(numbered, first, column, "C", str(place), progress):
        if not isinstance(row.get(column), str):
            raise UserError(f"{where}: {column} is {row.get(column)!r}; allowed is a text")
        label = row.get("label", row.get("Y"))
        context = row.get("C") or row.get("context")
        about = context if isinstance(context, str) else None
        found.append(Example(str(number), row[column], "" if label is None else sys.intern(str(label)), about))
    return found


if __name__ == "__main__":
    main()
