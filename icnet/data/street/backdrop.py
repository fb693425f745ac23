"""Paints what is far away: the sky and the skyline."""

import cv2
import numpy as np

from icnet.data.street.canvas import LABEL, Canvas
from icnet.data.street.palette import FACADES, GLASS, pick
from icnet.data.street.patterns import grid, noise
from icnet.data.street.plants import foliage
from icnet.data.street.world import FAR, Floats, Pose


def paint_sky(canvas: Canvas, rng: np.random.Generator, haze: Floats) -> None:
    """Paint a gradient that meets the haze at the horizon, and clouds."""
    rows, columns = canvas.labels.shape
    bottom = min(rows, int(canvas.camera.horizon * rows) + 2)
    zenith = pick(rng, ((92, 146, 214), (120, 164, 218), (150, 176, 204), (84, 130, 200)), 8)
    clouds = noise(rng, 4, 5, 4)
    cover = rng.uniform(-0.2, 0.9)
    rise = (np.arange(bottom, dtype=np.float32) / bottom)[:, None, None] ** 1.3
    sky = zenith.astype(np.float32) * (1 - rise) + haze.astype(np.float32) * rise
    white = np.clip((cv2.resize(clouds, (columns, bottom), interpolation=cv2.INTER_CUBIC) - cover) * 0.5, 0, 0.85)
    canvas.image[:bottom] = sky + (246 - sky) * white[..., None]
    canvas.labels[:bottom] = LABEL["sky"]


def paint_skyline(canvas: Canvas, rng: np.random.Generator) -> None:
    """Close the street with far houses and trees."""
    for x in rng.permutation(np.arange(-40, 41, 8.0)):
        near = float(rng.uniform(FAR - 2, FAR + 6))
        if rng.random() < 0.62:
            tall = float(rng.uniform(6, 15))
            plaster = pick(rng, FACADES)
            for face in canvas.solid(Pose(x, near), (-5, 0, 5, 8), (0, tall), plaster, "building").values():
                canvas.rects(face, grid(4, max(2, int(tall / 3)), (0.05, 0.1, 0.95, 0.95), (0.5, 0.5)), GLASS)
        else:
            blobs = np.stack([rng.uniform(-5, 5, 12), rng.uniform(0.5, 5.5, 12), rng.uniform(1.4, 2.4, 12)], axis=-1)
            foliage(canvas, rng, Pose(x, near).board(), blobs, pick(rng, ((54, 96, 34), (70, 112, 36)), 6))
