"""Plots of a report, as SVG that takes the page's colours, and as PNG."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from zerogen.support.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK = "#010203"  # stands for the page's text colour
_COLOURS = ("#0b6fb8", "#c2500a", "#2a7f3f", "#8a4fb5", "#a8325e", "#5c6b12")


@dataclass(frozen=True)
class Curve:
    """A metric over the number of training rows.

    At each size the mean, the sample standard deviation (0 for one seed) and the number of seeds.
    """

    name: str
    sizes: Sequence[int] = ()
    means: Sequence[float] = ()
    spreads: Sequence[float] = ()
    seeds: Sequence[int] = ()


@dataclass(frozen=True)
class Level:
    """A metric that does not depend on the number of synthetic rows: its mean over seeds."""

    name: str
    value: float
    seeds: int = 1


def trend_figure(curves: Sequence[Curve], levels: Sequence[Level], metric: str) -> Figure:
    """Draw curves with the spread over seeds, and levels as dashed lines; shares are shown in percent."""
    from matplotlib.figure import Figure

    names = [*(curve.name for curve in curves), *(level.name for level in levels)]
    columns = 2 if max(map(len, names)) <= 40 else 1  # long names side by side would be cut off
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(7, 3.2 + 0.25 * lines), layout="constrained")
    axes = figure.add_subplot()
    drawn: list[Any] = []
    for place, curve in enumerate(curves):
        colour = _COLOURS[place % len(_COLOURS)]
        means, spreads = [100 * mean for mean in curve.means], [100 * spread for spread in curve.spreads]
        drawn.append(axes.errorbar(curve.sizes, means, spreads, marker="o", capsize=3, color=colour))
    for place, level in enumerate(levels):
        colour = _COLOURS[(len(curves) + place) % len(_COLOURS)]
        drawn.append(axes.axhline(100 * level.value, linestyle=("--", ":", "-.")[place % 3], color=colour))
    axes.set_xlabel("training rows")
    axes.set_ylabel(f"{metric}, %")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_ylim(top=min(100.5, axes.get_ylim()[1]))
    _legend(figure, drawn, names, columns)
    return figure


def interval_figure(intervals: Sequence[tuple[str, float, tuple[float, float]]], label: str) -> Figure:
    """Draw values with their intervals, one line each, the first on top; shares are shown in points of a percent."""
    from matplotlib.figure import Figure

    lines = sum(len(wrap(name, 40)) for name, _, _ in intervals)
    figure = Figure(figsize=(7, 0.8 + 0.32 * lines), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(intervals))
    values = [100 * value for _, value, _ in intervals]
    errors = [[100 * abs(value - ends[end]) for _, value, ends in intervals] for end in (0, 1)]
    axes.axvline(0, color=_INK, linewidth=0.8, linestyle=":")
    axes.errorbar(values, places, xerr=errors, fmt="o", capsize=3, color=_COLOURS[0])
    axes.set_yticks(places, ["\n".join(wrap(_plain(name), 40)) for name, _, _ in intervals])
    axes.set_ylim(len(intervals) - 0.5, -0.5)
    axes.set_xlabel(label)
    return figure


def histogram_figure(lengths: Mapping[str, Sequence[int]]) -> Figure:
    """Draw how many texts of each label have how many words; of many labels, how many texts in all."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if len(lengths) > len(_COLOURS):
        lengths = {"": [length for of_label in lengths.values() for length in of_label]}

    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.add_subplot()
    longest = max(max(values) for values in lengths.values())
    step = max(1, -(-longest // 40))
    _, _, drawn = axes.hist(
        list(lengths.values()),
        bins=range(0, longest + step + 1, step),
        color=[_COLOURS[place % len(_COLOURS)] for place in range(len(lengths))],
        stacked=True,
    )
    axes.set_xlabel("words of a text")
    axes.set_ylabel("texts")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if len(lengths) > 1:
        _legend(figure, drawn, list(lengths), 3)
    return figure


def _legend(figure: Figure, drawn: Any, names: Sequence[str], columns: int) -> None:
    """Name what is drawn below the plot. By itself, matplotlib leaves out a name that begins with `_`."""
    plain = [_plain(name) for name in names]
    figure.legend(drawn, plain, loc="outside lower left", ncols=columns, frameon=False, fontsize="small")


def svg(figure: Figure) -> str:
    """Return a figure as an SVG element without a background, in the text colour of the page around it."""
    import matplotlib as mpl

    _ink(figure)
    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "zerogen"}), _any_script():
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    drawn = text.getvalue()
    return drawn[drawn.index("<svg") :].replace(_INK, "currentColor")


def png(figure: Figure, path: Path) -> None:
    """Write a figure on white."""
    content = io.BytesIO()
    with _any_script():
        figure.savefig(content, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    write_bytes(content.getvalue(), path)


def _plain(name: str) -> str:
    """Keep matplotlib from reading what stands between dollars as a formula."""
    return name.replace("$", r"\$")


@contextmanager
def _any_script() -> Iterator[None]:
    """Silence that matplotlib's font lacks a letter: in a page, the browser has another one."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def _ink(figure: Figure) -> None:
    for axes in figure.axes:
        for name in ("top", "right"):
            axes.spines[name].set_visible(False)
        for spine in axes.spines.values():
            spine.set_color(_INK)
        axes.tick_params(colors=_INK)
        axes.xaxis.label.set_color(_INK)
        axes.yaxis.label.set_color(_INK)
    for legend in figure.legends:
        for label in legend.get_texts():
            label.set_color(_INK)
