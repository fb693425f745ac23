"""Draws what stands at the kerb: lamps, traffic lights, signs and bins."""

import numpy as np

from icnet.data.street.canvas import Canvas
from icnet.data.street.palette import BLACK, WHITE, Colour, pick
from icnet.data.street.patterns import grid
from icnet.data.street.world import Patch, Pose


def draw_lamp(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """Draw a stout street lamp, its arm over the road."""
    board, grey = pose.board(), pick(rng, ((104, 110, 112), (84, 94, 96), (126, 128, 124)), 6)
    height, reach = rng.uniform(5.0, 7.0), -np.sign(pose.x) * rng.uniform(0.9, 1.6)
    _draw_post(canvas, board, height, rng.uniform(0.3, 0.38), grey)
    canvas.limb(board, [(0, height - 0.1), (reach * 0.5, height + 0.25), (reach, height + 0.3)], 0.24, grey, "pole")
    canvas.shape(board, [(reach * 0.7, height + 0.12), (reach * 1.5, height + 0.12), (reach * 1.4, height + 0.45),
                         (reach * 0.7, height + 0.45)], grey * 0.8, "pole")  # fmt: skip


def draw_traffic_light(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """Draw a traffic light: a dark housing with a yellow-edged back board and one lamp lit."""
    board, low = pose.board(), rng.uniform(2.1, 2.7)
    _draw_post(canvas, board, low + 0.6, 0.3, (96, 104, 104))
    canvas.rects(board, [(-0.46, low - 0.05, 0.46, low + 1.85)], (232, 190, 32), "traffic light")
    canvas.rects(board, [(-0.38, low + 0.03, 0.38, low + 1.77)], (20, 24, 24))
    lit = int(rng.choice((0, 2, 2, 1, 0)))
    for place, (bright, dark) in enumerate((((40, 240, 130), (16, 60, 36)), ((255, 196, 40), (74, 56, 14)),
                                            ((255, 50, 40), (80, 18, 16)))):  # fmt: skip
        canvas.discs(board, [(0, low + 0.33 + 0.57 * place, 0.23)], bright if place == lit else dark)


def draw_sign(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """Draw a traffic sign on a post: round, triangular, octagonal, square, or a direction board."""
    board, low, size = pose.board(), rng.uniform(1.9, 2.5), rng.uniform(0.5, 0.62)
    kind = int(rng.integers(6))
    _draw_post(canvas, board, low + 0.2, 0.26, (134, 138, 140))
    middle = low + size
    red, blue = (214, 20, 28), (20, 84, 200)
    octagon = np.array([(np.cos(a), np.sin(a)) for a in np.pi / 8 + np.pi / 4 * np.arange(8)])
    triangle = np.array([(-1.05, -0.8), (1.05, -0.8), (0, 1.05)])
    if kind == 0:
        canvas.discs(board, [(0, middle, size)], red, "traffic sign")
        canvas.discs(board, [(0, middle, size * 0.68)], WHITE)
        canvas.rects(board, grid(2, 1, (-0.26, middle - 0.18, 0.26, middle + 0.18), (0.68, 1)), BLACK)
    elif kind == 1:
        canvas.shape(board, triangle * size * 1.1 + (0, middle), red, "traffic sign")
        canvas.shape(board, triangle * size * 0.66 + (0, middle - 0.02), WHITE)
        canvas.rects(board, [(-0.06, middle - 0.24, 0.06, middle + 0.14)], BLACK)
    elif kind == 2:
        canvas.shape(board, octagon * size * 1.05 + (0, middle), WHITE, "traffic sign")
        canvas.shape(board, octagon * size * 0.94 + (0, middle), red)
        canvas.rects(board, grid(4, 1, (-0.36, middle - 0.13, 0.36, middle + 0.13), (0.7, 1)), WHITE)
    elif kind == 3:
        canvas.discs(board, [(0, middle, size)], blue, "traffic sign")
        canvas.limb(board, [(0, middle - 0.3), (0, middle + 0.3)], 0.15, WHITE)
        canvas.shape(board, [(-0.24, middle + 0.1), (0.24, middle + 0.1), (0, middle + 0.42)], WHITE)
    elif kind == 4:
        canvas.rects(board, [(-size, low, size, low + 2 * size)], blue, "traffic sign")
        canvas.limb(board, [(-0.14, low + 0.2), (-0.14, low + 0.88)], 0.15, WHITE)
        canvas.discs(board, [(0.06, low + 0.7, 0.24)], WHITE)
        canvas.discs(board, [(0.04, low + 0.7, 0.1)], blue)
    else:
        canvas.rects(board, [(-1.1, low, 1.1, low + 1.0)], WHITE, "traffic sign")
        canvas.rects(board, [(-1.05, low + 0.05, 1.05, low + 0.95)], blue)
        canvas.rects(board, [(-0.85, low + 0.6, 0.4, low + 0.76), (-0.85, low + 0.24, 0.1, low + 0.4)], WHITE)
        canvas.limb(board, [(0.75, low + 0.25), (0.75, low + 0.75)], 0.12, WHITE)


def draw_bin(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """Draw a wheeled bin; Cityscapes calls it static, which no metric counts."""
    colour = pick(rng, ((40, 64, 52), (64, 66, 72), (96, 60, 30)), 6)
    canvas.solid(pose, (-0.32, -0.32, 0.32, 0.32), (0.06, 0.95), colour, "static", (-0.36, -0.36, 0.36, 0.36))
    canvas.solid(pose, (-0.4, -0.4, 0.4, 0.4), (0.95, 1.06), colour * 0.7, "static")


def _draw_post(canvas: Canvas, board: Patch, top: float, width: float, colour: Colour) -> None:
    """Draw the upright of something: a cylinder with a lit and a shaded side."""
    paint = np.asarray(colour, float)
    lit = -1 if canvas.weather.sun[0] < 0 else 1
    canvas.rects(board, [(-width / 2, 0, width / 2, top)], paint, "pole")
    canvas.rects(board, [(0.1 * width * lit, 0, 0.36 * width * lit, top)], paint * 1.3)
    canvas.rects(board, [(-0.46 * width * lit, 0, -0.2 * width * lit, top)], paint * 0.7)
    canvas.rects(board, [(-width * 0.75, 0, width * 0.75, 0.35)], paint * 0.8, "pole")
