"""Adds what the camera brings along: its own car's bonnet, and the look of a photograph."""

import cv2
import numpy as np
import numpy.typing as npt

from icnet.data.street.canvas import CIRCLE, LABEL, SUBPIXEL_BITS, SUBPIXELS, Canvas
from icnet.data.street.palette import CAR_PAINTS, pick
from icnet.data.street.patterns import noise


def paint_hood(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint the bonnet of the camera's own car along the bottom."""
    paint, rise = pick(rng, CAR_PAINTS), rng.uniform(0.05, 0.09)
    rows, columns = canvas.labels.shape
    for grow, tone, label in ((1.0, 0.5, LABEL["ego vehicle"]), (0.86, 0.8, None), (0.6, 0.95, None)):
        curve = CIRCLE * (1.15, rise * grow) + (1.0, 1.0)
        points = np.rint((curve * (columns / 2, rows) - 0.5) * SUBPIXELS).astype(np.int32)
        cv2.fillPoly(canvas.image, [points], (paint * tone).tolist(), cv2.LINE_AA, SUBPIXEL_BITS)
        if label is not None:
            cv2.fillPoly(canvas.labels, [points], label, cv2.LINE_8, SUBPIXEL_BITS)


def develop(canvas: Canvas, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Turn the painting into a photograph: surface grain, lens blur, white balance, exposure, sensor noise."""
    rows, columns = canvas.labels.shape
    gain, gamma, balance = rng.uniform(0.82, 1.15), rng.uniform(0.9, 1.12), rng.normal(1, 0.03, 3)
    blur, grit = rng.uniform(0.35, 0.7), np.float32(rng.uniform(2.0, 5.0))
    grain = cv2.resize(noise(rng, 32, 64, 4), (columns, rows), interpolation=cv2.INTER_LINEAR)
    strength = np.full(256, 0.02, np.float32)
    for name, amount in (("vegetation", 0.1), ("building", 0.035), ("wall", 0.045), ("sky", 0.0)):
        strength[LABEL[name]] = amount
    curve = (np.arange(256)[:, None] / 255) ** gamma * 255 * gain * balance
    table = np.clip(curve, 0, 255).astype(np.uint8).reshape(1, 256, 3)
    photo = cv2.LUT(cv2.GaussianBlur(canvas.image, (0, 0), blur), table).astype(np.float32)
    photo *= (1 + grain * strength[canvas.labels])[..., None]
    photo += rng.standard_normal((rows, columns, 1), np.float32) * grit * rng.uniform(0.6, 1.2, 3).astype(np.float32)
    return np.clip(photo, 0, 255, out=photo).astype(np.uint8)
