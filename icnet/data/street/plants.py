"""Draws trees, hedges and other leaves."""

import numpy as np

from icnet.data.street.canvas import CIRCLE, Canvas
from icnet.data.street.palette import pick
from icnet.data.street.world import Floats, Patch, Pose


def draw_tree(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """Draw a tree with a trunk (vegetation, as in Cityscapes) and a crown of leaf clumps."""
    board, green = pose.board(), pick(rng, ((54, 96, 34), (70, 112, 36), (44, 84, 44), (84, 104, 30)), 7)
    height, spread = rng.uniform(4.5, 7.5), rng.uniform(1.3, 2.1)
    bark = pick(rng, ((92, 68, 48), (78, 64, 54)), 6)
    canvas.shape(board, [(-0.24, 0), (0.24, 0), (0.14, height * 0.6), (-0.14, height * 0.6)], bark, "vegetation")
    canvas.shape(board, [(-0.24, 0), (-0.04, 0), (-0.04, height * 0.6), (-0.14, height * 0.6)], bark * 0.7)
    clumps = 32 if pose.z < 14 else 18 if pose.z < 24 else 10
    angle, reach = rng.uniform(0, 2 * np.pi, clumps), np.sqrt(rng.uniform(0.02, 1, clumps))
    blobs = np.stack([
        np.cos(angle) * reach * spread,
        height * 0.68 + np.sin(angle) * reach * height * 0.3,
        rng.uniform(0.28, 0.46, clumps) * spread * (32 / clumps) ** 0.3,
    ], axis=-1)  # fmt: skip
    foliage(canvas, rng, board, blobs, green)


def draw_hedge(canvas: Canvas, rng: np.random.Generator, x: float, near: float, far: float) -> None:
    """Draw a hedge along the street at ``x``, from far to near."""
    green, height = pick(rng, ((48, 88, 36), (62, 104, 40)), 6), rng.uniform(1.1, 1.9)
    for z in np.arange(far, near, -1.2):
        count = 8
        low, high = (-0.45, 0.17 * height, 0.36), (0.45, 0.84 * height, 0.58)
        blobs = rng.uniform(low, high, (count, 3))
        foliage(canvas, rng, Pose(x, float(z)).board(), blobs, green)


def foliage(canvas: Canvas, rng: np.random.Generator, board: Patch, blobs: Floats, green: Floats) -> None:
    """Paint leaf clumps ``(N, 3)`` (u, v, radius) from the shaded inside to the lit outside."""
    u, v, radius = blobs.T
    sun = canvas.weather.sun
    lit = (u - u.mean()) / (np.ptp(u) + 1e-6) * np.sign(sun[0]) * 0.5 + (v - v.mean()) / (np.ptp(v) + 1e-6)
    order = np.argsort(lit + rng.normal(0, 0.15, len(lit)))
    shade = np.clip(0.86 + 0.42 * lit + rng.normal(0, 0.07, len(lit)), 0.5, 1.3)
    rings = CIRCLE[None] * radius[:, None, None] * rng.uniform(0.86, 1.14, (len(u), len(CIRCLE), 1))
    points = board.at(rings + blobs[:, None, :2])
    canvas.fill(points[order], green, "vegetation", shade[order])
    if board.corners[0, 2] > 24:
        return
    inner = board.at(rings * 0.5 + blobs[:, None, :2] + radius[:, None, None] * (0.25 * np.sign(sun[0]), 0.3))
    canvas.fill(inner[order], green, None, shade[order] * 1.16)
