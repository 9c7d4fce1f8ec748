"""Draws the pages' mermaid flowcharts as SVG while the site is built, so that a reader's browser fetches nothing.

What the pages use: `flowchart LR`, `name`, `name["text<br/>text"]` and `-->`. Anything else is an error. Each chart is
drawn twice, along the line of reading and down the page, and the style sheet shows the one that fits the screen; one
that is wider than the text column is drawn down the page only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

_NODE = re.compile(r'^(\w+)(?:\["([^"]+)"\])?$')
COLUMN_PIXELS = 736
"""Width of a page's text on a large screen."""
_CHARACTER, _LINE, _PADDING, _GAP, _SIDE_GAP, _HEAD = 7.4, 18, 12, 36, 18, 6


@dataclass
class Flowchart:
    """What the text says."""

    lines: dict[str, list[str]] = field(default_factory=dict)
    """Name to lines of text, of every box."""
    arrows: list[tuple[str, str]] = field(default_factory=list)
    """From and to."""


def parsed(text: str) -> Flowchart:
    """The chart in mermaid's words.

    Raises: ValueError if it uses more of mermaid than this module draws.
    """
    head, *rest = [line.strip() for line in text.strip().splitlines()]
    if head != "flowchart LR":
        raise ValueError(
            f"a picture must begin with 'flowchart LR', got {head!r}: docs/site/flowchart.py draws no other"
        )
    chart = Flowchart()
    for line in rest:
        names = []
        for part in line.split("-->"):
            found = _NODE.match(part.strip())
            if not found:
                raise ValueError(f"docs/site/flowchart.py cannot draw {line!r}")
            names.append(found[1])
            if found[2] or found[1] not in chart.lines:
                chart.lines[found[1]] = (found[2] or found[1]).split("<br/>")
        chart.arrows += pairwise(names)
    return chart


def layers(chart: Flowchart) -> tuple[list[list[str]], list[list[str]]]:
    """Names by layer, and every arrow as a path with a bend in each layer that it passes, named `from>to@layer`.

    A box is one layer behind the last of those that lead to it. Within a layer boxes stand in the mean order of what
    leads to them (Sugiyama, Tagawa & Toda, 1981).
    """
    depth = dict.fromkeys(chart.lines, 0)
    for _ in depth:
        for start, end in chart.arrows:
            depth[end] = max(depth[end], depth[start] + 1)
    if max(depth.values(), default=0) >= len(depth):
        raise ValueError("the arrows of a flowchart must not run in a circle")
    layer = [[name for name in depth if depth[name] == number] for number in range(max(depth.values()) + 1)]
    paths = []
    for start, end in chart.arrows:
        bends = [f"{start}>{end}@{number}" for number in range(depth[start] + 1, depth[end])]
        for number, bend in enumerate(bends, depth[start] + 1):
            layer[number].append(bend)
        paths.append([start, *bends, end])
    place: dict[str, float] = {}
    for names in layer:
        before = {name: [place[path[path.index(name) - 1]] for path in paths if name in path[1:]] for name in names}
        names.sort(key=lambda name: sum(before[name]) / len(before[name]) if before[name] else 0)
        place |= {name: number - (len(names) - 1) / 2 for number, name in enumerate(names)}
    return layer, paths


def pictures(text: str) -> str:
    """The chart in the ways that fit a column of text, of which the style sheet shows one."""
    along, down = svg(text), svg(text, down=True)
    fits = float(along.split('viewBox="0 0 ')[1].split()[0]) <= COLUMN_PIXELS
    return f'<div class="picture{" turns" if fits else ""}">{along if fits else ""}{down}</div>'


def svg(text: str, *, down: bool = False) -> str:
    """The chart, from left to right or from top to bottom; colours are the page's."""
    chart = parsed(text)
    layer, paths = layers(chart)
    size = {name: _size(lines) for name, lines in chart.lines.items()}
    size |= {bend: (0.0, 0.0) for path in paths for bend in path[1:-1]}
    along, across = (1, 0) if down else (0, 1)
    extents = [sum(size[name][across] for name in names) + _SIDE_GAP * (len(names) - 1) for names in layer]
    centre: dict[str, tuple[float, float]] = {}
    depths: dict[str, float] = {}
    position = 1.0
    for names, extent in zip(layer, extents, strict=True):
        depth = max(size[name][along] for name in names)
        side = 1 + (max(extents) - extent) / 2
        for name in names:
            depths[name] = depth
            middle = (position + depth / 2, side + size[name][across] / 2)
            centre[name] = (middle[1], middle[0]) if down else middle
            side += size[name][across] + _SIDE_GAP
        position += depth + _GAP
    length, breadth = position - _GAP + 1, max(extents) + 2
    width, height = (breadth, length) if down else (length, breadth)
    drawn = [
        _arrow([(*centre[name], depths[name]) for name in path], size[path[0]], size[path[-1]], down) for path in paths
    ]
    drawn += [_box(centre[name], size[name], lines) for name, lines in chart.lines.items()]
    label = "; ".join(f"{' '.join(chart.lines[start])} to {' '.join(chart.lines[end])}" for start, end in chart.arrows)
    way = "down" if down else "along"
    return (
        f'<svg class="flowchart {way}" role="img" aria-label="{escape(label)}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" xmlns="http://www.w3.org/2000/svg">{"".join(drawn)}</svg>'
    )


def _size(lines: list[str]) -> tuple[float, float]:
    return max(len(line) for line in lines) * _CHARACTER + 2 * _PADDING, len(lines) * _LINE + 2 * _PADDING


def _box(centre: tuple[float, float], size: tuple[float, float], lines: list[str]) -> str:
    (x, y), (width, height) = centre, size
    first = y - (len(lines) - 1) * _LINE / 2
    words = "".join(
        f'<text x="{x:.1f}" y="{first + number * _LINE:.1f}"{" class=more" if number else ""}>{escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    corner = f'x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {corner} rx="6"/>{words}'


def _arrow(
    path: list[tuple[float, float, float]], start: tuple[float, float], end: tuple[float, float], down: bool
) -> str:
    """A curve from the border of the first box to that of the last, straight beside the boxes that it passes.

    Args:
        path: x, y and the layer's depth at each box and bend.
    """
    turned = [(y, x, depth) for x, y, depth in path] if down else path
    (x0, y0, _), *bends, (x1, y1, _) = turned
    axis = 1 if down else 0
    points = [(x0 + start[axis] / 2, y0)]
    for x, y, depth in bends:
        points += [(x - depth / 2, y), (x + depth / 2, y)]
    points.append((x1 - end[axis] / 2 - _HEAD, y1))

    def at(x: float, y: float) -> str:
        return f"{y:.1f} {x:.1f}" if down else f"{x:.1f} {y:.1f}"

    curve = f"M{at(*points[0])}"
    for (x, y), (next_x, next_y) in pairwise(points):
        middle = (x + next_x) / 2
        curve += f"C{at(middle, y)} {at(middle, next_y)} {at(next_x, next_y)}"
    x, y = points[-1]
    head = f"M{at(x, y - 4)}L{at(x + _HEAD, y)}L{at(x, y + 4)}Z"
    return f'<path class="line" d="{curve}"/><path class="head" d="{head}"/>'


class _Drawn(SphinxTransform):
    """Puts the pictures in place of their texts."""

    default_priority = 400

    def apply(self, **kwargs: object) -> None:
        for block in list(self.document.findall(nodes.literal_block)):
            if block.get("language") == "mermaid":
                block.replace_self(nodes.raw("", pictures(block.astext()), format="html"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.add_transform(_Drawn)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
