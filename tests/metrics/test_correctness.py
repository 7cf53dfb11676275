from random import Random

import pytest

from zerogen.data.records import Answer, AnswerPrediction, Example, Prediction
from zerogen.metrics.agreement import agreement, calibrate, calibrated, correctness, quarters
from zerogen.metrics.intervals import mean, wilson_interval


def row(label: str, uid: str = "0") -> Example:
    return Example(uid, "text", label)


def test_wilson_s_interval_by_hand() -> None:
    # p = 0.8, n = 10, z = 1.96: (0.8 + 0.192) / 1.384 -+ 0.2265
    assert wilson_interval(8, 10)["interval"] == pytest.approx([0.4902, 0.9433], abs=1e-4)
    assert wilson_interval(0, 20)["interval"][0] == 0
    assert wilson_interval(20, 20)["interval"][1] == 1


def test_the_mean_of_right_and_wrong_is_a_share() -> None:
    assert mean([1.0] * 15) == wilson_interval(15, 15)
    assert mean([0.0, 1.0, 1.0]) == wilson_interval(2, 3)
    assert mean([0.5])["interval"] == [0.0, 1.0]


def test_the_interval_of_a_mean_by_hand() -> None:
    # standard deviation 0.2582, n = 4, z = 1.96: 0.5 -+ 0.2530
    assert mean([0.2, 0.4, 0.6, 0.8])["interval"] == pytest.approx([0.2470, 0.7530], abs=1e-4)


def test_labels_are_counted_apart() -> None:
    rows = [row("good"), row("good"), row("bad"), row("bad")]
    found = correctness(
        rows, [Prediction.of({"good": p, "bad": 1 - p}) for p in (0.9, 0.2, 0.3, 0.1)], ["bad", "good", "other"]
    )
    assert found["overall"]["share"] == 0.75
    assert {label: one["share"] for label, one in found["labels"].items()} == {"bad": 1.0, "good": 0.5}


def test_agreement_with_a_label_and_with_an_answer() -> None:
    assert agreement(row("good"), Prediction.of({"good": 0.4, "bad": 0.6})) == (0.0, 0.4)
    asked = Example("0", "Who?", "question", "Ann Lee came.", answers=(Answer("Ann Lee", 0),))
    assert agreement(asked, AnswerPrediction("Lee", 4, 0.5))[0] == pytest.approx(2 / 3)
    assert agreement(Example("0", "Who?", "question", "Ann."), AnswerPrediction("", -1, 0.5)) == (1.0, 1.0)


def test_answers_are_compared_as_squad_does() -> None:
    asked = [Example(str(i), "Who?", "question", "The Ann.", answers=(Answer("The Ann", 0),)) for i in range(2)]
    found = correctness(asked, [AnswerPrediction("Ann", 4, 1.0), AnswerPrediction("came", 0, 1.0)], ["question"])
    assert found["exact_match"]["share"] == found["f1"]["share"] == 0.5


def test_quarters_hold_every_row_once_in_order() -> None:
    confidence = [0.9, 0.1, 0.5, 0.7, 0.3, 0.2]
    parts = quarters(confidence, [1, 0, 1, 1, 0, 0])
    assert [part["rows"] for part in parts] == [2, 2, 1, 1]
    assert [part["from"] for part in parts] == [0.1, 0.3, 0.7, 0.9]
    assert [part["to"] for part in parts] == [0.2, 0.5, 0.7, 0.9]
    assert [part["confidence"] for part in parts] == pytest.approx([0.15, 0.4, 0.7, 0.9])
    assert [part["right"]["share"] for part in parts] == [0, 0.5, 1, 1]
    assert len(quarters([0.5], None)) == 1


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.4, -0.7), (2.0, 0.5)])
def test_calibration_finds_the_line_that_rows_were_drawn_by(slope: float, intercept: float) -> None:
    random = Random(0)
    confidence = [random.uniform(0.02, 0.98) for _ in range(20_000)]
    truth = calibrated(confidence, (slope, intercept))
    found = calibrate(confidence, [float(random.random() < p) for p in truth])
    assert found == pytest.approx((slope, intercept), abs=0.1)


def test_calibrated_confidences_have_the_mean_of_what_is_right() -> None:
    random = Random(1)
    confidence = [random.random() for _ in range(2000)]
    right = [float(random.random() < 0.3 + 0.4 * value) for value in confidence]
    moved = calibrated(confidence, calibrate(confidence, right))
    assert sum(moved) / 2000 == pytest.approx(sum(right) / 2000, abs=2e-3)
    assert calibrated(confidence, (1, 0)) == pytest.approx(confidence)


def test_a_perfect_separation_is_as_sure_as_its_rows_are_many() -> None:
    confidence, right = [0.2] * 10 + [0.8] * 10, [0.0] * 10 + [1.0] * 10
    moved = calibrated([0.2, 0.8], calibrate(confidence, right))
    assert moved == pytest.approx([1 / 12, 11 / 12], abs=1e-3)


@pytest.mark.parametrize("right", [[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
def test_calibration_stays_finite(right: list[float]) -> None:
    assert all(0 < value < 1 for value in calibrated([0.0, 0.5, 1.0], calibrate([0.0, 0.5, 1.0], right)))
