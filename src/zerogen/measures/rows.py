"""Measure synthetic rows: diversity, likeness to real texts, what an evaluator and the PLM say of labels."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zerogen.data.records import Example
from zerogen.data.stratified import stratified_order
from zerogen.generation.scores import margin
from zerogen.measures.match import describe_match, match
from zerogen.runs.evaluator import evaluator
from zerogen.runs.run import Run
from zerogen.runs.zerogen import confidences_of

if TYPE_CHECKING:
    from zerogen.runs.result import Result
    from zerogen.tam.tam import Tam

PARTS = ("diversity", "match", "correctness", "confidence")


def measure(
    run: Run,
    rows: Sequence[Example],
    cached_measures: dict[str, Any] | None = None,
    cached_lines: Sequence[dict[str, Any]] = (),
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure rows as the configuration says: each of `PARTS`, and the seconds that it took.

    cached_measures, cached_lines: parts and lines of earlier measures of the same rows, which are not measured again.
    Returns the measures, and a line for each row that was measured: uid and, as far as available, evaluator (its label
    or answer), agreement, probability (of the row's label under the evaluator), confidence, uncalibrated (the PLM's own
    confidence) and margin (see `scores.margin`). Confidences are calibrated on the agreement of the rows that have one.
    """
    from zerogen.metrics.diversity import diversity

    config, cached_measures = run.config, cached_measures or {}
    seconds: dict[str, float] = dict(cached_measures.get("seconds", {}))
    lines: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for row in rows:
        if (value := margin(row)) is not None:
            lines[row.uid]["margin"] = round(value, 5)
    measures: dict[str, Any] = {part: cached_measures.get(part) for part in PARTS}
    if "diversity" not in cached_measures:
        with _timed(seconds, "diversity"), run.progress.wait("measuring diversity"):
            measures["diversity"] = diversity(rows, config.diversity, config.seed)
    if "match" not in cached_measures and config.unlabelled:
        texts = run.unlabelled
        with _timed(seconds, "match"):
            measures["match"] = match(run, rows, texts)
    order = stratified_order(rows, config.seed)
    if measures["correctness"] is not None:
        # A line lacks a value that was NaN.
        evaluated_lines: list[dict[str, Any]] = [
            {name: line[name] for name in ("uid", "evaluator", "agreement", "probability") if name in line}
            for line in cached_lines
            if "agreement" in line
        ]
    elif config.correctness.evaluator:
        with _timed(seconds, "evaluator"):
            tam, gold = evaluator(run)
        with _timed(seconds, "correctness"):
            measures["correctness"], evaluated_lines = _agreement(run, tam, gold, order[: config.correctness.rows])
    else:
        evaluated_lines = []
    for line in evaluated_lines:
        lines[line["uid"]].update(line)
    confidence = _confidence_of(run, order, cached_measures, cached_lines, seconds)
    measures["confidence"] = _add_confidence(run, [row for row in order if row.uid in confidence], confidence, lines)
    measures["seconds"] = seconds
    return measures, [{"uid": row.uid} | lines[row.uid] for row in rows if row.uid in lines]


def _confidence_of(
    run: Run,
    order: Sequence[Example],
    cached_measures: dict[str, Any],
    cached_lines: Sequence[dict[str, Any]],
    seconds: dict[str, float],
) -> dict[str, float]:
    """Return the PLM's confidence in rows, by uid: from earlier measures, from the pool's scores, or computed now."""
    confidence = {line["uid"]: line["uncalibrated"] for line in cached_lines if "uncalibrated" in line}
    config = run.config
    if "confidence" not in cached_measures and config.confidence.rows and run.names()[0] != "none":
        rows = order[: config.confidence.rows]
        scores = confidences_of(run, rows, run.open_plm, among_others=bool(config.select))
        confidence = {} if scores is None else {row.uid: scores.of(row) for row in rows}
        if scores is not None:
            seconds["confidence"] = scores.seconds
    elif cached_measures.get("confidence") is None:
        confidence = {}
    if not confidence:
        seconds.pop("confidence", None)  # there was nothing to compare
    return confidence


def _add_confidence(
    run: Run, rows: Sequence[Example], confidence: dict[str, float], lines: defaultdict[str, dict[str, Any]]
) -> dict[str, Any] | None:
    """Add the confidence in each row to its line; return a summary of all, None if there are none."""
    if not rows:
        return None
    agreement = {uid: line["agreement"] for uid, line in lines.items() if "agreement" in line}
    uids, values = [row.uid for row in rows], [confidence[row.uid] for row in rows]
    summary, calibrated_values = _summarise(uids, values, agreement)
    # For an answer, it is the probability of its tokens, which is no estimate of the share of correct answers.
    summary["of"] = "answer" if run.config.task.kind == "qa" else "label"
    for uid, value, uncalibrated in zip(uids, calibrated_values, values, strict=True):
        lines[uid] |= {"confidence": round(value, 5), "uncalibrated": round(uncalibrated, 9)}
    return summary


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Record the seconds that a block takes as `seconds[name]`."""
    started = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - started, 2)


def _agreement(
    run: Run, tam: Tam, gold: Result, rows: Sequence[Example]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the agreement of rows' labels with the evaluator `tam`, and a line for each row.

    gold: the result of the evaluator's own run.
    """
    from zerogen.data.records import AnswerPrediction
    from zerogen.metrics.agreement import agreement, correctness

    predictions = tam.predict(tam.inputs_of(rows), progress=run.progress)
    lines = []
    for row, prediction in zip(rows, predictions, strict=True):
        agrees, probability = agreement(row, prediction)
        value = prediction.text if isinstance(prediction, AnswerPrediction) else prediction.label
        lines.append({"uid": row.uid, "evaluator": value, "agreement": agrees, "probability": round(probability, 5)})
    return {
        "evaluator": gold.tam,
        "folder": str(gold.folder),
        "gold": gold.scalars,
        "gold_rows": gold.n_eval,
        "trained_on": gold.n_train,
        **correctness(rows, predictions, run.config.task.labels),
    }, lines


def _summarise(
    uids: Sequence[str], confidence: Sequence[float], agreement: dict[str, float]
) -> tuple[dict[str, Any], list[float]]:
    """Return a summary of rows' confidences, and the confidences, calibrated if at least two rows have an agreement."""
    from zerogen.metrics.agreement import calibrate, calibrated, quarters

    indices = [i for i, uid in enumerate(uids) if uid in agreement]
    line = None
    if len(indices) > 1:
        line = calibrate([confidence[i] for i in indices], [agreement[uids[i]] for i in indices])
    complete = len(indices) == len(uids)
    return {
        "rows": len(uids),
        "estimate": statistics.fmean(confidence),
        "calibration": line,
        "quarters": quarters(confidence, [agreement[uid] for uid in uids] if complete else None),
    }, calibrated(confidence, line) if line else list(confidence)


def describe(measures: dict[str, Any]) -> Iterator[str]:
    """Yield a few lines that summarise measures."""
    from zerogen.metrics.diversity import unsaid

    diversity = measures["diversity"]
    figures = []
    if diversity["self_bleu"] and diversity["self_bleu"][3] is not None:
        by = "" if diversity["tokenizer"] == "13a" else f" by {diversity['tokenizer']}"
        figures.append(
            f"Self-BLEU-4{by} {100 * diversity['self_bleu'][3]:.1f} over {diversity['self_bleu_texts']:,} texts "
            "(lower is more diverse)"
        )
    shares = {
        "distinct bigrams": diversity["distinct"][1],
        "near-duplicates": diversity["near_duplicates"],
        "copies of their context": diversity["copies_context"],
    }
    figures += [f"{name} {share:.1%}" for name, share in shares.items() if share is not None]
    if figures:
        yield "; ".join(figures)
    yield from unsaid(diversity)
    if measures["match"] is not None:
        yield from describe_match(measures["match"])
    correctness = measures["correctness"]
    if correctness is not None:
        gold = next(iter(correctness["gold"].values()), None)
        where = f"evaluator {correctness['evaluator']}" + (
            "" if gold is None else f", right about {gold:.1%} of gold rows"
        )
        names = {"overall": correctness.get("overall"), **correctness.get("labels", {})}
        names |= {name: correctness[name] for name in ("exact_match", "f1") if name in correctness}
        parts = [
            f"{name.replace('_', ' ')} {value['share']:.1%} ({value['interval'][0]:.1%} to {value['interval'][1]:.1%})"
            for name, value in names.items()
            if value
        ]
        yield f"labels as the {where}, sees them: {'; '.join(parts)}"
    confidence = measures["confidence"]
    if confidence is not None and confidence["of"] == "answer":
        parts = [f"{part['confidence']:.1%}" for part in confidence["quarters"]]
        yield f"mean probability of an answer's token under the PLM, by quarters of the rows: {', '.join(parts)}"
    elif confidence is not None:
        parts = [
            f"{part['confidence']:.1%}" + (f" ({part['right']['share']:.1%} right)" if "right" in part else "")
            for part in confidence["quarters"]
        ]
        doubt = "" if confidence["calibration"] else " (the share of right ones has been 15 points lower)"
        yield (
            f"the PLM's mean confidence in the labels: {confidence['estimate']:.1%}{doubt}; by quarters "
            f"{', '.join(parts)}"
        )
