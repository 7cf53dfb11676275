"""What runs gain over one of them: on the same rows, with an interval that covers what chance does."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.report.test_table import finished, of
from zerogen.config.schema import Config
from zerogen.errors import UserError
from zerogen.report.differences import differences, names_of, paired
from zerogen.report.finished import read_runs
from zerogen.report.grid import Row, grid
from zerogen.report.overview import write_overview
from zerogen.table import main


def run(place: Path, name: str, right: str, config: Config) -> None:
    """Write a finished run that is right about the gold rows where `right` has a 1."""
    share = right.count("1") / len(right)
    folder = finished(place, name, {"accuracy": share, "macro_f1": share}, config)
    lines = [
        {
            "uid": f"{i}",
            "text": "t",
            "label": "a",
            "prediction": "ab"[bit == "0"],
            "probabilities": {"a": 0.5, "b": 0.5},
        }
        for i, bit in enumerate(right)
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = json.loads((folder / "result.json").read_text()) | {"seconds": {"train": 2.0 * (1 + len(name))}}
    (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed, right in enumerate(("1111000000", "1100000000")):
        run(tmp_path, f"z{seed}", right, of("zerogen", "films", seed=seed))
    for seed, right in enumerate(("1111110000", "1111110000")):
        run(tmp_path, f"bb{seed}", right, of("zerogen", "films", seed=seed, method="best", overgenerate=2.0))
    run(tmp_path, "p", "1111111111", of("prompting", "films"))
    return tmp_path


def test_rows_are_compared_with_the_base_seed_by_seed(runs: Path) -> None:
    base, *others = differences(grid(read_runs([runs])), "zerogen")
    names = names_of([base.row, *(one.row for one in others)])
    assert (names[base.row], base.gain, base.interval, base.seeds) == ("zerogen", None, None, 2)
    assert [names[one.row] for one in others] == ["prompting", "zerogen method=best"]  # the best first
    assert others[1].gain == pytest.approx(0.6 - 0.3)
    assert others[1].interval is not None and others[1].interval[0] < 0.3 < others[1].interval[1]
    assert others[0].gain == pytest.approx(0.7)  # draws nothing: compared with the mean of the seeds
    assert base.seconds == pytest.approx(6)


def test_a_method_stands_for_what_it_sets(runs: Path) -> None:
    run(runs, "bbb", "1" * 10, of("zerogen", "films", method="best", overgenerate=3.0))
    rows = [row for row in grid(read_runs([runs])).rows if row.setting == "zerogen"]
    assert set(names_of(rows).values()) == {
        "zerogen",
        "method=best, overgenerate=2.0",
        "method=best, overgenerate=3.0",
    }


def test_models_are_named_where_they_differ() -> None:
    rows = [Row("zerogen", plm, "t", ()) for plm in ("small", "large")] + [Row("supervised", "none", "t", ("limit=9",))]
    assert list(names_of(rows).values()) == ["zerogen small", "zerogen large", "supervised limit=9"]


def test_the_interval_is_that_of_a_bootstrap_over_rows() -> None:
    random = np.random.default_rng(1)
    ours, theirs = ({(str(i), "", ""): float(x) for i, x in enumerate(random.random(400) < p)} for p in (0.7, 0.6))
    gain, (low, high) = paired(ours, theirs)
    each = np.array([ours[row] - theirs[row] for row in ours])
    drawn = each[random.integers(400, size=(4000, 400))].mean(1)
    assert gain == pytest.approx(each.mean())
    assert [low, high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist(), abs=0.01)
    assert paired(ours, ours) == (0, (0, 0))


@pytest.mark.parametrize("style", ["terminal", "markdown", "latex", "csv"])
def test_every_format_and_the_page(runs: Path, style: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = runs / "o.html"
    main([str(runs), "--against", "method=best", "--format", style, "--html", str(page)])
    out = capsys.readouterr().out
    assert out.index("method=best") < out.index("prompting") < out.rindex("zerogen")
    assert ("-0.300000" in out and "0.600000" in out) if style == "csv" else ("-30.0" in out and "60.0" in out)
    said = page.read_text()
    assert "films: what makes a difference?" in said and "points more than zerogen method=best" in said


def test_a_base_must_be_there_and_report_on_the_same_rows(runs: Path) -> None:
    summary = grid(read_runs([runs]))
    with pytest.raises(UserError, match="on films: 'method=bets' is unknown.*did you mean 'method=best'"):
        differences(summary, "method=bets")
    assert [one.row for one in differences(summary, "best")] == [one.row for one in differences(summary, "method=best")]
    assert differences(summary, "method=zerogen")[0].row.variant == ()
    lines = (runs / "films" / "p" / "predictions.jsonl").read_text().replace('"text": "t"', '"text": "another"')
    (runs / "films" / "p" / "predictions.jsonl").write_text(lines)
    with pytest.raises(UserError, match="reported on different gold rows"):
        differences(summary, "zerogen")


def test_a_page_without_differences_has_no_section_of_them(runs: Path) -> None:
    write_overview(grid(read_runs([runs])), runs / "o.html")
    assert "what makes a difference" not in (runs / "o.html").read_text()
