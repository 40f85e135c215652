"""Colours, and the frame of reference that figures are drawn in."""

from __future__ import annotations

from groundling.toyworld.scene import Figure

Colour = tuple[int, int, int]
SCALE = 2

PAINT: dict[str, Colour] = {
    "red": (214, 45, 48),
    "blue": (44, 92, 212),
    "green": (44, 158, 76),
    "yellow": (245, 204, 52),
    "purple": (138, 62, 184),
    "white": (246, 246, 242),
    "black": (34, 34, 40),
    "orange": (243, 134, 42),
    "grey": (146, 148, 154),
    "brown": (122, 76, 42),
    "blond": (238, 206, 112),
}
HAIR: dict[str, Colour] = PAINT | {"red": (204, 72, 32), "grey": (176, 178, 184)}
SKIN: dict[str, Colour] = {"light": (250, 216, 188), "tan": (214, 160, 112), "dark": (122, 78, 52)}


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`a` with a share of `b` in [0, 1]."""
    return tuple(round(p * (1 - share) + q * share) for p, q in zip(a, b, strict=True))  # type: ignore[return-value]


def dark(colour: Colour, share: float = 0.28) -> Colour:
    """A colour with a share of black."""
    return mix(colour, (0, 0, 0), share)


def light(colour: Colour, share: float = 0.3) -> Colour:
    """A colour with a share of white."""
    return mix(colour, (255, 255, 255), share)


class Frame:
    """Maps a figure's own units (1 = its height, origin at its feet) to canvas pixels."""

    def __init__(self, figure: Figure) -> None:
        self.x = figure.centre_x * SCALE
        self.y = figure.base_y * SCALE
        self.unit = figure.height * SCALE

    def box(self, x1: float, y1: float, x2: float, y2: float) -> tuple[float, float, float, float]:
        """A box from its left, bottom, right and top in own units (y grows upwards)."""
        return (
            self.x + x1 * self.unit,
            self.y - y2 * self.unit,
            self.x + x2 * self.unit,
            self.y - y1 * self.unit,
        )

    def points(self, *xy: tuple[float, float]) -> list[tuple[float, float]]:
        """Canvas points from own units."""
        return [(self.x + x * self.unit, self.y - y * self.unit) for x, y in xy]
