"""Draws people: on foot, and on two wheels."""

import numpy as np

from icnet.data.street.canvas import Canvas
from icnet.data.street.palette import BLACK, CLOTHES, WHITE, pick
from icnet.data.street.world import Patch, Pose

_SKIN = ((236, 196, 168), (214, 164, 128), (168, 116, 84), (112, 74, 52))
_TROUSERS = ((50, 60, 96), (48, 46, 50), (150, 130, 100))
_LEATHERS = ((44, 44, 52), (92, 34, 36), (40, 60, 96), (110, 108, 100))
_JERSEYS = ((196, 232, 40), (250, 120, 30), (60, 140, 220), (220, 60, 70))


def draw_person(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """Draw a walking or standing person."""
    board, size, side = pose.board(), rng.uniform(0.92, 1.06), float(rng.choice((-1, 1)))
    board.corners = board.corners[0] + (board.corners - board.corners[0]) * (size * side, size, size)
    top, legs, skin = pick(rng, CLOTHES), pick(rng, _TROUSERS), pick(rng, _SKIN, 5)
    stride = rng.uniform(0.05, 0.32)
    coat = rng.random() < 0.3
    canvas.limb(board, [(-0.04, 0.9), (-stride, 0.46), (-stride - 0.1, 0.08)], 0.21, legs * 0.75, "person")
    canvas.limb(board, [(0.04, 0.9), (stride + 0.04, 0.5), (stride, 0.08)], 0.22, legs, "person")
    for foot in (-stride - 0.1, stride):
        canvas.limb(board, [(foot - 0.04, 0.06), (foot + 0.14, 0.05)], 0.12, BLACK, "person")
    canvas.limb(board, [(-0.16, 1.36), (-0.28, 1.08), (-0.24 - stride / 3, 0.84)], 0.15, top * 0.7, "person")
    hem = 0.62 if coat else 0.84
    torso = [(-0.21, hem), (0.21, hem), (0.25, 1.38), (0.12, 1.47), (-0.12, 1.47), (-0.25, 1.38)]
    canvas.shape(board, torso, top, "person")
    canvas.shape(board, [(-0.21, hem), (-0.05, hem), (-0.08, 1.46), (-0.25, 1.38)], top * 0.84)
    canvas.limb(board, [(0.14, 1.36), (0.24, 1.08), (0.26 + stride / 2, 0.88)], 0.15, top * 0.92, "person")
    if rng.random() < 0.35:
        canvas.shape(board, [(-0.42, 0.9), (-0.2, 0.9), (-0.16, 1.34), (-0.36, 1.34)], pick(rng, CLOTHES), "person")
    canvas.discs(board, [(0.26 + stride / 2, 0.86, 0.07)], skin, "person")
    canvas.discs(board, [(-0.02, 1.64, 0.16)], pick(rng, ((48, 34, 26), (120, 84, 44), (30, 28, 28))), "person")
    canvas.discs(board, [(0.03, 1.6, 0.125)], skin, "person")


def draw_rider(
    canvas: Canvas, rng: np.random.Generator, board: Patch, seat: float, reach: float, leather: bool
) -> None:
    """Draw who sits on a two-wheeler: a helmet, a leaning back, arms to the handlebar, a bent leg."""
    jacket = pick(rng, _LEATHERS if leather else _JERSEYS)
    trousers, helmet = pick(rng, _TROUSERS), pick(rng, (WHITE, (222, 40, 40), (250, 200, 30)))
    hip, shoulder = (-0.22, seat + 0.06), (0.1, seat + 0.62)
    canvas.limb(board, [hip, (0.26, seat - 0.12), (0.08, 0.34)], 0.22, trousers, "rider")
    canvas.limb(board, [(0.05, 0.32), (0.2, 0.3)], 0.13, BLACK, "rider")
    canvas.limb(board, [hip, shoulder], 0.42, jacket, "rider")
    canvas.limb(board, [shoulder, (0.3, seat + 0.3), (reach, seat + 0.22)], 0.16, jacket * 0.85, "rider")
    canvas.limb(board, [(-0.18, seat + 0.3), (0.02, seat + 0.38)], 0.12, (220, 224, 220) if leather else jacket * 0.7)
    canvas.discs(board, [(0.2, seat + 0.86, 0.17)], pick(rng, _SKIN), "rider")
    canvas.discs(board, [(0.17, seat + 0.93, 0.19)], helmet, "rider")
    canvas.shape(board, np.array([(0.24, 0.84), (0.38, 0.84), (0.38, 0.92), (0.24, 0.92)]) + (0, seat), (40, 44, 54))
