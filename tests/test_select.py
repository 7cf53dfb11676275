"""Scores, which rows get before training, and selections, which make a training set of them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import toy_rows
from zerogen.config.task_schema import TaskConfig
from zerogen.data.records import Example
from zerogen.data.synthetic import export_rows, load_synthetic, write_folder, write_jsonl
from zerogen.errors import UserError
from zerogen.generation.scores import Confidences, ScoreFile, margin, with_scores
from zerogen.generation.select import needs, select

TASK = TaskConfig(name="toy", labels=["bad", "good"])
ROWS = toy_rows(8)
FOUND = Confidences({row.uid: {"bad": 0.25 + i / 100, "good": 0.75 - i / 100} for i, row in enumerate(ROWS)}, 1.5)


def halves(rows: Sequence[Example], task: TaskConfig) -> list[Example]:
    return [replace(row, weight=0.5) for row in rows[1:]]


def stranger(rows: Sequence[Example], task: TaskConfig) -> list[Example]:
    return [*rows, replace(rows[0], uid="of nobody")]


def twice(rows: Sequence[Example], task: TaskConfig) -> list[Example]:
    return [*rows, rows[0]]


def renamed(rows: Sequence[Example], task: TaskConfig) -> list[Example]:
    return [replace(rows[0], label="god"), *rows[1:]]


def lighter(rows: Sequence[Example], task: TaskConfig) -> list[Example]:
    return [replace(rows[0], weight=-1.0), *rows[1:]]


def one_sided(rows: Sequence[Example], task: TaskConfig) -> list[Example]:
    return [row if row.label == "bad" else replace(row, weight=0) for row in rows]


def reworded(rows: Sequence[Example], task: TaskConfig) -> list[Example]:
    return [replace(rows[0], text="another text"), *rows[1:]]


def nothing(rows: Sequence[Example], task: TaskConfig) -> None:
    return None


def broken(rows: Sequence[Example], task: TaskConfig) -> list[Example]:
    return [rows[len(rows)]]


def of_the_moon(rows: Sequence[Example], task: TaskConfig) -> Sequence[Example]:
    return rows


of_the_moon.needs = ("confidence", "moon")  # type: ignore[attr-defined]
constant = 3


def named(selection: Callable[..., object] | str) -> list[str]:
    return [f"tests.test_select:{selection if isinstance(selection, str) else selection.__name__}"]


def test_selections_follow_each_other() -> None:
    assert select([], ROWS, TASK) == ROWS == select(["all"], ROWS, TASK)
    found = select(["all", *named(halves), *named(halves)], ROWS, TASK)
    assert found == [replace(row, weight=0.5) for row in ROWS[2:]]


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (stranger, "returned rows that it was not given"),
        (twice, "or one of them twice"),
        (renamed, "label: 'god' is unknown; allowed: bad, good; did you mean 'good'?"),
        (lighter, "has weight -1.0; allowed is 0 or more"),
        (reworded, "allowed is to change its label, weight and target, nothing else"),
        (nothing, "returned NoneType; allowed is a list of the rows it was given"),
        (broken, "raised IndexError: list index out of range"),
        (one_sided, "leaves no row of label 'good'"),
        (of_the_moon, "needs the score 'moon'; there are confidence, margin, logprob"),
        ("constant", "is no function"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(selection: Callable[..., object] | str, message: str) -> None:
    with pytest.raises(UserError, match="select=tests.test_select:") as refused:
        select(named(selection), ROWS, TASK)
    assert message in str(refused.value)


def test_a_selection_says_what_it_needs() -> None:
    assert needs(["all"]) == set()
    with pytest.raises(
        UserError, match="'al' is unknown; allowed: all, asked, .*your own module:attribute; did you mean 'all'"
    ):
        needs(["al"])


def test_rows_carry_what_is_known_of_them() -> None:
    row = replace(ROWS[0], logprob=-1.0, counter_logprob={"good": -3.0, "fair": -2.5})
    assert margin(row) == 1.5
    (scored,) = with_scores([row], FOUND, {})
    assert scored.scores == {
        "margin": 1.5,
        "logprob": -1.0,
        "confidence": FOUND.by_row[row.uid][row.label],
        "confidence/bad": 0.25,
        "confidence/good": 0.75,
    }
    (plain,) = with_scores([replace(row, counter_logprob={}, logprob=None)], None, {})
    assert plain.scores == {}


def test_scores_are_those_of_exactly_these_rows(tmp_path: Path) -> None:
    file = ScoreFile(tmp_path / "pool" / "scores.jsonl", TASK)
    assert file.read(ROWS) is None
    file.add(ROWS, FOUND)
    assert file.read(ROWS) == FOUND
    assert file.read(ROWS[:4]) is None
    assert file.read(ROWS[:4], among_others=True) == FOUND
    assert file.read([replace(ROWS[0], text="another"), *ROWS[1:]]) is None


def test_scores_of_many_rows_are_stored_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, several = (ScoreFile(tmp_path / name, TASK) for name in ("one.jsonl", "several.jsonl"))
    one.add(ROWS, FOUND)  # as earlier versions do, whatever their number
    monkeypatch.setattr("zerogen.generation.scores._BLOCK", 2)
    several.add(ROWS[:3], replace(FOUND, seconds=7.0))
    several.add(ROWS, FOUND)
    lines = several.path.read_bytes().splitlines(keepends=True)
    assert max(map(len, lines)) < len(one.path.read_bytes())
    for file in (one, several):
        assert file.read(ROWS) == FOUND
        assert file.read(ROWS[:2]) is None
        assert file.read(ROWS[3:5], among_others=True) == FOUND
    several.path.write_bytes(b"".join(lines[:-1]))  # the process was killed: a set counts whole or not at all
    assert several.read(ROWS) is None
    several.add(ROWS, FOUND)
    assert several.read(ROWS) == FOUND
    several.path.write_bytes(b"".join(lines[-3:]))
    assert several.read(ROWS) is None


def test_answers_are_scored_again_by_another_scoring_prompt(tmp_path: Path) -> None:
    asked = TaskConfig("toy", "qa", labels=["bad", "good"], scoring={"question": "<X>"})
    ScoreFile(tmp_path / "scores.jsonl", asked).add(ROWS, FOUND)
    assert ScoreFile(tmp_path / "scores.jsonl", asked).read(ROWS) == FOUND
    otherwise = replace(asked, scoring={"question": "Q: <X> A:"})
    assert ScoreFile(tmp_path / "scores.jsonl", otherwise).read(ROWS, among_others=True) is None


def test_what_is_damaged_is_scored_again(tmp_path: Path) -> None:
    file = ScoreFile(tmp_path / "scores.jsonl", TASK)
    file.add(ROWS, FOUND)
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[: len(whole) // 2])  # the process was killed
    assert file.read(ROWS) is None
    file.add(ROWS, FOUND)
    assert file.read(ROWS) == FOUND


def test_weights_are_in_the_dataset(tmp_path: Path) -> None:
    rows = [replace(row, weight=i / 4) for i, row in enumerate(ROWS)]
    path = tmp_path / "rows.jsonl"
    write_jsonl(export_rows(rows, TASK), path)
    assert [row.weight for row in load_synthetic(str(path), TASK, {})] == [row.weight for row in rows]
    assert "loss_weight" not in next(export_rows(ROWS, TASK))
    path.write_text('{"X": "a b", "label": "bad", "loss_weight": -2}\n')
    with pytest.raises(UserError, match="row 1: loss_weight is -2; allowed is a number from 0 on"):
        load_synthetic(str(path), TASK, {})


SCORED = with_scores(
    [replace(row, logprob=-i / 10, counter_logprob={"other": -0.3}) for i, row in enumerate(ROWS)], FOUND, {}
)


def test_rankings_put_the_best_rows_first_and_keep_all() -> None:
    for name in ("confidence", "logprob", "margin"):
        ranked = select([name], SCORED, TASK)
        values = [row.scores[name] for row in ranked]
        assert values == sorted(values, reverse=True) and {row.uid for row in ranked} == {row.uid for row in ROWS}


def test_asking_labels_rows_anew_and_ranks_them_by_the_lead() -> None:
    answers = {row.uid: {"bad": 0.0, "good": (i - 3.5) * (-1) ** i} for i, row in enumerate(ROWS)}
    found = select(["asked"], with_scores(ROWS, None, answers), TASK)
    leads = [abs(answers[row.uid]["good"]) for row in found]
    assert leads == sorted(leads, reverse=True) and len(found) == len(ROWS)
    assert all((row.label == "good") == (answers[row.uid]["good"] > 0) for row in found)


def test_relabelling_follows_the_plm() -> None:
    labels = [row.label for row in select(["relabel"], swayed(0.9), TASK)]
    assert labels == ["bad" if i % 3 else "good" for i in range(8)]


def swayed(sure: float) -> list[Example]:
    """Rows of which the PLM finds every third one good."""
    by_row = {
        row.uid: {"bad": sure if i % 3 else 1 - sure, "good": 1 - sure if i % 3 else sure} for i, row in enumerate(ROWS)
    }
    return with_scores(ROWS, Confidences(by_row, 1.0), {})


def test_soft_labels_are_the_plms_probabilities() -> None:
    for row in select(["soft"], SCORED, TASK):
        assert row.target == pytest.approx(FOUND.by_row[row.uid])
        assert row.label == next(one.label for one in ROWS if one.uid == row.uid)


def test_weights_are_confidences() -> None:
    assert [row.weight for row in select(["weigh"], SCORED, TASK)] == [FOUND.of(row) for row in ROWS]


def test_a_row_without_the_score_is_named() -> None:
    bare = [replace(row, logprob=None, counter_logprob={}) for row in ROWS]
    with pytest.raises(UserError, match="select=margin: needs the score 'margin', which row row-0 does not have"):
        select(["margin"], with_scores(bare, None, {}), TASK)


def test_the_confidence_is_that_in_the_label_that_a_row_has_now() -> None:
    rows = select(["relabel", "weigh"], swayed(0.9), TASK)
    assert [row.weight for row in rows] == pytest.approx([0.9] * 8)


def test_unigen_keeps_what_the_plm_agrees_with_and_teaches_its_doubt() -> None:
    kept = select(["unigen"], swayed(1 - 1e-6), TASK)
    agreed = {row.uid for i, row in enumerate(ROWS) if row.label == ("bad" if i % 3 else "good")}
    assert {row.uid for row in kept} == agreed
    assert all(0.7 < row.target[row.label] <= 1 for row in kept)
    with pytest.raises(UserError, match="select=unigen: leaves no row of label 'bad'"):
        select(["unigen"], swayed(0.5), TASK)


WRONG_TARGETS = [
    "[0.5, 0.5]",
    '"[0.5]"',
    '{"bad": true, "good": false}',
    '{"bad": 1}',
    '{"bad": 0.5, "good": "x"}',
    '{"bad": 0.5, "good": 0.6}',
]


@pytest.mark.parametrize("folder", [False, True])
def test_targets_are_written_and_read_again(tmp_path: Path, folder: bool) -> None:
    rows = [replace(row, context=None) for row in select(["soft"], SCORED, TASK)]
    path = tmp_path / ("rows" if folder else "rows.jsonl")
    if folder:
        write_folder(rows, TASK, path)
    else:
        write_jsonl(export_rows(rows, TASK), path)
    assert [row.target for row in load_synthetic(str(path), TASK, {})] == [row.target for row in rows]
    assert "target" not in next(export_rows(ROWS, TASK))
    wrong = tmp_path / "wrong.jsonl"
    for target in WRONG_TARGETS:
        wrong.write_text(f'{{"X": "a b", "label": "bad", "target": {target}}}\n')
        with pytest.raises(UserError, match="row 1: target.*allowed is a (probability of each label|JSON object)"):
            load_synthetic(str(wrong), TASK, {})
    cell = tmp_path / "cell.csv"
    cell.write_text('X,label,target\na b,bad,"{""bad"": 0.25, ""good"": 0.75}"\nc d,good,\n')
    assert [row.target for row in load_synthetic(str(cell), TASK, {})] == [{"bad": 0.25, "good": 0.75}, {}]
