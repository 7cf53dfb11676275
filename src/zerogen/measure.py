"""Measure synthetic rows: `python -m zerogen.measure RUN_OR_FILE`, and at the end of every ZEROGEN run."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogen.config import (
    TOKENIZERS,
    Config,
    PlmConfig,
    SettingConfig,
    TamConfig,
    TrainerConfig,
    check_measures,
)
from zerogen.console import ArgumentParser, ending_with_the_reader, make_console, reporting_errors
from zerogen.dataset import load_synthetic, single_stage, synthetic_rows, write_jsonl
from zerogen.errors import UserError, unknown
from zerogen.files import exclusive, expanded, file_name, write_whole
from zerogen.gold import stratified_order
from zerogen.progress import Progress, RichProgress
from zerogen.records import Example
from zerogen.report.runs import MEASURED_ROWS, MEASURES, read_lines, read_measures
from zerogen.runs.identity import MEASURES_FORMAT, digest
from zerogen.runs.run import Run
from zerogen.task import bundled_option, conf_dir, load_task, override
from zerogen.yaml_files import read_yaml, typed

if TYPE_CHECKING:
    from zerogen.runs.result import Result
    from zerogen.tam.tam import Tam

_EVALUATOR_SEED = 42  # that of a run which names none: a SUPERVISED run of the user's is reused
_PARTS = ("diversity", "correctness", "confidence")
_TEXT_COLUMNS = ("X", "question", "text")
_FIGURES = ("agreement", "probability", "confidence", "uncalibrated", "margin")


def measure_run(run: Run, folder: Path) -> dict[str, Any] | None:
    """Measure the rows in the folder of a finished run and write what was found there; None where there are none.

    What was measured before as the configuration says, or where it says nothing, stays.
    """
    task = run.config.task.name
    path = folder / f"{task}-dataset.jsonl"
    if not path.is_file():
        return None
    rows = load_synthetic(str(path), run.config.task, {})
    asked, kept = _asked_for(run, rows), dict[str, Any]()
    earlier, known = _earlier(run, folder, rows)
    if earlier is not None:
        before = earlier["asked_for"]
        # A key that is newer than the file had its default.
        defaults = {name: asdict(getattr(Config(), name)) for name in _PARTS}
        same = [
            part
            for part in _PARTS
            if asked[part] is None or (before[part] is not None and asked[part] == defaults[part] | before[part])
        ]
        if len(same) == len(_PARTS):
            return earlier
        kept = {part: earlier[part] for part in same}
        kept["seconds"] = earlier["seconds"]
        asked |= {part: before[part] for part in same}
    measures, lines = measure(run, rows, kept, known)
    measures["asked_for"] = {"format": MEASURES_FORMAT, "dataset": digest(str(path)), **asked}
    (folder / MEASURES).unlink(missing_ok=True)  # never beside rows that it is not about
    write_jsonl(lines, folder / MEASURED_ROWS)
    write_whole(json.dumps(measures, indent=2, ensure_ascii=False) + "\n", folder / MEASURES)
    return measures


def _earlier(run: Run, folder: Path, rows: Sequence[Example]) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Return what was measured before of the rows, and of each of them; nothing where a part of it is damaged."""
    found, path = read_measures(folder, run.config.task.name), folder / MEASURED_ROWS
    if found is None or not path.is_file() or found["asked_for"].get("format") != MEASURES_FORMAT:
        return None, []
    uids = {row.uid for row in rows}
    try:
        lines = read_lines(path)
        sound = all(_is_of(line, uids) for line in lines)
    except UserError:
        sound = False
    if not sound:
        run.progress.say(f"{path}: is damaged, so the rows are measured again")
        return None, []
    return found, lines


def _is_of(line: dict[str, Any], uids: set[str]) -> bool:
    """Tell whether a line says of one of the rows what `measure` says."""
    figures = [line[name] for name in _FIGURES if name in line]
    judged = "agreement" not in line or "evaluator" in line
    uid = line.get("uid")
    return isinstance(uid, str) and uid in uids and judged and all(isinstance(one, int | float) for one in figures)


def _asked_for(run: Run, rows: Sequence[Example]) -> dict[str, Any]:
    """Return what each part of the measures of given rows depends on, None for one that is off."""
    from zerogen.metrics.diversity import tokenizer_of

    config = run.config
    judged = config.correctness.evaluator is not None
    # By the name that `auto` stands for: what was measured with that one stays.
    name = tokenizer_of(config.diversity.tokenizer, [row.text for row in rows])
    return {
        "diversity": asdict(config.diversity) | {"tokenizer": name},
        "correctness": asdict(config.correctness) | {"trained": evaluator_run(run).folder().name} if judged else None,
        "confidence": asdict(config.confidence) if config.confidence.rows else None,
    }


def measure(
    run: Run,
    rows: Sequence[Example],
    kept: dict[str, Any] | None = None,
    known: Sequence[dict[str, Any]] = (),
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure rows as the configuration says: diversity, correctness, confidence, and the seconds each took.

    kept, known: parts and lines of earlier measures of the same rows, which are not measured again.
    Returns the measures, and a line for each row that was looked at: uid and what there is of evaluator (its label or
    answer), agreement, probability (of the row's label under the evaluator), confidence, uncalibrated (the confidence
    as the PLM has it) and margin (mean log-probability per token after the row's own prompt, minus that after the
    most probable other one, kept from self-debiasing). Where labels were judged, confidences are calibrated on that.
    """
    from zerogen.metrics.diversity import diversity

    config, kept = run.config, kept or {}
    seconds: dict[str, float] = dict(kept.get("seconds", {}))
    found: dict[str, Any] = {part: kept.get(part) for part in _PARTS}
    lines: dict[str, dict[str, Any]] = {row.uid: {} for row in rows}
    for row in rows:
        if row.counter_logprob and row.logprob is not None:
            margin = row.logprob - max(row.counter_logprob.values())
            lines[row.uid]["margin"] = round(margin, 5)
    if "diversity" not in kept:
        with _timed(seconds, "diversity"), run.progress.wait("measuring diversity"):
            found["diversity"] = diversity(rows, config.diversity, config.seed)
    order = stratified_order(rows, config.seed)
    if found["correctness"] is not None:
        judged = [line for line in known if "agreement" in line]
        for line in judged:
            names = [name for name in ("evaluator", "agreement", "probability") if name in line]  # no NaN
            lines[line["uid"]].update({name: line[name] for name in names})
    elif config.correctness.evaluator:
        with _timed(seconds, "evaluator"):
            tam, gold = evaluator(run)
        with _timed(seconds, "correctness"):
            found["correctness"], judged = _agreement(run, tam, gold, order[: config.correctness.rows])
        for line in judged:
            lines[line["uid"]].update(line)
    confidence = {line["uid"]: line["uncalibrated"] for line in known if "uncalibrated" in line}
    if "confidence" not in kept and config.confidence.rows and run.names()[0] != "none":
        with _timed(seconds, "confidence"):
            confidence = _confidences(run, order[: config.confidence.rows])
    elif found["confidence"] is None:
        confidence = {}
    found["confidence"] = None
    if not confidence:
        seconds.pop("confidence", None)  # there was nothing to compare
    else:
        scored = [row.uid for row in order if row.uid in confidence]
        agreed = {uid: line["agreement"] for uid, line in lines.items() if "agreement" in line}
        values = [confidence[uid] for uid in scored]
        found["confidence"], shown = _summarise(scored, values, agreed)
        # Of an answer it is how probable its tokens are, which estimates no share of right ones.
        found["confidence"]["of"] = "answer" if config.task.kind == "qa" else "label"
        for uid, value, as_it_was in zip(scored, shown, values, strict=True):
            lines[uid] |= {"confidence": round(value, 5), "uncalibrated": round(as_it_was, 9)}
    found["seconds"] = seconds
    return found, [{"uid": row.uid} | lines[row.uid] for row in rows if lines[row.uid]]


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - started, 2)


def evaluator_run(run: Run) -> Run:
    """Return the SUPERVISED run whose TAM judges the rows of `run`: all gold training rows, always the same seed.

    Raises `UserError` for an evaluator that is neither an option, a Hub id nor a folder.
    """
    config, name = run.config, str(run.config.correctness.evaluator)
    tam = bundled_option("tam", name, TamConfig)
    if tam is None:
        _require_weights("correctness.evaluator", "tam", name, "null (off)")
        tam = TamConfig(name=file_name(name.rstrip("/").rpartition("/")[2]), model=name)
    trainer = bundled_option("trainer", name, TrainerConfig) or TrainerConfig()
    return Run(
        replace(
            config,
            setting=SettingConfig(name="supervised"),
            tam=tam,
            trainer=trainer,
            seed=_EVALUATOR_SEED,
            seeds=None,
            limit=None,
            eval_limit=None,
            dataset=None,
            log_every=None,
            metrics=[],
            train=True,
            command=[],  # which asked for something else
        ),
        run.devices[:1],
        run.progress,
        evaluator=True,
    )


def _require_weights(what: str, group: str, name: str, *others: str) -> None:
    """Refuse a name of weights that is neither a Hub id nor a folder: the Hub would be asked for a misspelt option."""
    if "/" not in name and ":" not in name and not Path(name).exists():
        options = sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
        raise unknown(what, name, [*options, "a Hub id (owner/name)", "a folder or .gguf file", *others])


def require_measures(run: Run) -> None:
    """Find out that rows cannot be measured as asked before hours of generation. Raises `UserError`."""
    from zerogen.metrics.diversity import tokenizer
    from zerogen.runs.supervised import gold_training_rows

    tokenizer(run.config.diversity.tokenizer)
    if run.config.correctness.evaluator:
        other = evaluator_run(run)
        other.require_tam()
        gold_training_rows(other)


def evaluator(run: Run) -> tuple[Tam, Result]:
    """Return the evaluator and the result of its run, which is trained once and then reused."""
    from zerogen.loggers import Csv
    from zerogen.report import present
    from zerogen.runs.store import finished, write_run
    from zerogen.runs.supervised import supervised
    from zerogen.tam.tam import load_tam

    other = evaluator_run(run)
    folder = other.folder()
    with exclusive(folder, run.progress):  # of runs that need it at once, one trains it
        result = finished(other)
        if result is None:
            other.log = Csv(folder)
            run.progress.say(f"training the evaluator, {other.config.tam.name}, on gold rows")
            result = write_run(other, supervised(other))
            present(folder)
        return load_tam(folder / "tam", other.device, other.config.tam.dtype), result


def _agreement(
    run: Run, tam: Tam, gold: Result, rows: Sequence[Example]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    from zerogen.metrics.correctness import agreement, correctness
    from zerogen.records import AnswerPrediction

    predictions = tam.predict(tam.inputs_of(rows), progress=run.progress)
    lines = []
    for row, found in zip(rows, predictions, strict=True):
        agreed, probability = agreement(row, found)
        said = found.text if isinstance(found, AnswerPrediction) else found.label
        lines.append({"uid": row.uid, "evaluator": said, "agreement": agreed, "probability": round(probability, 5)})
    return {
        "evaluator": gold.tam,
        "folder": str(gold.folder),
        "gold": gold.scalars,
        "gold_rows": gold.n_eval,
        "trained_on": gold.n_train,
        **correctness(rows, predictions, run.config.task.labels),
    }, lines


def _confidences(run: Run, rows: Sequence[Example]) -> dict[str, float]:
    """Return how sure the PLM is of each row, by uid; nothing where that cannot be said."""
    from zerogen.plm.confidence import label_confidence

    found = label_confidence(run.load_plm(), run.config.task, rows, run.progress) or []
    return {row.uid: value for row, value in zip(rows, found, strict=False)}


def _summarise(
    uids: Sequence[str], confidence: Sequence[float], agreed: dict[str, float]
) -> tuple[dict[str, Any], list[float]]:
    """Return what rows' confidences come to, and the confidences, calibrated where rows were judged."""
    from zerogen.metrics.correctness import calibrate, calibrated, quarters

    judged = [i for i, uid in enumerate(uids) if uid in agreed]
    line = None
    if len(judged) > 1:
        line = calibrate([confidence[i] for i in judged], [agreed[uids[i]] for i in judged])
    known = len(judged) == len(uids)
    return {
        "rows": len(uids),
        "estimate": statistics.fmean(confidence),
        "calibration": line,
        "quarters": quarters(confidence, [agreed[uid] for uid in uids] if known else None),
    }, calibrated(confidence, line) if line else list(confidence)


def describe(measures: dict[str, Any]) -> Iterator[str]:
    """Say in a few lines what was measured."""
    from zerogen.metrics.diversity import unsaid

    found = measures["diversity"]
    diverse = []
    if found["self_bleu"] and found["self_bleu"][3] is not None:
        by = "" if found["tokenizer"] == "13a" else f" by {found['tokenizer']}"
        diverse.append(
            f"Self-BLEU-4{by} {100 * found['self_bleu'][3]:.1f} over {found['self_bleu_texts']:,} texts (lower is more "
            "diverse)"
        )
    shares = {
        "distinct bigrams": found["distinct"][1],
        "near-duplicates": found["near_duplicates"],
        "copies of their context": found["copies_context"],
    }
    diverse += [f"{name} {share:.1%}" for name, share in shares.items() if share is not None]
    if diverse:
        yield "; ".join(diverse)
    yield from unsaid(found)
    judged = measures["correctness"]
    if judged is not None:
        gold = next(iter(judged["gold"].values()), None)
        where = f"evaluator {judged['evaluator']}" + ("" if gold is None else f", right about {gold:.1%} of gold rows")
        names = {"overall": judged.get("overall"), **judged.get("labels", {})}
        names |= {name: judged[name] for name in ("exact_match", "f1") if name in judged}
        parts = [
            f"{name.replace('_', ' ')} {one['share']:.1%} ({one['interval'][0]:.1%} to {one['interval'][1]:.1%})"
            for name, one in names.items()
            if one
        ]
        yield f"labels as the {where}, sees them: {'; '.join(parts)}"
    sure = measures["confidence"]
    if sure is not None and sure["of"] == "answer":
        parts = [f"{part['confidence']:.1%}" for part in sure["quarters"]]
        yield f"mean probability of an answer's token under the PLM, by quarters of the rows: {', '.join(parts)}"
    elif sure is not None:
        parts = [
            f"{part['confidence']:.1%}" + (f" ({part['right']['share']:.1%} right)" if "right" in part else "")
            for part in sure["quarters"]
        ]
        yield (
            f"the PLM's own estimate of right labels: {sure['estimate']:.1%}; by quarters of its confidence "
            f"{', '.join(parts)}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m zerogen.measure` and of the console script `zerogen-measure`."""
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
    parser.add_argument("--task", help="of a file: task, by name or YAML file; without it only diversity is measured")
    parser.add_argument("--data-dir", help="of a file: folder of the task's gold data, as data_dir of a run")
    parser.add_argument("--plm", help="of a file: the PLM that scores its rows, an option such as smollm2, or a Hub id")
    parser.add_argument("--output-dir", default="outputs", help="of a file: where the evaluator lies; default: outputs")
    parser.add_argument("--gpu", default="auto", help="auto, none or an index; default: auto")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    with reporting_errors(), ending_with_the_reader():
        options = parser.parse_args(arguments)
        options.place = Path(expanded(options.place, "RUN_OR_FILE"))
        options.output_dir = expanded(options.output_dir, "--output-dir")
        options.data_dir = options.data_dir and expanded(options.data_dir, "--data-dir")
        from zerogen.process import (
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
        if options.evaluator:
            config.correctness.evaluator = options.evaluator
        config.diversity.tokenizer = options.tokenizer or config.diversity.tokenizer
        if options.texts is not None:
            config.diversity.self_bleu_texts = options.texts
        if options.confidence is not None:
            config.confidence.rows = options.confidence
        check_measures(config)
        console = make_console() if options.format == "text" else None
        if config.correctness.evaluator:
            require_writable(Path(config.output_dir))
        run = Run(config, devices_of(gpu_of(options.gpu))[:1])
        if console is not None:
            run.progress = RichProgress(console)
        require_measures(run)
        written: list[Path] = []
        if _is_run(options.place):
            with exclusive(options.place, run.progress):
                measures = measure_run(run, options.place)
            written.append(options.place / MEASURES)
            if measures is None:
                raise UserError(f"{options.place}: holds no synthetic rows; only runs of setting=zerogen have some")
            if (options.place / "result.json").is_file():
                from zerogen.report import present

                written.append(present(options.place))
        else:
            measures, _ = measure(run, _read(options.place, config, bool(options.task), run.progress))
        if console is None:
            json.dump(measures, sys.stdout, indent=2, ensure_ascii=False)
            print()
            return
        for line in describe(measures):
            console.print(line, markup=False, highlight=False)
        for path in written:
            console.print(str(path), markup=False, highlight=False, soft_wrap=True)


def _is_run(place: Path) -> bool:
    return (place / "config.yaml").is_file()


def _config_of(options: Any) -> Config:
    """Return the configuration of a run folder, or one for the rows of a file. Raises `UserError`."""
    place: Path = options.place
    if not place.exists():
        raise UserError(f"{place}: there is no such file or folder")
    if _is_run(place):
        for name in ("task", "data_dir", "plm"):
            if getattr(options, name):
                raise UserError(f"--{name.replace('_', '-')}: is for a file; {place} is a run, which has its own")
        found = read_yaml(place / "config.yaml")
        if not isinstance(found, dict) or "task" not in found:
            raise UserError(f"{place / 'config.yaml'}: holds no configuration of a run")
        return typed(found, Config, str(place / "config.yaml"))
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
    if options.plm:
        known = bundled_option("plm", options.plm, PlmConfig)
        if known is None:
            _require_weights("--plm", "plm", options.plm)
        config.plm = known or PlmConfig(name="plm", model=options.plm)
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
        found.append(Example(str(number), row[column], "" if label is None else str(label), about))
    return found


if __name__ == "__main__":
    main()
