"""Small line charts as one SVG file, so that a picture needs no library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

WIDTH, HEIGHT, MARGIN = 320, 240, 56
COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#dc2626")

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One chart: a line for each name."""

    title: str
    lines: Mapping[str, Points]


def write_plot(path: Path, panels: Sequence[Panel], *, x: str) -> None:
    """Write the panels side by side; ``x`` names what they have on the horizontal axis."""
    drawn = "".join(
        f'<g transform="translate({number * WIDTH} 0)">{_panel(panel, x)}</g>' for number, panel in enumerate(panels)
    )
    size = f'width="{WIDTH * len(panels)}" height="{HEIGHT}"'
    style = "<style>text{font:11px sans-serif;fill:#333}.title{font-weight:bold}</style>"
    ground = '<rect width="100%" height="100%" fill="white"/>'
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{style}{ground}{drawn}</svg>\n')


def _panel(panel: Panel, x: str) -> str:
    points = [point for line in panel.lines.values() for point in line]
    right, top = max(p[0] for p in points), max(p[1] for p in points) * 1.1 or 1.0
    parts = [f'<text class="title" x="{MARGIN}" y="18">{panel.title}</text>', _axes(right, top, x)]
    for number, (name, line) in enumerate(panel.lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = [_place(point, right, top) for point in line]
        path = " ".join(f"{left:.1f},{down:.1f}" for left, down in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{left:.1f}" cy="{down:.1f}" r="3" fill="{colour}"/>' for left, down in places]
        parts.append(f'<text x="{MARGIN + 8}" y="{36 + 14 * number}" style="fill:{colour}">{name}</text>')
    return "".join(parts)


def _axes(right: float, top: float, x: str) -> str:
    bottom = HEIGHT - MARGIN / 2
    lines = f'<path d="M{MARGIN} 26V{bottom}H{WIDTH - 12}" fill="none" stroke="#999"/>'
    marks = [f'<text x="{MARGIN - 6}" y="{_place((0, top / 1.1), right, top)[1] + 4:.1f}" text-anchor="end">'
             f"{top / 1.1:.4g}</text>"]  # fmt: skip
    marks.append(f'<text x="{MARGIN - 6}" y="{bottom}" text-anchor="end">0</text>')
    marks.append(f'<text x="{WIDTH - 12}" y="{bottom + 16}" text-anchor="end">{right:.4g} {x}</text>')
    return lines + "".join(marks)


def _place(point: tuple[float, float], right: float, top: float) -> tuple[float, float]:
    """Return where a point lies in the picture; both axes begin at zero."""
    bottom = HEIGHT - MARGIN / 2
    return MARGIN + point[0] / right * (WIDTH - 12 - MARGIN), bottom - point[1] / top * (bottom - 26)
