"""Draws what lines the street: houses, walls and fences."""

import numpy as np

from icnet.data.street.canvas import Canvas
from icnet.data.street.palette import CLOTHES, FACADES, GLASS, pick
from icnet.data.street.patterns import grid
from icnet.data.street.world import Pose, Rect

_ORIGIN = Pose(0.0, 0.0)  # local points are world points
_ROOFS = ((140, 62, 46), (92, 84, 84), (120, 74, 56), (74, 78, 88))
_STONES = ((160, 146, 170), (150, 140, 164), (150, 152, 152), (150, 100, 88))
_WOODS = ((198, 140, 80), (226, 196, 150), (170, 110, 60), (226, 224, 214), (96, 128, 104))


def beside(side: int, x: float, depth: float, near: float, far: float) -> Rect:
    """Return the foot of a block beside the street, on the left (-1) or right (1), ``x`` metres from its middle."""
    left, right = sorted((side * x, side * (x + depth)))
    return left, near, right, far


def draw_building(
    canvas: Canvas, rng: np.random.Generator, side: int, x: float, depth: float, near: float, far: float
) -> None:
    """Draw a house beside the street: storeys of windows, a shop or a door below, a flat or a pitched roof."""
    plaster, trim = pick(rng, FACADES), pick(rng, ((232, 228, 220), (206, 200, 190), (110, 92, 80)), 6)
    storeys, shop, pitched = int(rng.integers(2, 5)), rng.random() < 0.4, rng.random() < 0.55
    storey = rng.uniform(2.7, 3.2)
    height = storeys * storey + 0.4
    glass, accent = pick(rng, (GLASS, (74, 92, 110), (44, 50, 60)), 5), pick(rng, CLOTHES)
    fill = (rng.uniform(0.42, 0.62), rng.uniform(0.5, 0.62))
    foot = beside(side, x, depth, near, far)
    if pitched:
        ridge = (foot[0] + depth * 0.45, near + 0.3, foot[2] - depth * 0.45, far - 0.3)
        eaves = (foot[0] - 0.4, near - 0.2, foot[2] + 0.4, far + 0.2)
        roof = pick(rng, _ROOFS)
        for face in canvas.solid(_ORIGIN, eaves, (height, height + 3.0), roof, "building", ridge).values():
            canvas.rects(face, grid(1, 7, (0, 0, 1, 1), (1, 0.3)), roof * 0.8)
    for face in canvas.solid(_ORIGIN, foot, (0, height), plaster, "building").values():
        columns = max(2, round(face.size()[0] / 2.3))
        first = storey / height
        cells = grid(columns, storeys - 1, (0.04, first, 0.96, 0.98), fill)
        if near < 25:
            canvas.rects(face, [(u0 - 0.007, v0 - 0.012, u1 + 0.007, v1 + 0.012) for u0, v0, u1, v1 in cells], trim)
        canvas.rects(face, cells, glass)
        canvas.rects(face, [(u0, v0 + (v1 - v0) * 0.55, u1, v1) for u0, v0, u1, v1 in cells], glass * 1.5 + 14)
        canvas.rects(face, [(0, 0, 1, 0.035)], plaster * 0.6)
        canvas.rects(face, [(0, 0.975, 1, 1), (0, first - 0.01, 1, first + 0.012)], trim)
        ground = grid(max(2, columns // 2), 1, (0.04, first * 0.12, 0.96, first * 0.78), (0.78, 1))
        if shop:
            canvas.rects(face, ground, glass * 0.9)
            canvas.rects(face, [(0.03, first * 0.8, 0.97, first * 0.97)], accent)
        else:
            canvas.rects(face, grid(columns, 1, (0.04, first * 0.3, 0.96, first * 0.85), (fill[0], 1)), glass)
            canvas.rects(face, [(0.46, 0, 0.54, first * 0.75)], accent * 0.6)


def draw_wall(canvas: Canvas, rng: np.random.Generator, side: int, x: float, near: float, far: float) -> None:
    """Draw a free-standing wall of concrete panels or stone courses with a coping."""
    stone = pick(rng, _STONES, 6)
    height, rows = rng.uniform(1.7, 2.5), int(rng.choice((1, 4)))
    foot = beside(side, x, 0.4, near, far)
    for face in canvas.solid(_ORIGIN, foot, (0, height), stone * 0.72, "wall").values():
        columns = max(1, round(face.size()[0] / (1.9 if rows == 1 else 1.0)))
        canvas.rects(face, grid(columns, rows, (0, 0, 1, 0.94), (0.94, 0.96 if rows == 1 else 0.88)), stone)
        canvas.rects(face, [(0, 0.93, 1, 1)], stone * 1.22)
        canvas.rects(face, [(0, 0, 1, 0.12)], stone * 0.66)


def draw_fence(canvas: Canvas, rng: np.random.Generator, side: int, x: float, near: float, far: float) -> None:
    """Draw a fence of pickets with narrow dark gaps; its label covers it whole."""
    wood = pick(rng, _WOODS, 8)
    height = rng.uniform(1.4, 2.0)
    foot = beside(side, x, 0.12, near, far)
    for face in canvas.solid(_ORIGIN, foot, (0, height), wood * 0.4, "fence").values():
        pickets = max(1, round(face.size()[0] / 0.5))
        canvas.rects(face, grid(pickets, 1, (0, 0.03, 1, 0.98), (0.62, 1)), wood)
        canvas.rects(face, [(0, 0.18, 1, 0.27), (0, 0.7, 1, 0.79)], wood * 0.82)
