"""Measures of synthetic rows: diversity, agreement of an evaluator with their labels, confidence of the PLM."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zerogen.gold import stratified_order
from zerogen.measures.evaluator import evaluator
from zerogen.records import Example
from zerogen.runs.run import Run
from zerogen.scores import ScoreFile, confidences, margin

if TYPE_CHECKING:
    from zerogen.tam.tam import Tam

PARTS = ("diversity", "correctness", "confidence")


def measure(
    run: Run,
    rows: Sequence[Example],
    cached: dict[str, Any] | None = None,
    cached_lines: Sequence[dict[str, Any]] = (),
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure rows as the configuration says: diversity, correctness, confidence, and the seconds each took.

    cached, cached_lines: parts and lines of earlier measures of the same rows, which are not measured again.
    Returns the measures, and a line for each row that was looked at: uid and what there is of evaluator (its label or
    answer), agreement, probability (of the row's label under the evaluator), confidence, uncalibrated (the confidence
    as the PLM has it) and margin (see `scores.margin`). Where labels were judged, confidences are calibrated on that.
    """
    from zerogen.metrics.diversity import diversity

    config, cached = run.config, cached or {}
    seconds: dict[str, float] = dict(cached.get("seconds", {}))
    margins = {row.uid: margin(row) for row in rows}
    lines: dict[str, dict[str, Any]] = {
        uid: {} if value is None else {"margin": round(value, 5)} for uid, value in margins.items()
    }
    measures: dict[str, Any] = {part: cached.get(part) for part in PARTS}
    if "diversity" not in cached:
        with _timed(seconds, "diversity"), run.progress.wait("measuring diversity"):
            measures["diversity"] = diversity(rows, config.diversity, config.seed)
    order = stratified_order(rows, config.seed)
    if measures["correctness"] is not None:
        judged: list[dict[str, Any]] = [
            {name: line[name] for name in ("uid", "evaluator", "agreement", "probability") if name in line}  # no NaN
            for line in cached_lines
            if "agreement" in line
        ]
    elif config.correctness.evaluator:
        with _timed(seconds, "evaluator"):
            tam, gold = evaluator(run)
        with _timed(seconds, "correctness"):
            measures["correctness"], judged = _agreement(run, tam, gold, order[: config.correctness.rows])
    else:
        judged = []
    for line in judged:
        lines[line["uid"]].update(line)
    confidence = _confidence_of(run, order, cached, cached_lines, seconds)
    measures["confidence"] = _add_confidence(run, [row for row in order if row.uid in confidence], confidence, lines)
    measures["seconds"] = seconds
    return measures, [{"uid": row.uid} | lines[row.uid] for row in rows if lines[row.uid]]


def _confidence_of(
    run: Run,
    order: Sequence[Example],
    cached: dict[str, Any],
    cached_lines: Sequence[dict[str, Any]],
    seconds: dict[str, float],
) -> dict[str, float]:
    """Return how sure the PLM is of rows, by uid: as measured before, as found when they were written, or asked now."""
    confidence = {line["uid"]: line["uncalibrated"] for line in cached_lines if "uncalibrated" in line}
    config = run.config
    if "confidence" not in cached and config.confidence.rows and run.names()[0] != "none":
        rows = order[: config.confidence.rows]
        file = ScoreFile(run.pool_folder() / "scores.jsonl")
        known = file.read(rows, among_others=bool(config.select))
        if known is None:
            known = confidences(run.load_plm(), config.task, rows, run.progress)
            if known is not None and file.path.parent.is_dir():
                file.add(rows, known)
        confidence = {} if known is None else {row.uid: known.of(row) for row in rows}
        if known is not None:
            seconds["confidence"] = known.seconds
    elif cached.get("confidence") is None:
        confidence = {}
    if not confidence:
        seconds.pop("confidence", None)  # there was nothing to compare
    return confidence


def _add_confidence(
    run: Run, rows: Sequence[Example], confidence: dict[str, float], lines: dict[str, dict[str, Any]]
) -> dict[str, Any] | None:
    """Add the confidence in each row to its line; return what it comes to, None without any."""
    if not rows:
        return None
    agreed = {uid: line["agreement"] for uid, line in lines.items() if "agreement" in line}
    uids, values = [row.uid for row in rows], [confidence[row.uid] for row in rows]
    summary, shown = _summarise(uids, values, agreed)
    # Of an answer it is how probable its tokens are, which estimates no share of right ones.
    summary["of"] = "answer" if run.config.task.kind == "qa" else "label"
    for uid, value, uncalibrated in zip(uids, shown, values, strict=True):
        lines[uid] |= {"confidence": round(value, 5), "uncalibrated": round(uncalibrated, 9)}
    return summary


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - started, 2)


def _agreement(
    run: Run, tam: Tam, gold: dict[str, Any], rows: Sequence[Example]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    from zerogen.metrics import scalars
    from zerogen.metrics.correctness import agreement, correctness
    from zerogen.records import AnswerPrediction

    predictions = tam.predict(tam.inputs_of(rows), progress=run.progress)
    lines = []
    for row, found in zip(rows, predictions, strict=True):
        agreed, probability = agreement(row, found)
        said = found.text if isinstance(found, AnswerPrediction) else found.label
        lines.append({"uid": row.uid, "evaluator": said, "agreement": agreed, "probability": round(probability, 5)})
    return {
        "evaluator": gold["tam"],
        "folder": gold["folder"],
        "gold": scalars(gold["metrics"]),
        "gold_rows": gold["n_eval"],
        "trained_on": gold["n_train"],
        **correctness(rows, predictions, run.config.task.labels),
    }, lines


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
