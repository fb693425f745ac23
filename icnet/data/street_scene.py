"""Draws one synthetic street scene: a small 3-D world, painted far to near into an image and its label map.

The world is measured in metres: x to the right, y up from the ground, z away from the camera. Everything is built from
flat ``Patch`` pieces that are projected and filled; what is painted into the image is labelled in the same stroke.
Random numbers never depend on the image size, so one seed is the same scene at every resolution.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from icnet.data.labels import CITYSCAPES_LABELS

LABEL = {row.name: row.label_id for row in CITYSCAPES_LABELS}
Colour = Sequence[float]
Rect = tuple[float, float, float, float]  # u0, v0, u1, v1 on a patch

_SUBPIXEL_BITS = 4
_SUBPIXELS = 1 << _SUBPIXEL_BITS
_CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 16, endpoint=False)) for f in (np.cos, np.sin)], axis=-1)
_FAR = 62.0  # where the street ends and the skyline stands

BLACK, WHITE, TYRE, GLASS = (22, 22, 26), (238, 238, 236), (28, 28, 30), (52, 66, 82)
SKIN = ((236, 196, 168), (214, 164, 128), (168, 116, 84), (112, 74, 52))
CLOTHES = ((196, 52, 56), (44, 72, 150), (238, 204, 70), (232, 232, 228), (58, 58, 64), (120, 60, 130), (216, 112, 48),
           (96, 150, 190), (150, 96, 70), (224, 140, 170))  # fmt: skip
TROUSERS = ((50, 60, 96), (48, 46, 50), (150, 130, 100))
LEATHERS = ((44, 44, 52), (92, 34, 36), (40, 60, 96), (110, 108, 100))
JERSEYS = ((196, 232, 40), (250, 120, 30), (60, 140, 220), (220, 60, 70))
CAR_PAINTS = ((170, 24, 30), (28, 52, 120), (196, 200, 204), (40, 42, 48), (236, 236, 234), (92, 104, 116),
              (24, 84, 96), (120, 20, 44), (64, 100, 160))  # fmt: skip
BUS_PAINTS = ((240, 178, 24), (232, 128, 24), (246, 200, 60), (206, 70, 36))
TRUCK_BOXES = ((34, 96, 176), (64, 126, 200), (44, 76, 140), (118, 132, 150), (90, 70, 120))
TRUCK_CABS = ((232, 232, 232), (180, 30, 34), (40, 60, 110), (210, 214, 190))
TRAM_LIVERIES = ((20, 122, 84), (16, 130, 120), (36, 140, 70), (150, 30, 60))
MOTORCYCLE_PAINTS = ((214, 28, 30), (240, 100, 20), (200, 20, 60), (36, 66, 150), (70, 72, 78))
BICYCLE_PAINTS = ((230, 60, 150), (190, 60, 220), (60, 220, 230), (240, 220, 60), (60, 150, 70))
STONES = ((160, 146, 170), (150, 140, 164), (150, 152, 152), (150, 100, 88))
WOODS = ((198, 140, 80), (226, 196, 150), (170, 110, 60), (226, 224, 214), (96, 128, 104))
FACADES = ((188, 120, 92), (214, 190, 152), (168, 160, 150), (226, 214, 190), (176, 96, 80), (200, 170, 140),
           (190, 186, 178), (210, 176, 120), (156, 130, 110))  # fmt: skip
ROOFS = ((140, 62, 46), (92, 84, 84), (120, 74, 56), (74, 78, 88))


# --------------------------------------------------------------------------------------------------------------------
# Geometry and paint
# --------------------------------------------------------------------------------------------------------------------


class Camera(NamedTuple):
    """A pinhole camera at ``(0, height, 0)`` looking along z; image coordinates span x 0-2 and y 0-1."""

    horizon: float
    centre: float
    focal: float
    height: float

    def matrix(self, across: float = 1.0, down: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Return the (3, 3) matrix and (3,) offset that turn world points into homogeneous image coordinates.

        Args:
            across: Length of one image unit across.
            down: Length of one image unit down.
        """
        x, y = across * self.focal, -down * self.focal
        matrix = np.array([[x, 0, 0], [0, y, 0], [across * self.centre, down * self.horizon, 1]])
        return matrix, np.array([0, down * self.focal * self.height, 0])

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project (..., 3) float world points to (..., 2) float image coordinates."""
        matrix, offset = self.matrix()
        rays = points @ matrix + offset
        return rays[..., :2] / rays[..., 2:]


class Weather(NamedTuple):
    """Light and air: where the sun stands (unit vector to it), how bright shade is, and what distance fades into."""

    sun: np.ndarray
    ambient: float
    haze: np.ndarray
    haze_density: float


@dataclass
class Patch:
    """A flat piece of the world with its own coordinates: u runs along its foot, v up.

    Args:
        corners: (4, 3) float world points at (u, v) = (0, 0), (1, 0), (1, 1), (0, 1).
        shade: How brightly it is lit, about 0.5-1.1.
    """

    corners: np.ndarray
    shade: float = 1.0

    def at(self, uv: np.ndarray) -> np.ndarray:
        """Return the (..., 3) float world points of (..., 2) patch coordinates."""
        u, v = uv[..., :1], uv[..., 1:]
        low = self.corners[0] + u * (self.corners[1] - self.corners[0])
        high = self.corners[3] + u * (self.corners[2] - self.corners[3])
        return low + v * (high - low)

    def size(self) -> tuple[float, float]:
        """Return the length of its foot and its height in metres."""
        foot, side = self.corners[1] - self.corners[0], self.corners[3] - self.corners[0]
        return float(np.linalg.norm(foot)), float(np.linalg.norm(side))


class Pose(NamedTuple):
    """Where something stands on the ground and where it heads: yaw 0 is away from the camera, pi is towards it."""

    x: float
    z: float
    yaw: float = 0.0

    def world(self, local: np.ndarray) -> np.ndarray:
        """Turn (..., 3) local points (right, up, ahead) into world points."""
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        right, up, ahead = local[..., 0], local[..., 1], local[..., 2]
        return np.stack([self.x + right * cos + ahead * sin, up, self.z - right * sin + ahead * cos], axis=-1)

    def board(self, turn: float = 0.0) -> Patch:
        """Return an upright patch that measures in metres: u = 0 is this place, turned by ``turn`` off the viewer."""
        u = np.array([np.cos(turn), 0.0, np.sin(turn)])
        foot, up = np.array([self.x, 0.0, self.z]), np.array([0.0, 1.0, 0.0])
        return Patch(np.stack([foot, foot + u, foot + u + up, foot + up]))


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
        self._matrix, self._offset = camera.matrix(width / 2 * _SUBPIXELS, height * _SUBPIXELS)

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Return (..., 2) int32 fixed-point pixel positions (``_SUBPIXEL_BITS``) of (..., 3) world points."""
        rays = points @ self._matrix + self._offset
        return np.rint(rays[..., :2] / rays[..., 2:] - _SUBPIXELS / 2).astype(np.int32, order="C")

    def fill(
        self, polygons: np.ndarray, colour: Colour, label: str | None = None, shade: float | np.ndarray = 1.0
    ) -> None:
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
            cv2.fillPoly(self.image, [pixels], tone, cv2.LINE_AA, _SUBPIXEL_BITS)
            if label is not None:
                cv2.fillPoly(self.labels, [pixels], LABEL[label], cv2.LINE_8, _SUBPIXEL_BITS)

    def shape(self, patch: Patch, uv: Sequence[Sequence[float]], colour: Colour, label: str | None = None) -> None:
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
        rings = _CIRCLE * radius[:, None, None] + np.stack([u, v], axis=-1)[:, None]
        self.fill(patch.at(rings), colour, label, patch.shade)

    def limb(
        self, patch: Patch, points: Sequence[tuple[float, float]], width: float, colour: Colour,
        label: str | None = None,
    ) -> None:  # fmt: skip
        """Draw a thick line with round joints through patch coordinates that measure in metres."""
        path = np.asarray(points, float)
        along = np.diff(path, axis=0)
        side = along[:, ::-1] * (-1, 1) * (width / 2) / np.maximum(np.hypot(*along.T), 1e-6)[:, None]
        start, end = path[:-1], path[1:]
        quads = np.stack([start + side, end + side, end - side, start - side], axis=1)
        self.fill(patch.at(quads), colour, label, patch.shade)
        self.fill(patch.at(_CIRCLE * (width / 2) + end[:, None]), colour, label, patch.shade)

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
        corners = _ground([(x, z) for x in (x0 - margin, x1 + margin) for z in (z0, z1)])
        across = self.camera.project(corners)[:, 0]
        return bool(across.min() < 2 and across.max() > 0)

    def shade(self, normal: np.ndarray) -> float:
        """Return how brightly a face with this (3,) unit normal is lit."""
        return float(self.weather.ambient + (1.08 - self.weather.ambient) * max(0.0, float(normal @ self.weather.sun)))


def _normal(corners: np.ndarray) -> np.ndarray:
    """Return a (3,) unit normal of a flat face given by its (4, 3) corners."""
    (ax, ay, az), (bx, by, bz) = (corners[[1, 3]] - corners[0]).tolist()
    normal = np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])
    return normal / max(math.sqrt(normal @ normal), 1e-9)


def _pick(rng: np.random.Generator, colours: Sequence[Colour], spread: float = 12.0) -> np.ndarray:
    """Return one of the colours, slightly varied, as (3,) float."""
    colour = np.array(colours[int(rng.integers(len(colours)))], float)
    return np.clip(colour + rng.normal(0, spread, 3) * 0.6 + rng.normal(0, spread), 0, 255)


def _grid(columns: int, rows: int, frame: Rect, fill: tuple[float, float]) -> list[Rect]:
    """Return the rectangles of a regular grid inside ``frame`` that cover the share ``fill`` of each cell."""
    u0, v0, u1, v1 = frame
    du, dv = (u1 - u0) / columns, (v1 - v0) / rows
    mu, mv = du * (1 - fill[0]) / 2, dv * (1 - fill[1]) / 2
    cells = [(u0 + du * i, v0 + dv * j) for j in range(rows) for i in range(columns)]
    return [(u + mu, v + mv, u + du - mu, v + dv - mv) for u, v in cells]


def _noise(rng: np.random.Generator, rows: int, columns: int, octaves: int) -> np.ndarray:
    """Return smooth (rows * 2**(octaves - 1), columns * 2**(octaves - 1)) float32 noise of unit deviation."""
    total = rng.standard_normal((rows, columns), np.float32)
    for octave in range(1, octaves):
        total = cv2.resize(total, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        total += rng.standard_normal(total.shape, np.float32) * 0.6**octave
    return total / total.std()


# --------------------------------------------------------------------------------------------------------------------
# Vehicles
# --------------------------------------------------------------------------------------------------------------------


def _wheels(canvas: Canvas, faces: dict[str, Patch], places: Iterable[float], radius: float, low: float) -> None:
    """Put wheels at shares of its length on the visible sides of a body that starts ``low`` metres above the ground."""
    for name in ("left", "right"):
        if name in faces:
            side = faces[name]
            length, height = side.size()
            ring = _CIRCLE * (radius / length, radius / height)
            for place in places:
                centre = (place, (radius - low) / height)
                canvas.shape(side, ring + centre, TYRE, None)
                canvas.shape(side, ring * 0.5 + centre, (150, 152, 156))


def _lights(canvas: Canvas, faces: dict[str, Patch], v0: float, v1: float, inset: float = 0.04) -> None:
    """Put white lamps on a visible front and red ones on a visible back, with a number plate."""
    for name, colour in (("front", (250, 246, 214)), ("back", (214, 24, 26))):
        if name in faces:
            canvas.rects(faces[name], [(inset, v0, 0.22, v1), (0.78, v0, 1 - inset, v1)], colour)
            canvas.rects(faces[name], [(0.37, v0 - 0.16, 0.63, v0)], (226, 226, 200))


def draw_car(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """Draw a saloon, hatchback or van-like car."""
    paint = _pick(rng, CAR_PAINTS)
    tall, tail = rng.uniform(1.45, 1.75), rng.uniform(0.0, 0.5)
    body = canvas.solid(pose, (-0.9, -2.15, 0.9, 2.15), (0.22, 0.88), paint, "car", (-0.87, -2.1, 0.87, 2.0))
    for face in body.values():
        canvas.rects(face, [(0, 0, 1, 0.2)], paint * 0.35)
    _wheels(canvas, body, (0.19, 0.8), 0.36, 0.22)
    _lights(canvas, body, 0.55, 0.85)
    cabin = canvas.solid(
        pose, (-0.85, -2.05 + tail, 0.85, 1.05), (0.87, tall), paint * 0.96, "car",
        (-0.66, -1.75 + 1.2 * tail, 0.66, 0.3),
    )  # fmt: skip
    for name, face in cabin.items():
        panes = 1 if name in ("front", "back") else 2
        canvas.rects(face, _grid(panes, 1, (0.06, 0.1, 0.94, 0.86), (0.92, 1)), GLASS)
        canvas.shape(face, [(0.1, 0.5), (0.45, 0.86), (0.3, 0.86), (0.08, 0.62)], (108, 126, 144))


def draw_bus(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """Draw a city bus: warm colours, a row of big windows, a destination display."""
    paint = _pick(rng, BUS_PAINTS)
    body = canvas.solid(pose, (-1.27, -5.2, 1.27, 5.2), (0.3, 3.15), paint, "bus")
    for name, face in body.items():
        canvas.rects(face, [(0, 0, 1, 0.09)], paint * 0.4)
        canvas.rects(face, [(0, 0.93, 1, 1)], (236, 230, 214))
        if name in ("front", "back"):
            canvas.rects(face, [(0.06, 0.42 if name == "front" else 0.55, 0.94, 0.8)], GLASS)
            canvas.rects(face, [(0.2, 0.82, 0.8, 0.93)], (24, 20, 18))
            canvas.rects(face, _grid(5, 1, (0.26, 0.845, 0.74, 0.905), (0.7, 1)), (255, 168, 40))
        else:
            canvas.rects(face, _grid(7, 1, (0.02, 0.46, 0.98, 0.82), (0.9, 1)), GLASS)
            canvas.rects(face, [(0.3, 0.06, 0.4, 0.8), (0.84, 0.06, 0.93, 0.8)], (64, 74, 84))
            canvas.rects(face, [(0.0, 0.3, 1.0, 0.36)], (120, 30, 26))
    _wheels(canvas, body, (0.2, 0.76), 0.5, 0.3)
    _lights(canvas, body, 0.2, 0.3)


def draw_truck(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """Draw a lorry: a cab and a windowless, ribbed box behind it, wheels in the open."""
    box, cab = _pick(rng, TRUCK_BOXES), _pick(rng, TRUCK_CABS)
    canvas.solid(pose, (-1.0, -3.6, 1.0, 3.4), (0.5, 1.0), (52, 52, 54), "truck")

    def _cab() -> None:
        faces = canvas.solid(pose, (-1.2, 2.0, 1.2, 4.0), (0.4, 2.75), cab, "truck", (-1.15, 2.0, 1.15, 3.75))
        for name, face in faces.items():
            canvas.rects(face, [(0.08, 0.48, 0.92, 0.86) if name == "front" else (0.35, 0.5, 0.92, 0.84)], GLASS)
            canvas.rects(face, [(0, 0, 1, 0.14)], (44, 44, 46))
        if "front" in faces:
            canvas.rects(faces["front"], [(0.25, 0.2, 0.75, 0.38)], (70, 70, 74))
        _wheels(canvas, faces, (0.5,), 0.5, 0.4)
        _lights(canvas, {k: v for k, v in faces.items() if k == "front"}, 0.16, 0.26)

    def _box() -> None:
        faces = canvas.solid(pose, (-1.25, -4.0, 1.25, 1.8), (1.0, 3.5), box, "truck")
        for name, face in faces.items():
            ribs = 2 if name in ("front", "back") else 9
            canvas.rects(face, _grid(ribs, 1, (0.02, 0.03, 0.98, 0.97), (0.88, 0.96)), box * 1.12)
            canvas.rects(face, [(0, 0, 1, 0.06), (0, 0.96, 1, 1)], box * 0.6)
            if name in ("left", "right"):
                canvas.rects(face, [(0.2, 0.4, 0.8, 0.66)], (236, 236, 232))
            elif name == "back":
                canvas.rects(face, _grid(6, 1, (0.02, 0.0, 0.98, 0.08), (0.55, 1)), (224, 40, 36))
        low = canvas.solid(pose, (-1.2, -3.9, 1.2, 1.7), (0.45, 1.0), (46, 46, 50), "truck")
        _wheels(canvas, low, (0.14, 0.34), 0.5, 0.45)
        _lights(canvas, {k: v for k, v in low.items() if k == "back"}, 0.45, 0.85)

    for part in (_box, _cab) if np.cos(pose.yaw) < 0 else (_cab, _box):
        part()


def draw_train(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """Draw a tram of three cars: cream over green or teal, a dark window band, hidden wheels, a pantograph."""
    livery = _pick(rng, TRAM_LIVERIES)
    order = (-1, 0, 1) if np.cos(pose.yaw) < 0 else (1, 0, -1)  # far car first
    for part in order:
        start = part * 6.4
        body = canvas.solid(
            pose, (-1.25, start - 3.1, 1.25, start + 3.1), (0.16, 3.4), (238, 232, 208), "train",
            (-1.12, start - (2.75 if part < 0 else 3.1), 1.12, start + (2.75 if part > 0 else 3.1)),
        )  # fmt: skip
        for name, face in body.items():
            canvas.rects(face, [(0, 0, 1, 0.4)], livery)
            canvas.rects(face, [(0, 0, 1, 0.08)], (60, 62, 64))
            canvas.rects(face, [(0, 0.93, 1, 1)], (112, 116, 120))
            if name in ("front", "back"):
                canvas.rects(face, [(0.1, 0.45, 0.9, 0.82)], (34, 44, 54))
                canvas.rects(face, [(0.3, 0.85, 0.7, 0.92)], (255, 214, 90))
                canvas.rects(face, [(0.08, 0.22, 0.24, 0.31), (0.76, 0.22, 0.92, 0.31)], (255, 250, 226))
            else:
                canvas.rects(face, [(0.02, 0.48, 0.98, 0.8)], (34, 44, 54))
                canvas.rects(face, _grid(4, 1, (0.04, 0.5, 0.96, 0.78), (0.88, 1)), (66, 88, 102))
                canvas.rects(face, [(0.42, 0.09, 0.58, 0.8)], (206, 214, 208))
                canvas.rects(face, [(0.44, 0.44, 0.495, 0.76), (0.505, 0.44, 0.56, 0.76)], (54, 70, 82))
        if part == 0:
            roof = pose.board()
            canvas.limb(roof, [(-0.6, 3.4), (0.3, 4.1), (-0.5, 4.7)], 0.14, (70, 70, 74), "train")
            canvas.limb(roof, [(-1.0, 4.7), (0.9, 4.7)], 0.14, (70, 70, 74), "train")


def draw_rider(
    canvas: Canvas, rng: np.random.Generator, board: Patch, seat: float, reach: float, leather: bool
) -> None:
    """Draw who sits on a two-wheeler: a helmet, a leaning back, arms to the handlebar, a bent leg."""
    jacket = _pick(rng, LEATHERS if leather else JERSEYS)
    trousers, helmet = _pick(rng, TROUSERS), _pick(rng, (WHITE, (222, 40, 40), (250, 200, 30)))
    hip, shoulder = (-0.22, seat + 0.06), (0.1, seat + 0.62)
    canvas.limb(board, [hip, (0.26, seat - 0.12), (0.08, 0.34)], 0.22, trousers, "rider")
    canvas.limb(board, [(0.05, 0.32), (0.2, 0.3)], 0.13, BLACK, "rider")
    canvas.limb(board, [hip, shoulder], 0.42, jacket, "rider")
    canvas.limb(board, [shoulder, (0.3, seat + 0.3), (reach, seat + 0.22)], 0.16, jacket * 0.85, "rider")
    canvas.limb(board, [(-0.18, seat + 0.3), (0.02, seat + 0.38)], 0.12, (220, 224, 220) if leather else jacket * 0.7)
    canvas.discs(board, [(0.2, seat + 0.86, 0.17)], _pick(rng, SKIN), "rider")
    canvas.discs(board, [(0.17, seat + 0.93, 0.19)], helmet, "rider")
    canvas.shape(board, np.array([(0.24, 0.84), (0.38, 0.84), (0.38, 0.92), (0.24, 0.92)]) + (0, seat), (40, 44, 54))


def draw_bicycle(canvas: Canvas, rng: np.random.Generator, pose: Pose, ridden: bool) -> None:
    """Draw a bicycle from the side, more or less turned; ridden or parked. Its label covers wheels and frame whole."""
    board = _turned_board(pose)
    frame = _pick(rng, BICYCLE_PAINTS)
    wheels = [(-0.55, 0.37, 0.37), (0.55, 0.37, 0.37)]
    canvas.shape(board, [(-0.55, 0.1), (0.55, 0.1), (0.42, 0.92), (-0.3, 0.92)], (128, 128, 136), "bicycle")
    canvas.discs(board, wheels, TYRE, "bicycle")
    canvas.discs(board, [(u, v, 0.29) for u, v, _ in wheels], (176, 178, 186))
    for u, v, radius in wheels:
        for angle in (0.3, 1.35, 2.4):
            du, dv = np.cos(angle) * radius * 0.8, np.sin(angle) * radius * 0.8
            canvas.limb(board, [(u - du, v - dv), (u + du, v + dv)], 0.025, (90, 90, 96))
    canvas.limb(board, [(-0.55, 0.37), (-0.05, 0.36), (0.4, 0.86), (-0.24, 0.8), (-0.55, 0.37)], 0.09, frame, "bicycle")
    canvas.limb(board, [(-0.05, 0.36), (-0.28, 0.95)], 0.08, frame, "bicycle")
    canvas.limb(board, [(0.55, 0.37), (0.38, 0.98), (0.5, 1.04)], 0.09, frame, "bicycle")
    canvas.limb(board, [(-0.4, 0.97), (-0.16, 0.97)], 0.1, BLACK, "bicycle")
    if ridden:
        draw_rider(canvas, rng, board, 0.95, 0.45, leather=False)


def draw_motorcycle(canvas: Canvas, rng: np.random.Generator, pose: Pose, ridden: bool) -> None:
    """Draw a motorcycle from the side, more or less turned; ridden or parked."""
    board = _turned_board(pose)
    paint = _pick(rng, MOTORCYCLE_PAINTS)
    wheels = [(-0.72, 0.36, 0.36), (0.74, 0.36, 0.36)]
    canvas.discs(board, wheels, TYRE, "motorcycle")
    canvas.discs(board, [(u, v, 0.17) for u, v, _ in wheels], (140, 142, 148))
    canvas.shape(board, [(-0.6, 0.26), (0.45, 0.24), (0.56, 0.72), (-0.5, 0.74)], (62, 62, 68), "motorcycle")
    canvas.discs(board, [(-0.06, 0.42, 0.19), (0.2, 0.42, 0.14)], (164, 166, 170))
    canvas.limb(board, [(-0.2, 0.28), (-0.95, 0.34)], 0.13, (196, 198, 204), "motorcycle")
    canvas.limb(board, [(0.74, 0.36), (0.5, 0.98)], 0.14, (90, 92, 96), "motorcycle")
    canvas.shape(board, [(-0.98, 0.74), (-0.5, 0.62), (0.5, 0.62), (0.62, 0.9), (0.3, 0.98), (-0.1, 0.8), (-0.95, 0.9)],
                 paint, "motorcycle")  # fmt: skip
    canvas.shape(board, [(0.42, 0.62), (0.84, 0.78), (0.62, 1.22), (0.46, 1.12)], paint * 0.9, "motorcycle")
    canvas.limb(board, [(-0.7, 0.88), (-0.1, 0.84)], 0.14, BLACK, "motorcycle")
    canvas.discs(board, [(0.72, 0.9, 0.11)], (255, 250, 214), "motorcycle")
    if ridden:
        draw_rider(canvas, rng, board, 0.88, 0.5, leather=True)


def _turned_board(pose: Pose) -> Patch:
    """Return the side view of a two-wheeler whose front points to the heading of ``pose``."""
    return Pose(pose.x, pose.z).board(np.pi / 2 - pose.yaw)


# --------------------------------------------------------------------------------------------------------------------
# People, street furniture, plants
# --------------------------------------------------------------------------------------------------------------------


def draw_person(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """Draw a walking or standing person."""
    board, size, side = pose.board(), rng.uniform(0.92, 1.06), float(rng.choice((-1, 1)))
    board.corners = board.corners[0] + (board.corners - board.corners[0]) * (size * side, size, size)
    top, legs, skin = _pick(rng, CLOTHES), _pick(rng, TROUSERS), _pick(rng, SKIN, 5)
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
        canvas.shape(board, [(-0.42, 0.9), (-0.2, 0.9), (-0.16, 1.34), (-0.36, 1.34)], _pick(rng, CLOTHES), "person")
    canvas.discs(board, [(0.26 + stride / 2, 0.86, 0.07)], skin, "person")
    canvas.discs(board, [(-0.02, 1.64, 0.16)], _pick(rng, ((48, 34, 26), (120, 84, 44), (30, 28, 28))), "person")
    canvas.discs(board, [(0.03, 1.6, 0.125)], skin, "person")


def _draw_post(canvas: Canvas, board: Patch, top: float, width: float, colour: Colour) -> None:
    """Draw the upright of something: a cylinder with a lit and a shaded side."""
    colour = np.asarray(colour, float)
    lit = -1 if canvas.weather.sun[0] < 0 else 1
    canvas.rects(board, [(-width / 2, 0, width / 2, top)], colour, "pole")
    canvas.rects(board, [(0.1 * width * lit, 0, 0.36 * width * lit, top)], colour * 1.3)
    canvas.rects(board, [(-0.46 * width * lit, 0, -0.2 * width * lit, top)], colour * 0.7)
    canvas.rects(board, [(-width * 0.75, 0, width * 0.75, 0.35)], colour * 0.8, "pole")


def draw_lamp(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """Draw a stout street lamp, its arm over the road."""
    board, grey = pose.board(), _pick(rng, ((104, 110, 112), (84, 94, 96), (126, 128, 124)), 6)
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
        canvas.rects(board, _grid(2, 1, (-0.26, middle - 0.18, 0.26, middle + 0.18), (0.68, 1)), BLACK)
    elif kind == 1:
        canvas.shape(board, triangle * size * 1.1 + (0, middle), red, "traffic sign")
        canvas.shape(board, triangle * size * 0.66 + (0, middle - 0.02), WHITE)
        canvas.rects(board, [(-0.06, middle - 0.24, 0.06, middle + 0.14)], BLACK)
    elif kind == 2:
        canvas.shape(board, octagon * size * 1.05 + (0, middle), WHITE, "traffic sign")
        canvas.shape(board, octagon * size * 0.94 + (0, middle), red)
        canvas.rects(board, _grid(4, 1, (-0.36, middle - 0.13, 0.36, middle + 0.13), (0.7, 1)), WHITE)
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
    colour = _pick(rng, ((40, 64, 52), (64, 66, 72), (96, 60, 30)), 6)
    canvas.solid(pose, (-0.32, -0.32, 0.32, 0.32), (0.06, 0.95), colour, "static", (-0.36, -0.36, 0.36, 0.36))
    canvas.solid(pose, (-0.4, -0.4, 0.4, 0.4), (0.95, 1.06), colour * 0.7, "static")


def _foliage(canvas: Canvas, rng: np.random.Generator, board: Patch, blobs: np.ndarray, green: np.ndarray) -> None:
    """Paint leaf clumps ``(N, 3)`` (u, v, radius) from the shaded inside to the lit outside."""
    u, v, radius = blobs.T
    sun = canvas.weather.sun
    lit = (u - u.mean()) / (np.ptp(u) + 1e-6) * np.sign(sun[0]) * 0.5 + (v - v.mean()) / (np.ptp(v) + 1e-6)
    order = np.argsort(lit + rng.normal(0, 0.15, len(lit)))
    shade = np.clip(0.86 + 0.42 * lit + rng.normal(0, 0.07, len(lit)), 0.5, 1.3)
    rings = _CIRCLE[None] * radius[:, None, None] * rng.uniform(0.86, 1.14, (len(u), len(_CIRCLE), 1))
    points = board.at(rings + blobs[:, None, :2])
    canvas.fill(points[order], green, "vegetation", shade[order])
    if board.corners[0, 2] > 24:
        return
    inner = board.at(rings * 0.5 + blobs[:, None, :2] + radius[:, None, None] * (0.25 * np.sign(sun[0]), 0.3))
    canvas.fill(inner[order], green, None, shade[order] * 1.16)


def draw_tree(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """Draw a tree with a trunk (vegetation, as in Cityscapes) and a crown of leaf clumps."""
    board, green = pose.board(), _pick(rng, ((54, 96, 34), (70, 112, 36), (44, 84, 44), (84, 104, 30)), 7)
    height, spread = rng.uniform(4.5, 7.5), rng.uniform(1.3, 2.1)
    bark = _pick(rng, ((92, 68, 48), (78, 64, 54)), 6)
    canvas.shape(board, [(-0.24, 0), (0.24, 0), (0.14, height * 0.6), (-0.14, height * 0.6)], bark, "vegetation")
    canvas.shape(board, [(-0.24, 0), (-0.04, 0), (-0.04, height * 0.6), (-0.14, height * 0.6)], bark * 0.7)
    clumps = 32 if pose.z < 14 else 18 if pose.z < 24 else 10
    angle, reach = rng.uniform(0, 2 * np.pi, clumps), np.sqrt(rng.uniform(0.02, 1, clumps))
    blobs = np.stack([
        np.cos(angle) * reach * spread,
        height * 0.68 + np.sin(angle) * reach * height * 0.3,
        rng.uniform(0.28, 0.46, clumps) * spread * (32 / clumps) ** 0.3,
    ], axis=-1)  # fmt: skip
    _foliage(canvas, rng, board, blobs, green)


def draw_hedge(canvas: Canvas, rng: np.random.Generator, x: float, near: float, far: float) -> None:
    """Draw a hedge along the street at ``x``, from far to near."""
    green, height = _pick(rng, ((48, 88, 36), (62, 104, 40)), 6), rng.uniform(1.1, 1.9)
    for z in np.arange(far, near, -1.2):
        count = 8
        low, high = (-0.45, 0.17 * height, 0.36), (0.45, 0.84 * height, 0.58)
        blobs = rng.uniform(low, high, (count, 3))
        _foliage(canvas, rng, Pose(x, float(z)).board(), blobs, green)


# --------------------------------------------------------------------------------------------------------------------
# What lines the street
# --------------------------------------------------------------------------------------------------------------------


def _along(side: int, x: float, depth: float, near: float, far: float) -> tuple[Pose, Rect]:
    """Return the pose and foot of a block beside the street that starts ``x`` metres from its middle."""
    edges = sorted((side * x, side * (x + depth)))
    return Pose(0, 0), (edges[0], near, edges[1], far)


def draw_building(
    canvas: Canvas, rng: np.random.Generator, side: int, x: float, depth: float, near: float, far: float
) -> None:
    """Draw a house beside the street: storeys of windows, a shop or a door below, a flat or a pitched roof."""
    plaster, trim = _pick(rng, FACADES), _pick(rng, ((232, 228, 220), (206, 200, 190), (110, 92, 80)), 6)
    storeys, shop, pitched = int(rng.integers(2, 5)), rng.random() < 0.4, rng.random() < 0.55
    storey = rng.uniform(2.7, 3.2)
    height = storeys * storey + 0.4
    glass, accent = _pick(rng, (GLASS, (74, 92, 110), (44, 50, 60)), 5), _pick(rng, CLOTHES)
    fill = (rng.uniform(0.42, 0.62), rng.uniform(0.5, 0.62))
    pose, foot = _along(side, x, depth, near, far)
    if pitched:
        ridge = (foot[0] + depth * 0.45, near + 0.3, foot[2] - depth * 0.45, far - 0.3)
        eaves = (foot[0] - 0.4, near - 0.2, foot[2] + 0.4, far + 0.2)
        roof = _pick(rng, ROOFS)
        for face in canvas.solid(pose, eaves, (height, height + 3.0), roof, "building", ridge).values():
            canvas.rects(face, _grid(1, 7, (0, 0, 1, 1), (1, 0.3)), roof * 0.8)
    for face in canvas.solid(pose, foot, (0, height), plaster, "building").values():
        columns = max(2, round(face.size()[0] / 2.3))
        first = storey / height
        cells = _grid(columns, storeys - 1, (0.04, first, 0.96, 0.98), fill)
        if near < 25:
            canvas.rects(face, [(u0 - 0.007, v0 - 0.012, u1 + 0.007, v1 + 0.012) for u0, v0, u1, v1 in cells], trim)
        canvas.rects(face, cells, glass)
        canvas.rects(face, [(u0, v0 + (v1 - v0) * 0.55, u1, v1) for u0, v0, u1, v1 in cells], glass * 1.5 + 14)
        canvas.rects(face, [(0, 0, 1, 0.035)], plaster * 0.6)
        canvas.rects(face, [(0, 0.975, 1, 1), (0, first - 0.01, 1, first + 0.012)], trim)
        ground = _grid(max(2, columns // 2), 1, (0.04, first * 0.12, 0.96, first * 0.78), (0.78, 1))
        if shop:
            canvas.rects(face, ground, glass * 0.9)
            canvas.rects(face, [(0.03, first * 0.8, 0.97, first * 0.97)], accent)
        else:
            canvas.rects(face, _grid(columns, 1, (0.04, first * 0.3, 0.96, first * 0.85), (fill[0], 1)), glass)
            canvas.rects(face, [(0.46, 0, 0.54, first * 0.75)], accent * 0.6)


def draw_wall(canvas: Canvas, rng: np.random.Generator, side: int, x: float, near: float, far: float) -> None:
    """Draw a free-standing wall of concrete panels or stone courses with a coping."""
    stone = _pick(rng, STONES, 6)
    height, rows = rng.uniform(1.7, 2.5), int(rng.choice((1, 4)))
    pose, foot = _along(side, x, 0.4, near, far)
    for face in canvas.solid(pose, foot, (0, height), stone * 0.72, "wall").values():
        columns = max(1, round(face.size()[0] / (1.9 if rows == 1 else 1.0)))
        canvas.rects(face, _grid(columns, rows, (0, 0, 1, 0.94), (0.94, 0.96 if rows == 1 else 0.88)), stone)
        canvas.rects(face, [(0, 0.93, 1, 1)], stone * 1.22)
        canvas.rects(face, [(0, 0, 1, 0.12)], stone * 0.66)


def draw_fence(canvas: Canvas, rng: np.random.Generator, side: int, x: float, near: float, far: float) -> None:
    """Draw a fence of pickets with narrow dark gaps; its label covers it whole."""
    wood = _pick(rng, WOODS, 8)
    height = rng.uniform(1.4, 2.0)
    pose, foot = _along(side, x, 0.12, near, far)
    for face in canvas.solid(pose, foot, (0, height), wood * 0.4, "fence").values():
        pickets = max(1, round(face.size()[0] / 0.5))
        canvas.rects(face, _grid(pickets, 1, (0, 0.03, 1, 0.98), (0.62, 1)), wood)
        canvas.rects(face, [(0, 0.18, 1, 0.27), (0, 0.7, 1, 0.79)], wood * 0.82)


# --------------------------------------------------------------------------------------------------------------------
# The scene
# --------------------------------------------------------------------------------------------------------------------


class Item(NamedTuple):
    """Something that stands in the scene: its paint order, its shadow's base, and how to draw it.

    ``ring`` grows outwards from the own lane (0) to the houses: on one side of the street, what lies in an outer ring
    can never hide what lies in an inner one, and within a ring the nearer hides the farther.
    """

    ring: int
    z: float
    foot: Rect  # x0, z0, x1, z1 on the ground
    height: float
    draw: Callable[[], None]


@dataclass
class Lane:
    """A strip along the street in which things stand one behind the other."""

    x: float
    ring: int
    yaw: float
    taken: list[tuple[float, float]] = field(default_factory=list)

    def place(self, rng: np.random.Generator, length: float, near: float, far: float) -> float | None:
        """Find a free stretch of ``length`` that starts between ``near`` and ``far``; return its middle, or None."""
        for start in rng.uniform(near, far, 6):
            if all(start > end + 0.5 or start + length < begin - 0.5 for begin, end in self.taken):
                self.taken.append((start, start + length))
                return float(start + length / 2)
        return None


RING_HOUSE, RING_GARDEN, RING_FENCE, RING_WALK, RING_KERB = 9, 8, 7, 6, 5


class Street:
    """The plan of one street: where road, pavements and verges lie and what stands on them.

    Args:
        rng: The only source of chance for everything that has a shape.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        """Lay out the street and put everything in its place."""
        self.rng = rng
        self.camera = Camera(rng.uniform(0.38, 0.46), 1 + rng.uniform(-0.2, 0.2), rng.uniform(0.95, 1.15),
                             rng.uniform(1.6, 2.1))  # fmt: skip
        self.weather = self._weather()
        self.lanes = self._lanes()
        self.edges = {-1: -self.lanes[0].x + 1.6, 1: self.lanes[-1].x + 1.4}  # |x| of the kerbs
        self.verge = {side: float(rng.uniform(1.5, 2.6)) * (rng.random() < 0.85) for side in (-1, 1)}
        self.walk = {side: float(rng.uniform(2.2, 3.2)) for side in (-1, 1)}
        self.garden = {side: float(rng.uniform(1.5, 4.0)) for side in (-1, 1)}
        self.items: list[Item] = []
        self._line_the_street()
        self._add_traffic()
        self._add_kerbside()
        self._add_people()

    def _weather(self) -> Weather:
        """Choose sun, brightness of shade and haze."""
        rng = self.rng
        azimuth, rise = rng.uniform(-2.6, 2.6), rng.uniform(0.6, 1.0)
        sun = np.array([np.sin(azimuth) * np.cos(rise), np.sin(rise), -np.cos(azimuth) * np.cos(rise)])
        overcast = rng.random() < 0.3
        haze = np.array([206, 214, 222.0]) if overcast else np.array([196, 212, 232.0]) + rng.normal(0, 8, 3)
        return Weather(sun, 0.84 if overcast else 0.66, haze, float(rng.uniform(0.003, 0.012)))

    def _lanes(self) -> list[Lane]:
        """Return the lanes from left to right: one or two oncoming, the own one, one for parking and cycling."""
        oncoming = [Lane(-3.2, 1, np.pi)]
        if self.rng.random() < 0.5:
            oncoming.insert(0, Lane(-6.3, 2, np.pi))
        return [*oncoming, Lane(0.0, 0, 0.0), Lane(2.9, 1, 0.0)]

    def _add(self, ring: int, foot: Rect, height: float, draw: Callable[..., None], *args: object) -> None:
        """Put something into the scene; each gets a chance of its own, so none disturbs another."""
        child = np.random.default_rng(self.rng.integers(1 << 62))
        x0, z0, x1, z1 = foot
        self.items.append(Item(ring, min(z0, z1), foot, height, lambda canvas: draw(canvas, child, *args)))

    def _add_at(
        self, ring: int, pose: Pose, size: tuple[float, float, float], draw: Callable[..., None], *args: object
    ) -> None:
        """Put something of ``size`` (across, along, high) at a pose."""
        across, along, high = size
        cos, sin = abs(np.cos(pose.yaw)), abs(np.sin(pose.yaw))
        dx, dz = (across * cos + along * sin) / 2, (across * sin + along * cos) / 2
        self._add(ring, (pose.x - dx, pose.z - dz, pose.x + dx, pose.z + dz), high, draw, pose, *args)

    def _line_the_street(self) -> None:
        """Put houses along both sides, and walls, fences and hedges before them."""
        rng = self.rng
        for side in (-1, 1):
            front = self.edges[side] + self.verge[side] + self.walk[side]
            self._add_houses(side, front + 0.5 + self.garden[side])
            z = float(rng.uniform(4, 6))
            first = ["wall", "fence"] if (rng.random() < 0.5) == (side > 0) else ["fence", "wall"]
            for kind in [*first, *rng.permutation(["wall", "fence", "hedge", "open"])]:
                end = z + float(rng.uniform(5, 9))
                foot = _along(side, front, 0.4, z, end)[1]
                if kind == "wall":
                    self._add(RING_FENCE, foot, 2.0, draw_wall, side, front, z, end)
                elif kind == "fence":
                    self._add(RING_FENCE, foot, 1.7, draw_fence, side, front, z, end)
                elif kind == "hedge":
                    self._add(RING_FENCE, foot, 1.5, draw_hedge, side * (front + 0.4), z, end)
                z = end + float(rng.uniform(0, 1.5))

    def _add_houses(self, side: int, front: float) -> None:
        """Put a row of houses with gaps and garden trees along one side."""
        rng, z = self.rng, 3.0
        while z < _FAR - 8:
            end = z + float(rng.uniform(7, 14))
            if rng.random() < 0.78:
                setback, depth = front + float(rng.uniform(0, 1.2)), float(rng.uniform(7, 10))
                foot = _along(side, setback, depth, z, end)[1]
                self._add(RING_HOUSE, foot, 7.0, draw_building, side, setback, depth, z, end)
            else:
                end = z + 6
                for _ in range(3):
                    tree = Pose(side * (front + float(rng.uniform(0, 5))), float(rng.uniform(z + 0.5, end - 0.5)))
                    self._add_at(RING_HOUSE, tree, (2.5, 2.5, 5), draw_tree)
            if rng.random() < 0.4:
                tree = Pose(side * (front - self.garden[side] / 2), float(rng.uniform(max(z, 9), max(end, 10))))
                self._add_at(RING_GARDEN, tree, (2.5, 2.5, 5), draw_tree)
            z = end

    def _add_traffic(self) -> None:
        """Fill the lanes: the big vehicles first, then two-wheelers, then cars where there is room."""
        rng, left, own, right = self.rng, self.lanes[:-2], self.lanes[-2], self.lanes[-1]
        big = [(draw_train, (2.5, 19.2, 3.5)), (draw_bus, (2.5, 10.4, 3.2)), (draw_truck, (2.5, 8.0, 3.5))]
        car = (1.8, 4.3, 1.5)
        if rng.random() < 0.75:
            self._drive([*left, own, right][int(rng.integers(len(left) + 2))], car, (6, 10), draw_car)
        for index in rng.permutation(3):
            draw, size = big[int(index)]
            lanes = left if draw is draw_train else [*left, own, right]
            for choice in rng.permutation(len(lanes)) if rng.random() < 0.9 else ():
                lane = lanes[int(choice)]
                if self._drive(lane, size, (9 if lane is own else 6, 17), draw):
                    break
        for draw, size in ((draw_motorcycle, (0.6, 2.1, 1.4)), (draw_bicycle, (0.5, 1.8, 1.4))):
            for _ in range(2):
                lane = [left[-1], own, right][int(rng.integers(3))]
                z = lane.place(rng, 2.0, 5.0 if lane is right else 5.5, 13)
                if z is not None:
                    turn = float(rng.uniform(0.9, 2.2)) * float(rng.choice((-1, 1)))
                    x = lane.x + float(rng.uniform(-0.5, 0.5))
                    self._add_at(lane.ring, Pose(x, z, turn), size, draw, True)
        for _ in range(9):
            self._drive([*left, own, right, right][int(rng.integers(len(left) + 3))], car, (6, 28), draw_car)

    def _drive(
        self, lane: Lane, size: tuple[float, float, float], span: tuple[float, float], draw: Callable[..., None]
    ) -> bool:
        """Put a vehicle into a lane if there is room, and tell whether there was."""
        z = lane.place(self.rng, size[1], *span)
        x = lane.x + float(self.rng.uniform(-0.25, 0.25))
        wobble = float(self.rng.normal(0, 0.03))
        if z is not None:
            self._add_at(lane.ring, Pose(x, z, lane.yaw + wobble), size, draw)
        return z is not None

    def _add_kerbside(self) -> None:
        """Put lamps, traffic lights, signs and trees along both kerbs, each with a stretch of its own."""
        rng = self.rng
        for side in (-1, 1):
            x = side * (self.edges[side] + 0.6)
            z = float(rng.uniform(6.0, 7.5))
            for draw in rng.permutation(np.array([draw_lamp, draw_traffic_light, draw_sign, draw_sign, draw_tree])):
                self._add_at(RING_KERB, Pose(x, z), (0.5, 0.5, 4.0), draw)
                z += float(rng.uniform(1.8, 3.4))
            for draw in (draw_lamp, draw_tree):
                z += float(rng.uniform(3.0, 7.0))
                self._add_at(RING_KERB, Pose(x, z), (0.5, 0.5, 4.0), draw)

    def _add_people(self) -> None:
        """Put walkers, parked two-wheelers and bins on both pavements."""
        rng = self.rng
        for side in (-1, 1):
            inner = self.edges[side] + max(self.verge[side], 1.0)
            outer = self.edges[side] + self.verge[side] + self.walk[side] - 0.3
            strip = Lane(0, RING_WALK, 0.0)
            furniture = [(draw_bicycle, (1.8, 0.5, 1.0), False), (draw_motorcycle, (2.0, 0.6, 1.1), False)]
            for draw, size, ridden in (furniture[int(i)] for i in rng.permutation(2)):
                z = strip.place(rng, 0.6, 6.5, 13)
                if z is not None and rng.random() < 0.6:
                    turn = float(rng.choice((-1, 1))) * float(rng.uniform(1.2, 1.9))
                    self._add_at(RING_WALK, Pose(side * (inner + outer) / 2, z, turn), size, draw, ridden)
            for _ in range(int(rng.integers(4, 7))):
                z = strip.place(rng, 0.4, 5.5, 15)
                if z is not None:
                    pose = Pose(side * float(rng.uniform(inner, outer)), z)
                    self._add_at(RING_WALK, pose, (0.5, 0.5, 1.7), draw_person)
            z = strip.place(rng, 0.7, 7, 15)
            if z is not None and rng.random() < 0.4:
                self._add_at(RING_WALK, Pose(side * (outer - 0.2), z), (0.7, 0.7, 1.0), draw_bin)
        z = self.lanes[-2].place(rng, 0.6, 7, 16)
        if z is not None and rng.random() < 0.6:
            self._add_at(0, Pose(float(rng.uniform(-1.2, 1.2)), z), (0.5, 0.5, 1.7), draw_person)


def _ground(points: Sequence[tuple[float, float]]) -> np.ndarray:
    """Return the (N, 3) float world points of (x, z) pairs on the ground."""
    x, z = np.asarray(points, float).T
    return np.stack([x, np.zeros_like(x), z], axis=-1)


def _strip(x0: float, x1: float, near: float = 1.2, far: float = _FAR) -> np.ndarray:
    """Return the (K, 3) float outline of a strip along the street, cut in pieces so that haze can grow along it."""
    cuts = [z for z in (1.2, 4, 6, 9, 13, 18, 25, 35, 48, _FAR) if near < z < far]
    z = np.array([near, *cuts, far])
    outline = np.zeros((len(z) - 1, 4, 3))
    outline[..., 0] = (x0, x1, x1, x0)
    outline[..., 2] = np.stack([z[:-1], z[:-1], z[1:], z[1:]], axis=-1)
    return outline


def _paint_sky(canvas: Canvas, rng: np.random.Generator, haze: np.ndarray) -> None:
    """Paint a gradient that meets the haze at the horizon, and clouds."""
    rows, columns = canvas.labels.shape
    bottom = min(rows, int(canvas.camera.horizon * rows) + 2)
    zenith = _pick(rng, ((92, 146, 214), (120, 164, 218), (150, 176, 204), (84, 130, 200)), 8)
    clouds = _noise(rng, 4, 5, 4)
    cover = rng.uniform(-0.2, 0.9)
    rise = (np.arange(bottom, dtype=np.float32) / bottom)[:, None, None] ** 1.3
    sky = zenith.astype(np.float32) * (1 - rise) + haze.astype(np.float32) * rise
    white = np.clip((cv2.resize(clouds, (columns, bottom), interpolation=cv2.INTER_CUBIC) - cover) * 0.5, 0, 0.85)
    canvas.image[:bottom] = sky + (246 - sky) * white[..., None]
    canvas.labels[:bottom] = LABEL["sky"]


def _paint_skyline(canvas: Canvas, rng: np.random.Generator) -> None:
    """Close the street with far houses and trees."""
    for x in rng.permutation(np.arange(-40, 41, 8.0)):
        near = float(rng.uniform(_FAR - 2, _FAR + 6))
        if rng.random() < 0.62:
            tall = float(rng.uniform(6, 15))
            plaster = _pick(rng, FACADES)
            for face in canvas.solid(Pose(x, near), (-5, 0, 5, 8), (0, tall), plaster, "building").values():
                canvas.rects(face, _grid(4, max(2, int(tall / 3)), (0.05, 0.1, 0.95, 0.95), (0.5, 0.5)), GLASS)
        else:
            blobs = np.stack([rng.uniform(-5, 5, 12), rng.uniform(0.5, 5.5, 12), rng.uniform(1.4, 2.4, 12)], axis=-1)
            _foliage(canvas, rng, Pose(x, near).board(), blobs, _pick(rng, ((54, 96, 34), (70, 112, 36)), 6))


def _paint_ground(canvas: Canvas, street: Street, rng: np.random.Generator) -> None:
    """Paint lawns, pavements, verges, the road with its markings and rails, and kerbs."""
    grass = _pick(rng, ((134, 176, 66), (150, 180, 80), (160, 170, 84)), 6)
    paving = _pick(rng, ((186, 176, 168), (196, 182, 166), (178, 172, 174)), 6)
    asphalt = _pick(rng, ((98, 98, 102), (86, 87, 92), (110, 108, 108)), 5)
    canvas.fill(_strip(-9000, 9000, far=5000.0), grass, "terrain")  # up to the horizon
    for side in (-1, 1):
        kerb, verge, walk = side * street.edges[side], side * street.verge[side], side * street.walk[side]
        canvas.fill(_strip(kerb, kerb + verge + walk), paving, "sidewalk")
        joints = np.concatenate([_strip(kerb, kerb + verge + walk, z, z + 0.07) for z in np.arange(2, 24, 1.2)])
        canvas.fill(joints, paving * 0.84)
        canvas.fill(_strip(kerb + verge + walk / 2 - 0.03, kerb + verge + walk / 2 + 0.03), paving * 0.86)
        if verge:
            canvas.fill(_strip(kerb + side * 0.35, kerb + verge), grass * 1.04, "terrain")
    left, right = -street.edges[-1], street.edges[1]
    canvas.fill(_strip(left, right), asphalt, "road")
    for _ in range(3):  # mended patches
        x, z = rng.uniform(left, right - 1.5), rng.uniform(4, 18)
        canvas.fill(_strip(x, x + rng.uniform(0.8, 1.8), z, z + rng.uniform(1, 4)), asphalt * rng.uniform(0.8, 1.15))
    for lane in street.lanes[:-2]:
        for rail in (-0.75, 0.75):
            canvas.fill(_strip(lane.x + rail - 0.05, lane.x + rail + 0.05), asphalt * 0.62)
    _paint_markings(canvas, street, rng)
    for edge, inner in ((left, 1), (right, -1)):
        canvas.fill(_strip(edge - inner * 0.3, edge), (204, 202, 198), "sidewalk")
        canvas.fill(_strip(edge, edge + inner * 0.18), asphalt * 0.7)


def _paint_markings(canvas: Canvas, street: Street, rng: np.random.Generator) -> None:
    """Paint lane lines and, in some streets, a zebra crossing."""
    paint = np.array([226, 226, 220.0]) * rng.uniform(0.85, 1.05)
    start = rng.uniform(0, 6)
    for lane, after in zip(street.lanes[:-1], street.lanes[1:], strict=True):
        x = (lane.x + after.x) / 2
        if lane.yaw != after.yaw:
            canvas.fill(_strip(x - 0.08, x + 0.08), paint)
        else:
            dashes = np.arange(1.2 + start, 45, 6)
            canvas.fill(np.concatenate([_strip(x - 0.08, x + 0.08, z, z + 2.6) for z in dashes]), paint)
    if rng.random() < 0.45:
        z = rng.uniform(6, 13)
        bars = np.arange(-street.edges[-1] + 0.4, street.edges[1] - 0.6, 1.0)
        canvas.fill(np.concatenate([_strip(x, x + 0.5, z, z + 2.6) for x in bars]), paint)


def _texture_ground(canvas: Canvas, rng: np.random.Generator) -> None:
    """Give the ground its grain, in perspective: rough grass, worn asphalt, stained paving."""
    per_metre, span = 4, 30.0  # texels, and metres to each side
    grain = _noise(rng, 60, 60, 3)
    camera, (rows, columns) = canvas.camera, canvas.labels.shape
    corners = [(-span, 2.0), (span, 2.0), (span, 40.0), (-span, 40.0)]
    texels = np.array([((x + span) * per_metre, z * per_metre) for x, z in corners], np.float32)
    top = min(rows - 1, int(camera.horizon * rows))
    pixels = (camera.project(_ground(corners)) * (columns / 2, rows) - (0, top)).astype(np.float32)
    warped = cv2.warpPerspective(grain, cv2.getPerspectiveTransform(texels, pixels), (columns, rows - top))
    strength = np.zeros(256, np.float32)
    for name, amount in (("road", 0.045), ("sidewalk", 0.05), ("terrain", 0.13)):
        strength[LABEL[name]] = amount
    factor = 1 + warped * strength[canvas.labels[top:]]
    canvas.image[top:] = np.clip(canvas.image[top:] * factor[..., None], 0, 255)


def _cast_shadows(canvas: Canvas, items: Iterable[Item]) -> None:
    """Darken the ground where things stand and where they keep the sun off."""
    sun = canvas.weather.sun
    reach = -sun[[0, 2]] / max(sun[1], 0.3) * 0.6
    mask = np.zeros_like(canvas.labels)
    for item in items:
        x0, z0, x1, z1 = item.foot
        foot = np.array([(x0, z0), (x1, z0), (x1, z1), (x0, z1)])
        cast = np.concatenate([foot, foot + reach * item.height]).astype(np.float32)
        cast[:, 1] = np.maximum(cast[:, 1], 1.0)
        hull = _ground(cv2.convexHull(cast)[:, 0])
        cv2.fillPoly(mask, [canvas.pixels(hull)], 150, cv2.LINE_AA, _SUBPIXEL_BITS)
        rim = _ground(foot + (foot - foot.mean(axis=0)) * 0.12 + (0, -0.05))
        cv2.fillPoly(mask, [canvas.pixels(rim)], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    rows = len(mask)
    top = min(rows - 1, int(canvas.camera.horizon * rows))
    depth = 0.62 if canvas.weather.ambient < 0.75 else 0.4
    soft = cv2.GaussianBlur(mask[top:], (0, 0), rows / 200)
    dim = (1 - soft.astype(np.float32) * (depth / 255))[..., None]
    canvas.image[top:] = canvas.image[top:] * dim


def _paint_hood(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint the bonnet of the camera's own car along the bottom."""
    paint, rise = _pick(rng, CAR_PAINTS), rng.uniform(0.05, 0.09)
    rows, columns = canvas.labels.shape
    for grow, tone, label in ((1.0, 0.5, LABEL["ego vehicle"]), (0.86, 0.8, None), (0.6, 0.95, None)):
        curve = _CIRCLE * (1.15, rise * grow) + (1.0, 1.0)
        points = np.rint((curve * (columns / 2, rows) - 0.5) * _SUBPIXELS).astype(np.int32)
        cv2.fillPoly(canvas.image, [points], (paint * tone).tolist(), cv2.LINE_AA, _SUBPIXEL_BITS)
        if label is not None:
            cv2.fillPoly(canvas.labels, [points], label, cv2.LINE_8, _SUBPIXEL_BITS)


def _develop(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Turn the painting into a photograph: surface grain, lens blur, white balance, exposure, sensor noise."""
    rows, columns = canvas.labels.shape
    gain, gamma, balance = rng.uniform(0.82, 1.15), rng.uniform(0.9, 1.12), rng.normal(1, 0.03, 3)
    blur, noise = rng.uniform(0.35, 0.7), np.float32(rng.uniform(2.0, 5.0))
    grain = cv2.resize(_noise(rng, 32, 64, 4), (columns, rows), interpolation=cv2.INTER_LINEAR)
    strength = np.full(256, 0.02, np.float32)
    for name, amount in (("vegetation", 0.1), ("building", 0.035), ("wall", 0.045), ("sky", 0.0)):
        strength[LABEL[name]] = amount
    grain *= strength[canvas.labels]
    curve = (np.arange(256)[:, None] / 255) ** gamma * 255 * gain * balance
    table = np.clip(curve, 0, 255).astype(np.uint8).reshape(1, 256, 3)
    photo = cv2.LUT(cv2.GaussianBlur(canvas.image, (0, 0), blur), table).astype(np.float32)
    photo *= (1 + grain)[..., None]
    photo += rng.standard_normal((rows, columns, 1), np.float32) * noise * rng.uniform(0.6, 1.2, 3).astype(np.float32)
    return np.clip(photo, 0, 255, out=photo).astype(np.uint8)


def draw_scene(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a street scene and its ground truth.

    Args:
        seed: Which scene; the same seed is the same scene at every size.
        height: Rows.
        width: Columns; scenes are planned for twice the height and stretched otherwise.

    Returns:
        (height, width, 3) uint8 RGB image and (height, width) uint8 Cityscapes label ids.
    """
    plan, surface, light = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3))
    street = Street(plan)
    canvas = Canvas(height, width, street.camera, street.weather)
    _paint_ground(canvas, street, surface)
    _texture_ground(canvas, surface)
    seen = [item for item in street.items if canvas.sees(item.foot)]
    _cast_shadows(canvas, seen)
    _paint_sky(canvas, surface, street.weather.haze)
    _paint_skyline(canvas, surface)
    for item in sorted(seen, key=lambda item: (-item.ring, -item.z)):
        item.draw(canvas)
    if surface.random() < 0.5:
        _paint_hood(canvas, surface)
    return _develop(canvas, light), canvas.labels
