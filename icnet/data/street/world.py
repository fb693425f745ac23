"""The geometry of the drawn world, in metres: x to the right, y up from the ground, z away from the camera."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Rect = tuple[float, float, float, float]  # u0, v0, u1, v1 on a patch, or x0, z0, x1, z1 on the ground

FAR = 62.0  # where the street ends and the skyline stands


class Camera(NamedTuple):
    """A pinhole camera at ``(0, height, 0)`` looking along z; image coordinates span x 0-2 and y 0-1."""

    horizon: float
    centre: float
    focal: float
    height: float

    def matrix(self, across: float = 1.0, down: float = 1.0) -> tuple[Floats, Floats]:
        """Return the (3, 3) matrix and (3,) offset that turn world points into homogeneous image coordinates.

        Args:
            across: Length of one image unit across.
            down: Length of one image unit down.
        """
        x, y = across * self.focal, -down * self.focal
        matrix = np.array([[x, 0, 0], [0, y, 0], [across * self.centre, down * self.horizon, 1]])
        return matrix, np.array([0, down * self.focal * self.height, 0])

    def project(self, points: Floats) -> Floats:
        """Project (..., 3) float world points to (..., 2) float image coordinates."""
        matrix, offset = self.matrix()
        rays = points @ matrix + offset
        return rays[..., :2] / rays[..., 2:]


@dataclass
class Patch:
    """A flat piece of the world with its own coordinates: u runs along its foot, v up.

    Args:
        corners: (4, 3) float world points at (u, v) = (0, 0), (1, 0), (1, 1), (0, 1).
        shade: How brightly it is lit, about 0.5-1.1.
    """

    corners: Floats
    shade: float = 1.0

    def at(self, uv: Floats) -> Floats:
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

    def world(self, local: Floats) -> Floats:
        """Turn (..., 3) local points (right, up, ahead) into world points."""
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        right, up, ahead = local[..., 0], local[..., 1], local[..., 2]
        return np.stack([self.x + right * cos + ahead * sin, up, self.z - right * sin + ahead * cos], axis=-1)

    def board(self, turn: float = 0.0) -> Patch:
        """Return an upright patch that measures in metres: u = 0 is this place, turned by ``turn`` off the viewer."""
        u = np.array([np.cos(turn), 0.0, np.sin(turn)])
        foot, up = np.array([self.x, 0.0, self.z]), np.array([0.0, 1.0, 0.0])
        return Patch(np.stack([foot, foot + u, foot + u + up, foot + up]))


def on_ground(points: npt.ArrayLike) -> Floats:
    """Return the (N, 3) float world points of (x, z) pairs on the ground."""
    x, z = np.asarray(points, float).T
    return np.stack([x, np.zeros_like(x), z], axis=-1)
