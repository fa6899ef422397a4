"""How the pictures look: few lines, each with its name at its end, ours told apart from the others.

It needs matplotlib, which is no dependency of anything here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: How far apart the names of lines are, as a share of the height of the picture.
GAP = 0.062
DPI = 130


@dataclass(frozen=True)
class Style:
    """How a line looks. Lines are told apart by width, dashes and markers, not by colour alone.

    Attributes:
        colour: of the line, its markers and its name.
        strong: whether it is thick and solid, with filled markers, or thin and dashed, with hollow
            ones.
        marker: the shape of its markers, as matplotlib calls it.
        width: how thick it is if it is strong, in points. A wide, pale one is seen under another.
    """

    colour: str
    strong: bool = True
    marker: str = "o"
    width: float = 2.8

    def options(self) -> dict[str, Any]:
        return {
            "color": self.colour,
            "linewidth": self.width if self.strong else 1.2,
            "linestyle": "-" if self.strong else "--",
            "marker": self.marker,
            "markersize": 6,
            "markerfacecolor": self.colour if self.strong else "white",
            "zorder": 2 if self.strong else 3,  # the thin one is seen on the thick one
        }


@dataclass(frozen=True)
class End:
    """The end of a line, which gets a name."""

    name: str
    x: float
    y: float
    style: Style


def label_ends(axes: Any, ends: Sequence[End], right: float = 1.04) -> None:  # noqa: ANN401 - matplotlib has no types here
    """Write the names of lines beside the axes, in the order of their ends, none over another.

    It comes last: from then on the limits of the axes are fixed.

    Args:
        axes: the axes of matplotlib.
        ends: where the lines end.
        right: where the names begin, in widths of the axes.
    """
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = sorted(ends, key=lambda end: end.y)
    heights = spread([to_axes.transform((end.x, end.y))[1] for end in ends], GAP)
    for end, height in zip(ends, heights, strict=True):
        axes.annotate(
            end.name,
            xy=(end.x, end.y),
            xytext=(right, height),
            textcoords="axes fraction",
            va="center",
            color=end.style.colour,
            weight="bold" if end.style.strong else "normal",
            fontsize=9,
            arrowprops={
                "arrowstyle": "-",
                "color": end.style.colour,
                "linewidth": 0.6,
                "shrinkA": 1,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move sorted heights as little as it takes to leave a gap between any two of them."""
    clusters: list[tuple[float, int]] = []  # the middle of each, and how many are in it
    for height in heights:
        middle, count = height, 1
        while clusters:
            below, others = clusters[-1]
            if middle - below >= gap * (count + others) / 2:
                break
            clusters.pop()
            middle = (middle * count + below * others) / (count + others)
            count += others
        clusters.append((middle, count))
    return [
        middle + gap * (place - (count - 1) / 2)
        for middle, count in clusters
        for place in range(count)
    ]


def plain(axes: Any, title: str, x: str) -> None:  # noqa: ANN401 - as above
    """Leave out of the axes what nobody looks at."""
    axes.set_title(title, loc="left")
    axes.set_xlabel(x)
    axes.grid(which="major", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
