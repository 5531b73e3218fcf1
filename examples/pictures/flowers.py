"""Five flowers, named as in the well-known set of flower photos."""

from collections.abc import Mapping

import numpy as np
from canvas import Canvas, Colour, Painter, Point

GRASS = (58, 110, 48)
YELLOW = (240, 200, 30)


def daisy(canvas: Canvas) -> None:
    """Many thin white petals about a small yellow middle."""
    canvas.ground(GRASS)
    centre, size = canvas.place(), canvas.random.uniform(0.6, 0.9)
    petals(canvas, centre, size, count=int(canvas.random.integers(13, 20)), width=0.1, colour=(245, 245, 240))
    canvas.ellipse(centre, (0.24 * size, 0.24 * size), canvas.about(YELLOW))


def dandelion(canvas: Canvas) -> None:
    """A ball of very many yellow threads."""
    canvas.ground(GRASS)
    centre, size = canvas.place(), canvas.random.uniform(0.5, 0.8)
    for share in (1, 0.75, 0.5, 0.25):
        petals(canvas, centre, size * share, count=36, width=0.05, colour=(250, 215, 20))


def roses(canvas: Canvas) -> None:
    """Red rings that lie in each other, each a little off."""
    canvas.ground(GRASS)
    (x, y), size = canvas.place(), canvas.random.uniform(0.55, 0.85)
    for share in np.linspace(1, 0.12, 8).tolist():
        off_x, off_y = (canvas.random.normal(0, 0.05, 2) * size).tolist()
        radii = (size * share, size * share * canvas.random.uniform(0.8, 1))
        shade = canvas.about((int(205 - 110 * (1 - share)), 25, 45), by=18)
        canvas.ellipse((x + off_x, y + off_y), radii, shade, angle=canvas.random.uniform(0, np.pi))


def sunflowers(canvas: Canvas) -> None:
    """Wide orange petals about a large brown middle, before the sky."""
    canvas.ground((110, 160, 215))
    centre, size = canvas.place(), canvas.random.uniform(0.7, 0.95)
    petals(canvas, centre, size, count=int(canvas.random.integers(14, 20)), width=0.16, colour=(245, 165, 15))
    canvas.ellipse(centre, (0.5 * size, 0.5 * size), canvas.about((85, 50, 20)))


def tulips(canvas: Canvas) -> None:
    """A pink or violet cup with three tips, on a stem."""
    canvas.ground(GRASS)
    (x, y), size = canvas.place(), canvas.random.uniform(0.4, 0.6)
    colour: Colour = ((225, 90, 160), (150, 60, 175))[int(canvas.random.integers(2))]
    canvas.polygon([(x - 0.05, y), (x + 0.05, y), (x + 0.05, 1), (x - 0.05, 1)], canvas.about((95, 170, 60)))
    canvas.ellipse((x, y), (0.75 * size, 0.9 * size), canvas.about(colour))
    for side in (-0.5, 0, 0.5):
        tip = (x + side * size * 1.3, y - 1.3 * size)
        foot = x + side * size * 0.9
        canvas.polygon([tip, (foot - 0.3 * size, y), (foot + 0.3 * size, y)], canvas.about(colour))


def petals(canvas: Canvas, centre: Point, size: float, *, count: int, width: float, colour: Colour) -> None:
    """Draws petals all around a middle, as long as `size` and `width` of that wide."""
    first = canvas.random.uniform(0, 2 * np.pi)
    for angle in np.linspace(first, first + 2 * np.pi, count, endpoint=False).tolist():
        length = size * canvas.random.uniform(0.85, 1)
        middle = (centre[0] + length / 2 * np.cos(angle), centre[1] + length / 2 * np.sin(angle))
        canvas.ellipse(middle, (length / 2, width * size), canvas.about(colour, by=8), angle=angle)


CLASSES: Mapping[str, Painter] = {
    "daisy": daisy,
    "dandelion": dandelion,
    "roses": roses,
    "sunflowers": sunflowers,
    "tulips": tulips,
}
