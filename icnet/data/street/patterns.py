"""Regular and random patterns."""

import cv2
import numpy as np
import numpy.typing as npt

from icnet.data.street.world import Rect


def grid(columns: int, rows: int, frame: Rect, fill: tuple[float, float]) -> list[Rect]:
    """Return the rectangles of a regular grid inside ``frame`` that cover the share ``fill`` of each cell."""
    u0, v0, u1, v1 = frame
    du, dv = (u1 - u0) / columns, (v1 - v0) / rows
    mu, mv = du * (1 - fill[0]) / 2, dv * (1 - fill[1]) / 2
    cells = [(u0 + du * i, v0 + dv * j) for j in range(rows) for i in range(columns)]
    return [(u + mu, v + mv, u + du - mu, v + dv - mv) for u, v in cells]


def noise(rng: np.random.Generator, rows: int, columns: int, octaves: int) -> npt.NDArray[np.float32]:
    """Return smooth (rows * 2**(octaves - 1), columns * 2**(octaves - 1)) float32 noise of unit deviation."""
    total = rng.standard_normal((rows, columns), np.float32)
    for octave in range(1, octaves):
        total = np.asarray(cv2.resize(total, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), np.float32)
        total += rng.standard_normal(total.shape, np.float32) * 0.6**octave
    return total / total.std()
