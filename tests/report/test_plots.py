"""Plots take names as they are, in any script, and the colours of the page."""

import warnings
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from matplotlib.container import ErrorbarContainer

from zerogen.report.plots import Curve, Level, histogram_figure, png, svg, trend_figure

NAMES = ["$x_{$ and $10-$20", "<b>&amp;", "中文", "فيلم"]


def texts(drawn: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]


@pytest.fixture(autouse=True)
def no_warning() -> None:
    warnings.simplefilter("error")


def test_names_stand_in_the_legend_as_they_are(tmp_path: Path) -> None:
    histogram = svg(histogram_figure({name: [1, 2, 3] for name in NAMES}))
    assert set(NAMES) <= set(texts(histogram))
    figure = trend_figure([Curve(name, [1, 2], [0.1, 0.2], [0, 0.1], [1, 2]) for name in NAMES], [], "F1")
    assert set(NAMES) <= set(texts(svg(figure)))
    png(figure, tmp_path / "trend.png")
    assert (tmp_path / "trend.png").stat().st_size > 1000


def test_error_bars_span_the_spread_over_seeds() -> None:
    figure = trend_figure([Curve("a", [100, 200], [0.25, 0.5], [0, 0.125], [1, 2])], [], "accuracy")
    (drawn,) = figure.axes[0].containers
    assert isinstance(drawn, ErrorbarContainer)
    (bars,) = drawn.lines[2]
    assert [bar.tolist() for bar in bars.get_segments()] == [[[100, 25], [100, 25]], [[200, 37.5], [200, 62.5]]]


def test_text_takes_the_colour_of_the_page() -> None:
    drawn = svg(trend_figure([Curve("a", [1], [0.5], [0], [1])], [Level("b", 0.4)], "accuracy"))
    assert "currentColor" in drawn
    assert "#010203" not in drawn


def test_many_labels_are_drawn_as_one() -> None:
    drawn = svg(histogram_figure({f"label {i}": [i] for i in range(60)}))
    assert not any("label" in text for text in texts(drawn))
