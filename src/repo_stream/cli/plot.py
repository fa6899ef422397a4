"""`inspect --plot`: a picture of a repo, records by collection over time and their sizes.

It is drawn by matplotlib, which is an extra, without a window and without what `pyplot` keeps for a
whole process. Strangers choose the names of collections, so no text is taken for a formula, nothing
but ASCII is drawn, and settings of the user, such as to let LaTeX draw all text, do not apply.

The same repo gives the same file, byte by byte, with the same matplotlib.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from importlib import import_module
from pathlib import PurePath
from typing import Any, Final, NamedTuple

from repo_stream import Commit, MissingExtra
from repo_stream.cli.screen import name_of, one_line, short_did, shortened
from repo_stream.cli.tallies import Named, Tally
from repo_stream.cli.timeline import (
    Axis,
    Timeline,
    Timelines,
    axis_of,
    counts_on,
    in_finer,
    unit_name,
)

__all__ = ["PICTURES", "Picture", "draw", "picture_form", "require_matplotlib"]

#: The forms of pictures, by the ends of their names.
PICTURES: Final = {".png": "png", ".svg": "svg"}

# The colours of Okabe and Ito, in the order in which those that touch differ most for the
# colour-blind, and a grey that they do not take for one of them.
_COLOURS: Final = ("#0072B2", "#E69F00", "#56B4E9", "#CC79A7", "#D55E00", "#009E73")
_OTHERS_COLOUR: Final = "#C8C8C8"
_GREY: Final = "#555555"
_SIZE: Final = (9.0, 6.6)  # inches
_DPI: Final = 150
_TITLE: Final = 10.5  # points
_LEFT: Final = 0.012  # where titles begin, as a share of the width
_MOST_COLUMNS: Final = 120
_MOST_MONTHS_IN_DAYS: Final = 3
_MOST_DAYS_IN_HOURS: Final = 3
# There is room for so many, so that a few are not monstrous.
_FEWEST_COLUMNS: Final = 7
_FEWEST_BARS: Final = 4
# In characters.
_MOST_NAME: Final = 42
_LEGEND_WIDTH: Final = 120
_STYLE: Final = {
    "text.parse_math": False,
    "text.usetex": False,
    "svg.hashsalt": "repo-stream",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",  # the one that matplotlib brings along
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.7,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
}


@dataclass(frozen=True)
class Picture:
    """What to draw of a repo.

    Attributes:
        commit: its commit.
        collections: its largest collections, and all others as one of them.
        whole: whether nothing of the repo is missing.
    """

    commit: Commit
    collections: Sequence[Named]
    whole: bool


def picture_form(path: str) -> str:
    """Return the form of a picture by the end of its name.

    Raises:
        ValueError: if it is of no form that is drawn.
    """
    form = PICTURES.get(PurePath(path).suffix.casefold())
    if form is None:
        raise ValueError(f"name a {' or '.join(PICTURES)} file, not {path!r}")
    return form


def require_matplotlib() -> None:
    """Import matplotlib, which takes a second.

    Raises:
        MissingExtra: if it is not installed.
    """
    try:
        import_module("matplotlib.figure")
    except ImportError as error:
        raise MissingExtra(extra="plot", package="matplotlib", feature="--plot") from error


def draw(picture: Picture, form: str) -> bytes:
    """Return the bytes of a picture.

    Args:
        picture: what to draw.
        form: one of the values of `PICTURES`.

    Raises:
        MissingExtra: if matplotlib is not installed.
    """
    require_matplotlib()
    with _our_style():
        figure = import_module("matplotlib.figure").Figure(figsize=_SIZE, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)  # inches
        parts = _parts(picture.collections)
        heading, above, below = figure.subfigures(3, 1, height_ratios=(0.55, 3.2, 2.85))
        _draw_heading(heading, picture)
        _draw_time(above, parts)
        _draw_sizes(below, parts)
        file = io.BytesIO()
        figure.savefig(file, format=form, dpi=_DPI, metadata=_metadata(picture.commit, form))
        return file.getvalue()


@contextmanager
def _our_style() -> Generator[None]:
    """Draw as we do, not as the user has set it; what is set here ends with this block."""
    matplotlib = import_module("matplotlib")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def _metadata(commit: Commit, form: str) -> dict[str, str | None]:
    """Return what a file says of itself: nothing that differs from day to day."""
    title = {"Title": f"{one_line(commit.did)}, rev {commit.rev}"}
    if form == "svg":
        return {**title, "Date": None, "Creator": None}
    return {**title, "Software": None}


# --- What is drawn --------------------------------------------------------------------------------


class _Part(NamedTuple):
    """A collection, or all that are not drawn on their own, with its colour."""

    name: str
    tally: Tally
    timeline: Timeline | Timelines
    colour: str


def _parts(collections: Sequence[Named]) -> list[_Part]:
    """Return what matters most by its number of records or its size, and all others as one."""
    records = sum(each.tally.records for each in collections) or 1
    size = sum(each.tally.size for each in collections) or 1

    def share(named: Named) -> tuple[bool, float]:
        is_one = named.collections == 1
        return is_one, max(named.tally.records / records, named.tally.size / size)

    ranked = sorted(collections, key=share, reverse=True)
    most = len(_COLOURS)
    shown, others = ranked[:most], ranked[most:]
    shown.sort(key=lambda named: named.tally.size, reverse=True)
    parts = [
        _Part(shortened(name_of(name), _MOST_NAME), tally, timeline, colour)
        for (name, tally, timeline, _), colour in zip(shown, _COLOURS, strict=False)
    ]
    if others:
        how_many = sum(each.collections for each in others)
        tally = Tally()
        for each in others:
            tally.include(each.tally)
        name = shortened(name_of(others[0].name), _MOST_NAME)
        if how_many > 1:
            name = f"{how_many:,} others"
        timelines = Timelines(each.timeline for each in others)
        parts.append(_Part(name, tally, timelines, _OTHERS_COLOUR))
    return parts


def _draw_heading(figure: Any, picture: Picture) -> None:  # noqa: ANN401 - matplotlib has no types here
    commit = picture.commit
    total = sum(named.tally.records for named in picture.collections)
    size = sum(named.tally.size for named in picture.collections)
    facts = [
        f"rev {commit.rev}, {commit.time:%Y-%m-%d %H:%M} UTC",
        f"{total:,} {'record' if total == 1 else 'records'}",
        _bytes(size),
    ]
    if not picture.whole:
        facts.append("parts of the repo are missing")
    figure.text(_LEFT, 0.86, short_did(commit.did), size=14, weight="bold", va="top")
    figure.text(_LEFT, 0.3, "  |  ".join(facts), color=_GREY, size=10, va="top")


def _title(figure: Any, text: str) -> None:  # noqa: ANN401 - as above
    figure.suptitle(text, x=_LEFT, ha="left", size=_TITLE, weight="bold")


# --- Records over time ----------------------------------------------------------------------------


def _draw_time(figure: Any, parts: Sequence[_Part]) -> None:  # noqa: ANN401 - as above
    everything = Timelines(part.timeline for part in parts)
    undated = sum(part.tally.records for part in parts) - everything.months.total()
    axis = axis_of(everything.months, _MOST_COLUMNS)
    axes = figure.subplots()
    if axis.columns == 0:
        _title(figure, "Records over time")
        _say_instead(axes, "No record has a time in its rkey" if undated else "No records")
        return
    if axis.columns * axis.step <= _MOST_MONTHS_IN_DAYS:
        axis = in_finer(axis, everything, "day")
    if axis.unit == "day" and axis.columns <= _MOST_DAYS_IN_HOURS:
        axis = in_finer(axis, everything, "hour")
    _draw_bars(axes, axis, parts)
    dated = [part for part in parts if part.timeline.months]
    _draw_legend(figure, dated, f"Records by {axis.step_name}, by the time in the rkey")
    axes.yaxis.set_major_locator(import_module("matplotlib.ticker").MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(_count_tick)
    axes.grid(axis="y")
    if notes := _left_out(axis, undated):
        axes.set_xlabel(f"Not shown: {notes}", color=_GREY, loc="left", size=8.5)


def _draw_bars(axes: Any, axis: Axis, parts: Sequence[_Part]) -> None:  # noqa: ANN401 - as above
    dates = import_module("matplotlib.dates")
    edges = dates.date2num([axis.beginning(column) for column in range(axis.columns + 1)])
    widths = edges[1:] - edges[:-1]
    below = [0] * axis.columns
    for part in parts:
        counts = axis.fill(counts_on(part.timeline, axis))
        axes.bar(
            edges[:-1],
            counts,
            widths,
            below,
            align="edge",
            color=part.colour,
            edgecolor="white",
            linewidth=min(0.6, 24 / axis.columns),
        )
        below = [under + count for under, count in zip(below, counts, strict=True)]
    margin = max(0, (_FEWEST_COLUMNS - axis.columns) / 2) * widths[0]
    axes.set_xlim(edges[0] - margin, edges[-1] + margin)
    axes.set_ylim(0, max(below) * 1.05)
    locator = dates.AutoDateLocator(tz=UTC, minticks=3, maxticks=9)
    formatter = dates.ConciseDateFormatter(locator, tz=UTC)
    if axis.unit == "hour":  # of which that names one day alone, the last
        formatter = dates.DateFormatter("%Y-%m-%d\n%H:%M", tz=UTC)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(formatter)


def _draw_legend(figure: Any, parts: Sequence[_Part], title: str) -> None:  # noqa: ANN401 - as above
    patch = import_module("matplotlib.patches").Patch
    longest = max(len(part.name) for part in parts)
    figure.legend(
        [patch(color=part.colour) for part in parts],
        [f" {part.name}" for part in parts],  # one that begins with _ would be left out
        loc="outside upper left",
        ncols=max(1, min(4, _LEGEND_WIDTH // (longest + 5))),
        frameon=False,
        handlelength=0.9,
        handleheight=0.9,
        handletextpad=0.2,
        columnspacing=1.4,
        fontsize=8.5,
        title=title,
        title_fontproperties={"size": _TITLE, "weight": "bold"},
        alignment="left",
        borderpad=0,
        borderaxespad=0.92,  # so that it begins where other titles do
    )


def _left_out(axis: Axis, undated: int) -> str:
    """Return which records the time axis does not show."""
    parts: list[str] = []
    if undated:
        parts.append(f"{undated:,} without a time in {'its rkey' if undated == 1 else 'the rkeys'}")
    if axis.before:
        parts.append(f"{axis.before:,} before {unit_name(axis.first, axis.unit)}")
    if axis.after:
        parts.append(f"{axis.after:,} since {unit_name(axis.last + 1, axis.unit)}")
    return ", ".join(parts)


# --- Sizes ----------------------------------------------------------------------------------------


def _draw_sizes(figure: Any, parts: Sequence[_Part]) -> None:  # noqa: ANN401 - as above
    _title(figure, "Size by collection")
    axes = figure.subplots()
    if not parts:
        _say_instead(axes, "No records")
        return
    places = range(0, -len(parts), -1)  # from the top
    sizes, colours = [part.tally.size for part in parts], [part.colour for part in parts]
    axes.barh(places, sizes, 0.72, color=colours)
    axes.set_yticks(places, [part.name for part in parts])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(0.4 - max(len(parts), _FEWEST_BARS), 0.6)
    axes.set_xlim(0, max(sizes) * 1.05)
    for (head, of), right in zip(_FIGURES.items(), _FIGURES_RIGHT, strict=True):
        cells = [
            (head, 0.85, _GREY),
            *((of(each.tally), at, "black") for at, each in zip(places, parts, strict=True)),
        ]
        for text, place, colour in cells:
            axes.annotate(
                text,
                (1, place),
                (right, 0),
                xycoords=axes.get_yaxis_transform(),
                textcoords="offset points",
                ha="right",
                va="center_baseline",
                color=colour,
                annotation_clip=False,
            )
    axes.xaxis.set_major_locator(import_module("matplotlib.ticker").MaxNLocator(5))
    axes.xaxis.set_major_formatter(_size_tick)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)


def _say_instead(axes: Any, text: str) -> None:  # noqa: ANN401 - as above
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=_GREY, size=11)


def _bytes(size: float) -> str:
    for unit in "B", "kB", "MB", "GB":
        if size < 999.5 or unit == "GB":
            break
        size /= 1000
    return f"{size:,.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.3g} {unit}"


def _count_tick(count: float, _: object) -> str:
    return f"{count:,.0f}"


def _size_tick(size: float, _: object) -> str:
    return _bytes(size)


# The figures beside the bars, and where each ends, in points right of the axes.
_FIGURES: Final[dict[str, Callable[[Tally], str]]] = {
    "size": lambda tally: _bytes(tally.size),
    "records": lambda tally: f"{tally.records:,}",
    "mean": lambda tally: _bytes(round(tally.size / tally.records)),
    "largest": lambda tally: _bytes(tally.largest),
}
_FIGURES_RIGHT: Final = (58, 116, 168, 220)
