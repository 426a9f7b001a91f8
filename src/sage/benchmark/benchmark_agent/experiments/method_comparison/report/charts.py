"""Pictures as SVG in the page: drawn in shares of their width, so that they fit a phone with letters of the same size.

Colours are the page's own (classes of `page.css`), light or dark. A picture beside its numbers is hidden from screen
readers, one that stands alone says in words what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from sage.libs.finetune.agent.types import Interval

Points = Sequence[tuple[float, float]]
_LABEL_WIDTH, _LABEL_HEIGHT = 7.5, 14.0
_NOMINAL = (300.0, 220.0)
"""Pixels of a scatter plot on a phone, for which its labels are placed."""


@dataclass(frozen=True)
class Span:
    """What an axis reaches over."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """Where a value is, in percent of the axis; what is outside is put on its end."""
        return 100 * min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def ticks(self, most: int = 5) -> list[float]:
        """Round values on the axis, so many at most.

        Example:
            >>> Span(-0.12, 0.31).ticks()
            [-0.1, 0.0, 0.1, 0.2, 0.3]
        """
        raw = (self.high - self.low) / most
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(number * step, 12) + 0.0 for number in range(first, last + 1)]


def span_of(values: Iterable[float], *, around: Sequence[float] = (), margin: float = 0.06) -> Span:
    """An axis that all values are on, and those `around` too, with a margin.

    Example:
        >>> span_of([1.0, 3.0], margin=0.0), span_of([2.0])
        (Span(low=1.0, high=3.0), Span(low=1.9, high=2.1))
    """
    known = [value for value in (*values, *around) if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    room = margin * (high - low) if high > low else 0.05 * abs(high) or 0.5
    return Span(low - room, high + room)


def forest(axis: Span, value: float, interval: Interval, kind: str) -> str:
    """A difference with its interval, and the line of no difference."""
    at, low, high, none = (axis.share(one) for one in (value, interval.low, interval.high, 0.0))
    return (
        f'<svg class="row {kind}" aria-hidden="true"><line class="none" x1="{none:.2f}%" x2="{none:.2f}%" y1="0" '
        f'y2="100%"/><line class="ci" x1="{low:.2f}%" x2="{high:.2f}%" y1="50%" y2="50%"/>'
        f'<circle cx="{at:.2f}%" cy="50%" r="5"/></svg>'
    )


def axis(span: Span, shown: Sequence[tuple[float, str]]) -> str:
    """The values below a column of rows."""
    marks = "".join(
        f'<text x="{span.share(value):.2f}%" y="14" text-anchor="middle">{escape(label)}</text>'
        for value, label in shown
    )
    return f'<svg class="row axis" aria-hidden="true">{marks}</svg>'


def bar(share: float, interval: Interval | None) -> str:
    """A share of 1 as a bar with its interval."""
    marks = f'<rect class="fill" height="100%" width="{100 * min(1.0, max(0.0, share)):.1f}%" rx="3"/>'
    if interval is not None:
        low, high = (100 * min(1.0, max(0.0, end)) for end in (interval.low, interval.high))
        marks += f'<line class="ci" x1="{low:.1f}%" x2="{high:.1f}%" y1="50%" y2="50%"/>'
    return f'<svg class="row bar" aria-hidden="true">{marks}</svg>'


def curves(lines: Sequence[tuple[Points, str]], across: Span, up: Span, described: str) -> str:
    """Lines over a common ground, each with its class, later ones above; the ends of both axes are written out."""
    paths = "".join(
        f'<path class="{kind}" d="M{" L".join(_at(point, across, up) for point in points)}"/>'
        for points, kind in lines
        if points
    )
    ends = (
        f'<text x="100%" y="11" text-anchor="end">{up.high:.3g}</text><text x="0" y="100%" dy="-16">{up.low:.3g}</text>'
        f'<text x="0" y="100%" dy="-2">{max(0.0, across.low):.0f}</text>'
        f'<text x="100%" y="100%" dy="-2" text-anchor="end">{across.high:,.0f}</text>'
    )
    return (
        f'<svg class="curves" role="img" aria-label="{escape(described)}"><svg width="100%" height="88%" '
        f'viewBox="0 0 1000 1000" preserveAspectRatio="none">{paths}</svg>{ends}</svg>'
    )


@dataclass(frozen=True)
class Mark:
    """A point of a scatter plot.

    Attributes:
        x: Across.
        y: Up.
        low: Lower end of the line through it.
        high: Upper end.
        label: A few letters.
        kind: Its class.
    """

    x: float
    y: float
    low: float
    high: float
    label: str
    kind: str


def scatter(marks: Sequence[Mark], across: str, described: str) -> str:
    """Points with labels that keep out of each other's way; 0 is the left end, y is in percent."""
    wide = span_of([mark.x for mark in marks], around=(0.0,))
    wide = Span(0.0, wide.high)
    tall = span_of([end for mark in marks for end in (mark.low, mark.high, mark.y)], margin=0.12)
    grid = "".join(
        f'<line class="none" x1="0" x2="100%" y1="{100 - tall.share(at):.1f}%" y2="{100 - tall.share(at):.1f}%"/>'
        f'<text x="0" y="{100 - tall.share(at):.1f}%" dy="-3">{100 * at:g}%</text>'
        for at in tall.ticks(4)
    )
    drawn = "".join(
        f'<g class="{mark.kind}"><line class="ci" x1="{wide.share(mark.x):.1f}%" x2="{wide.share(mark.x):.1f}%" '
        f'y1="{100 - tall.share(mark.low):.1f}%" y2="{100 - tall.share(mark.high):.1f}%"/>'
        f'<circle cx="{wide.share(mark.x):.1f}%" cy="{100 - tall.share(mark.y):.1f}%" r="5"/>{label}</g>'
        for mark, label in zip(marks, _labels(marks, wide, tall), strict=True)
    )
    below = "".join(
        f'<text x="{wide.share(at):.1f}%" y="14" text-anchor="middle">{_short(at)}</text>' for at in wide.ticks(4)[1:]
    )
    return (
        f'<figure><svg class="scatter" role="img" aria-label="{escape(described)}">{grid}{drawn}</svg>'
        f'<svg class="row axis" aria-hidden="true">{below}</svg><figcaption>{escape(across)}</figcaption></figure>'
    )


def cloud(groups: Sequence[tuple[Points, str]], across: Span, up: Span, described: str) -> str:
    """Many points as dots; a group's class gives their colour."""
    paths = "".join(
        f'<path class="{kind}" d="{"".join(f"M{_at(point, across, up)}h0" for point in points)}"/>'
        for points, kind in groups
        if points
    )
    return (
        f'<svg class="cloud" role="img" aria-label="{escape(described)}" viewBox="0 0 1000 1000" '
        f'preserveAspectRatio="none">{paths}</svg>'
    )


def steps(values: Sequence[float | None], span: Span) -> str:
    """Values of a few choices side by side as a line with points."""
    places = [
        (100 * (number + 0.5) / len(values), 100 - span.share(value))
        for number, value in enumerate(values)
        if value is not None
    ]
    lines = "".join(
        f'<line class="ci" x1="{x:.1f}%" y1="{y:.1f}%" x2="{to_x:.1f}%" y2="{to_y:.1f}%"/>'
        for (x, y), (to_x, to_y) in pairwise(places)
    )
    dots = "".join(f'<circle cx="{x:.1f}%" cy="{y:.1f}%" r="4"/>' for x, y in places)
    return f'<svg class="row steps" aria-hidden="true">{lines}{dots}</svg>'


def _at(point: tuple[float, float], across: Span, up: Span) -> str:
    return f"{10 * across.share(point[0]):.0f} {1000 - 10 * up.share(point[1]):.0f}"


def _labels(marks: Sequence[Mark], wide: Span, tall: Span) -> list[str]:
    """The label of each point at the first place around it where nothing is yet."""
    width, height = _NOMINAL
    spots = [(width * wide.share(mark.x) / 100, height * (1 - tall.share(mark.y) / 100)) for mark in marks]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in spots]
    labels = []
    for (x, y), mark in zip(spots, marks, strict=True):
        long = _LABEL_WIDTH * len(mark.label)
        places = [
            (aside if side > 0 else -aside - long, down)
            for aside in (8.0, 24.0, 40.0, 60.0)
            for down in (4.0, -8.0, 16.0, -20.0, 28.0)
            for side in (-1, 1)
        ]
        boxes = [(x + dx, y + dy - _LABEL_HEIGHT + 3, x + dx + long, y + dy + 3) for dx, dy in places]
        free = [
            number
            for number, box in enumerate(boxes)
            if box[0] >= 0 and box[2] <= width and not any(_overlap(box, other) for other in taken)
        ]
        best = free[0] if free else 0
        taken.append(boxes[best])
        dx, dy = places[best]
        at = f'x="{wide.share(mark.x):.1f}%" y="{100 - tall.share(mark.y):.1f}%" dx="{dx:.0f}" dy="{dy:.0f}"'
        labels.append(f"<text {at}>{escape(mark.label)}</text>")
    return labels


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _short(number: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:g}{unit}"
    return f"{number:g}"
