"""A canvas whose corners are (-1, -1) and (1, 1): what a painter draws a picture with."""

from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Point = tuple[float, float]
OUTLINE = 24
"""Corners of the polygon that stands for an ellipse."""


class Canvas:
    """One picture being drawn; all that varies in it comes from `random`."""

    def __init__(self, size: int, random: np.random.Generator) -> None:
        self.random = random
        self.image = Image.new("RGB", (size, size))
        self._draw = ImageDraw.Draw(self.image)

    def ground(self, colour: Colour, *, roughness: float = 30) -> None:
        """Fills the picture with soft spots about the colour, as of grass or cloth."""
        coarse = self.random.normal(0, roughness, (8, 8, 1)) + self.random.normal(0, roughness / 3, (8, 8, 3))
        spots = Image.fromarray(np.clip(np.array(colour) + coarse, 0, 255).astype(np.uint8))
        self.image.paste(spots.resize(self.image.size, Image.Resampling.BICUBIC))

    def polygon(self, points: Iterable[Point], colour: Colour) -> None:
        """Draws a filled shape."""
        half = self.image.width / 2
        self._draw.polygon([(half * (1 + x), half * (1 + y)) for x, y in points], fill=colour)

    def ellipse(self, centre: Point, radii: Point, colour: Colour, *, angle: float = 0) -> None:
        """Draws a filled ellipse, turned by an angle about its centre."""
        around = np.linspace(0, 2 * np.pi, OUTLINE, endpoint=False)
        x, y = radii[0] * np.cos(around), radii[1] * np.sin(around)
        turned_x = centre[0] + x * np.cos(angle) - y * np.sin(angle)
        turned_y = centre[1] + x * np.sin(angle) + y * np.cos(angle)
        self.polygon(zip(turned_x.tolist(), turned_y.tolist(), strict=True), colour)

    def place(self, *, spread: float = 0.15) -> Point:
        """A point near the middle."""
        x, y = self.random.uniform(-spread, spread, 2).tolist()
        return x, y

    def about(self, colour: Colour, *, by: float = 14) -> Colour:
        """A colour like that one."""
        red, green, blue = np.clip(self.random.normal(colour, by), 0, 255).astype(int).tolist()
        return red, green, blue

    def finished(self, size: int) -> Image.Image:
        """The picture in the size wanted, as a camera would see it: a little soft."""
        soft = self.image.filter(ImageFilter.GaussianBlur(self.random.uniform(0, 2)))
        return soft.resize((size, size), Image.Resampling.LANCZOS)


Painter = Callable[[Canvas], None]
"""Draws one picture of a class."""
