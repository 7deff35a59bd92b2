"""Charts as figures for SVG: where bars and points stand in a box. Templates draw them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

POINTS_MAX = 400
"""A longer line is thinned: of each stretch the least and the greatest point stay."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar in a box of 100 × 100, and what it says."""

    x: float
    width: float
    height: float
    title: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line through a box of 100 × 100: points as SVG writes them."""

    name: str
    points: str


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines over one pair of axes, with the ends of both."""

    lines: tuple[Line, ...]
    x_min: float
    x_max: float
    y_min: float
    y_max: float


def bars(edges: Sequence[float | str], counts: Sequence[int]) -> list[Bar]:
    """A histogram: `counts[i]` values are in `[edges[i], edges[i + 1])`, edges being numbers, or
    instants as text."""
    most = max(counts, default=0)
    if most == 0 or len(edges) != len(counts) + 1:
        return []
    width = 100 / len(counts)
    return [
        Bar(
            x=place * width,
            width=width * 0.92,
            height=100 * count / most,
            title=f"{_edge(edges[place])} to {_edge(edges[place + 1])}: {count:,}",
        )
        for place, count in enumerate(counts)
    ]


def _edge(edge: float | str) -> str:
    return edge if isinstance(edge, str) else f"{edge:.6g}"


def plot(series: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> Plot | None:
    """Lines `(name, [(x, y), …])`; points that are not finite are left out. None without points."""
    finite = [
        (name, thinned([(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]))
        for name, points in series
    ]
    every = [point for _, points in finite for point in points]
    if not every:
        return None
    xs, ys = [x for x, _ in every], [y for _, y in every]
    x_min, x_max, y_min, y_max = min(xs), max(xs), min(ys), max(ys)

    def place(x: float, y: float) -> str:
        across = 50.0 if x_max == x_min else 100 * (x - x_min) / (x_max - x_min)
        up = 50.0 if y_max == y_min else 100 * (y - y_min) / (y_max - y_min)
        return f"{across:.2f},{100 - up:.2f}"

    lines = tuple(
        Line(name=name, points=" ".join(place(x, y) for x, y in points))
        for name, points in finite
        if points
    )
    return Plot(lines=lines, x_min=x_min, x_max=x_max, y_min=y_min, y_max=y_max)


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `POINTS_MAX` of the points, in order, with every peak."""
    if len(points) <= POINTS_MAX:
        return list(points)
    stretch = math.ceil(len(points) / (POINTS_MAX // 2))
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        ends = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept
