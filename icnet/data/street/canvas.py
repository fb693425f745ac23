"""An image and its label map, painted together: what is drawn is labelled in the same stroke."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from icnet.data.labels import CITYSCAPES_LABELS
from icnet.data.street.palette import Colour
from icnet.data.street.world import Camera, Floats, Patch, Pose, Rect, on_ground

LABEL = {row.name: row.label_id for row in CITYSCAPES_LABELS}
SUBPIXEL_BITS = 4  # OpenCV fills polygons given in sixteenths of a pixel
SUBPIXELS = 1 << SUBPIXEL_BITS
# (16, 2) points of the unit circle
CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 16, endpoint=False)) for f in (np.cos, np.sin)], axis=-1)


class Weather(NamedTuple):
    """Light and air: where the sun stands (unit vector to it), how bright shade is, and what distance fades into."""

    sun: Floats
    ambient: float
    haze: Floats
    haze_density: float


class Canvas:
    """An image and its label map that are painted together.

    Args:
        height: Rows of both.
        width: Columns of both.
        camera: How world points fall on the image.
        weather: How colours look in it.
    """

    def __init__(self, height: int, width: int, camera: Camera, weather: Weather) -> None:
        """Start with a black image of unlabeled pixels."""
        self.image = np.zeros((height, width, 3), np.uint8)
        self.labels = np.zeros((height, width), np.uint8)
        self.camera = camera
        self.weather = weather
        self._matrix, self._offset = camera.matrix(width / 2 * SUBPIXELS, height * SUBPIXELS)

    def pixels(self, points: Floats) -> npt.NDArray[np.int32]:
        """Return (..., 2) int32 fixed-point pixel positions (``SUBPIXEL_BITS``) of (..., 3) world points."""
        rays = points @ self._matrix + self._offset
        return np.rint(rays[..., :2] / rays[..., 2:] - SUBPIXELS / 2).astype(np.int32, order="C")

    def fill(self, polygons: Floats, colour: Colour, label: str | None = None, shade: float | Floats = 1.0) -> None:
        """Fill polygons, one over the other.

        Args:
            polygons: (N, K, 3) or (K, 3) float world points.
            colour: RGB 0-255, before light and haze.
            label: What the polygons are; None keeps the labels below (a detail of what is already there).
            shade: How brightly they are lit: one number, or (N,) floats.
        """
        polygons = polygons if polygons.ndim == 3 else polygons[None]
        depths = (polygons[..., 2].sum(axis=1) / polygons.shape[1]).tolist()
        shades = [shade] * len(depths) if isinstance(shade, float) else shade.tolist()
        (red, green, blue), (haze_red, haze_green, haze_blue) = map(float, colour), self.weather.haze.tolist()
        for pixels, depth, light in zip(self.pixels(polygons), depths, shades, strict=True):
            haze = 1 - math.exp(-self.weather.haze_density * depth)
            lit = light * (1 - haze)
            tone = (red * lit + haze_red * haze, green * lit + haze_green * haze, blue * lit + haze_blue * haze)
            cv2.fillPoly(self.image, [pixels], tone, cv2.LINE_AA, SUBPIXEL_BITS)
            if label is not None:
                cv2.fillPoly(self.labels, [pixels], LABEL[label], cv2.LINE_8, SUBPIXEL_BITS)

    def shape(self, patch: Patch, uv: npt.ArrayLike, colour: Colour, label: str | None = None) -> None:
        """Fill one polygon given in patch coordinates."""
        self.fill(patch.at(np.asarray(uv, float)), colour, label, patch.shade)

    def rects(self, patch: Patch, rects: Iterable[Rect], colour: Colour, label: str | None = None) -> None:
        """Fill upright rectangles given in patch coordinates."""
        box = np.asarray(list(rects), float).reshape(-1, 4)
        if len(box):
            self.fill(patch.at(box[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]), colour, label, patch.shade)

    def discs(
        self, patch: Patch, discs: Iterable[tuple[float, float, float]], colour: Colour, label: str | None = None
    ) -> None:
        """Fill circles ``(u, v, radius)``; patch coordinates should measure in metres."""
        u, v, radius = np.asarray(list(discs), float).T
        rings = CIRCLE * radius[:, None, None] + np.stack([u, v], axis=-1)[:, None]
        self.fill(patch.at(rings), colour, label, patch.shade)

    def limb(self, patch: Patch, points: npt.ArrayLike, width: float, colour: Colour, label: str | None = None) -> None:
        """Draw a thick line with round joints through patch coordinates that measure in metres."""
        path = np.asarray(points, float)
        along = np.diff(path, axis=0)
        side = along[:, ::-1] * (-1, 1) * (width / 2) / np.maximum(np.hypot(*along.T), 1e-6)[:, None]
        start, end = path[:-1], path[1:]
        quads = np.stack([start + side, end + side, end - side, start - side], axis=1)
        self.fill(patch.at(quads), colour, label, patch.shade)
        self.fill(patch.at(CIRCLE * (width / 2) + end[:, None]), colour, label, patch.shade)

    def solid(
        self, pose: Pose, foot: Rect, heights: tuple[float, float], colour: Colour, label: str, top: Rect | None = None
    ) -> dict[str, Patch]:
        """Fill the visible faces of a box or a frustum.

        Args:
            pose: Where it stands.
            foot: Local (right 0, ahead 0, right 1, ahead 1) of its underside.
            heights: y of its underside and of its top.
            colour: RGB 0-255.
            label: What it is.
            top: Like ``foot`` for its upper side; the same if not given.

        Returns:
            The visible faces among "front", "back", "left", "right": u runs rightwards on the ends, ahead on the sides.
        """
        x0, z0, x1, z1 = foot
        a0, c0, a1, c1 = top or foot
        low, high = heights
        base = pose.world(np.array([[x0, low, z0], [x1, low, z0], [x1, low, z1], [x0, low, z1]], float))
        roof = pose.world(np.array([[a0, high, c0], [a1, high, c0], [a1, high, c1], [a0, high, c1]], float))
        middle, eye = (base.sum(axis=0) + roof.sum(axis=0)) / 8, np.array([0.0, self.camera.height, 0.0])
        seen, sides = {}, {"top": roof, "under": base}
        for name, i, j in (("back", 0, 1), ("front", 3, 2), ("left", 0, 3), ("right", 1, 2)):
            sides[name] = np.stack([base[i], base[j], roof[j], roof[i]])
        for name, corners in sides.items():
            centre = corners.sum(axis=0) / 4
            normal = _normal(corners)
            normal = normal if normal @ (centre - middle) > 0 else -normal
            if normal @ (eye - centre) > 0:
                patch = Patch(corners, self.shade(normal))
                self.fill(corners, colour, label, patch.shade)
                if name not in ("top", "under"):
                    seen[name] = patch
        return seen

    def sees(self, foot: Rect, margin: float = 1.8) -> bool:
        """Tell whether something with this footprint (x0, z0, x1, z1), grown by ``margin``, may be in the picture."""
        x0, z0, x1, z1 = foot
        corners = on_ground([(x, z) for x in (x0 - margin, x1 + margin) for z in (z0, z1)])
        across = self.camera.project(corners)[:, 0]
        return bool(across.min() < 2 and across.max() > 0)

    def shade(self, normal: Floats) -> float:
        """Return how brightly a face with this (3,) unit normal is lit."""
        return float(self.weather.ambient + (1.08 - self.weather.ambient) * max(0.0, float(normal @ self.weather.sun)))


def _normal(corners: Floats) -> Floats:
    """Return a (3,) unit normal of a flat face given by its (4, 3) corners."""
    (ax, ay, az), (bx, by, bz) = (corners[[1, 3]] - corners[0]).tolist()
    normal = np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])
    return normal / max(math.sqrt(normal @ normal), 1e-9)
