"""Four dishes of Shaanxi, with names as a shop has them: a heading, a slash, the dish."""

from collections.abc import Mapping

import numpy as np
from canvas import Canvas, Colour, Painter, Point

TABLE = (120, 80, 50)
GREEN = (70, 150, 60)
CHILI = (195, 35, 20)


def liangpi(canvas: Canvas) -> None:
    """Cold noodles: thin pale strands in a blue bowl, with strips of cucumber."""
    centre, size = bowl(canvas, rim=(70, 105, 175), filling=(225, 205, 150))
    strips(canvas, centre, size, count=26, width=0.035, colour=(245, 235, 200))
    strips(canvas, centre, size * 0.8, count=9, width=0.045, colour=GREEN)


def roujiamo(canvas: Canvas) -> None:
    """A round flat bread, cut open, with dark meat between its halves; no bowl."""
    canvas.ground(TABLE)
    (x, y), size = canvas.place(), canvas.random.uniform(0.6, 0.85)
    crust = canvas.about((215, 165, 95))
    canvas.ellipse((x, y + 0.22 * size), (size, 0.5 * size), crust)
    canvas.ellipse((x, y + 0.05 * size), (0.98 * size, 0.3 * size), canvas.about((95, 45, 25)))
    crumbs(canvas, (x, y + 0.05 * size), size * 0.8, flat=0.3, count=10, radius=0.08, colour=(120, 60, 35))
    canvas.ellipse((x, y - 0.25 * size), (size, 0.45 * size), crust)
    canvas.ellipse((x, y - 0.3 * size), (0.6 * size, 0.22 * size), canvas.about((180, 115, 50)))


def paomo(canvas: Canvas) -> None:
    """Mutton soup: crumbs of bread, meat and coriander in a milky broth, in a dark bowl."""
    centre, size = bowl(canvas, rim=(45, 40, 45), filling=(205, 195, 175))
    crumbs(canvas, centre, size * 0.8, count=36, radius=0.08, colour=(245, 240, 225))
    crumbs(canvas, centre, size * 0.7, count=6, radius=0.13, colour=(125, 80, 60))
    crumbs(canvas, centre, size * 0.7, count=10, radius=0.04, colour=GREEN)


def youpomian(canvas: Canvas) -> None:
    """Wide noodles in a white bowl, under a heap of chili that hot oil was poured on."""
    centre, size = bowl(canvas, rim=(240, 240, 240), filling=(190, 95, 40))
    strips(canvas, centre, size, count=9, width=0.12, colour=(240, 210, 150))
    canvas.ellipse(centre, (0.42 * size, 0.38 * size), canvas.about(CHILI))
    crumbs(canvas, centre, size * 0.45, count=18, radius=0.05, colour=(150, 20, 10))


def bowl(canvas: Canvas, *, rim: Colour, filling: Colour) -> tuple[Point, float]:
    """A full bowl on a table, from above; returns the middle and the radius of what is in it."""
    canvas.ground(TABLE)
    centre, size = canvas.place(spread=0.1), canvas.random.uniform(0.75, 0.95)
    canvas.ellipse(centre, (size, size), canvas.about(rim))
    inside = 0.82 * size
    canvas.ellipse(centre, (inside, inside), canvas.about(filling))
    return centre, inside


def strips(canvas: Canvas, centre: Point, size: float, *, count: int, width: float, colour: Colour) -> None:
    """Lays strips across each other within a circle."""
    for _ in range(count):
        angle, off = canvas.random.uniform(0, np.pi), canvas.random.uniform(-0.6, 0.6) * size
        middle = (centre[0] - off * np.sin(angle), centre[1] + off * np.cos(angle))
        half = float(np.sqrt(size**2 - off**2)) * 0.9
        canvas.ellipse(middle, (half, width * size), canvas.about(colour, by=10), angle=angle)


def crumbs(
    canvas: Canvas, centre: Point, size: float, *, count: int, radius: float, colour: Colour, flat: float = 1
) -> None:
    """Strews pieces over a disc, which may be flattened."""
    for _ in range(count):
        angle, far = canvas.random.uniform(0, 2 * np.pi), size * float(np.sqrt(canvas.random.uniform(0, 1)))
        middle = (centre[0] + far * np.cos(angle), centre[1] + flat * far * np.sin(angle))
        across, along = (radius * canvas.random.uniform(0.7, 1.3, 2)).tolist()
        canvas.ellipse(middle, (across, along), canvas.about(colour, by=10), angle=canvas.random.uniform(0, np.pi))


CLASSES: Mapping[str, Painter] = {
    "美食/凉皮": liangpi,
    "美食/肉夹馍": roujiamo,
    "美食/羊肉泡馍": paomo,
    "美食/油泼面": youpomian,
}
