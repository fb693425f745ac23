"""Paints the ground: road, pavements and lawns, their grain, and the shadows on them."""

from collections.abc import Iterable

import cv2
import numpy as np

from icnet.data.street.canvas import LABEL, SUBPIXEL_BITS, Canvas
from icnet.data.street.palette import pick
from icnet.data.street.patterns import noise
from icnet.data.street.plan import Item, Street
from icnet.data.street.world import FAR, Floats, on_ground


def paint_ground(canvas: Canvas, street: Street, rng: np.random.Generator) -> None:
    """Paint lawns, pavements, verges, the road with its markings and rails, and kerbs."""
    grass = pick(rng, ((134, 176, 66), (150, 180, 80), (160, 170, 84)), 6)
    paving = pick(rng, ((186, 176, 168), (196, 182, 166), (178, 172, 174)), 6)
    asphalt = pick(rng, ((98, 98, 102), (86, 87, 92), (110, 108, 108)), 5)
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


def texture_ground(canvas: Canvas, rng: np.random.Generator) -> None:
    """Give the ground its grain, in perspective: rough grass, worn asphalt, stained paving."""
    per_metre, span = 4, 30.0  # texels, and metres to each side
    grain = noise(rng, 60, 60, 3)
    camera, (rows, columns) = canvas.camera, canvas.labels.shape
    corners = [(-span, 2.0), (span, 2.0), (span, 40.0), (-span, 40.0)]
    texels = np.array([((x + span) * per_metre, z * per_metre) for x, z in corners], np.float32)
    top = min(rows - 1, int(camera.horizon * rows))
    pixels = (camera.project(on_ground(corners)) * (columns / 2, rows) - (0, top)).astype(np.float32)
    warped = cv2.warpPerspective(grain, cv2.getPerspectiveTransform(texels, pixels), (columns, rows - top))
    strength = np.zeros(256, np.float32)
    for name, amount in (("road", 0.045), ("sidewalk", 0.05), ("terrain", 0.13)):
        strength[LABEL[name]] = amount
    factor = 1 + warped * strength[canvas.labels[top:]]
    canvas.image[top:] = np.clip(canvas.image[top:] * factor[..., None], 0, 255)


def cast_shadows(canvas: Canvas, items: Iterable[Item]) -> None:
    """Darken the ground where things stand and where they keep the sun off."""
    sun = canvas.weather.sun
    reach = -sun[[0, 2]] / max(sun[1], 0.3) * 0.6
    mask = np.zeros_like(canvas.labels)
    for item in items:
        x0, z0, x1, z1 = item.foot
        foot = np.array([(x0, z0), (x1, z0), (x1, z1), (x0, z1)])
        cast = np.concatenate([foot, foot + reach * item.height]).astype(np.float32)
        cast[:, 1] = np.maximum(cast[:, 1], 1.0)
        hull = on_ground(cv2.convexHull(cast)[:, 0])
        cv2.fillPoly(mask, [canvas.pixels(hull)], 150, cv2.LINE_AA, SUBPIXEL_BITS)
        rim = on_ground(foot + (foot - foot.mean(axis=0)) * 0.12 + (0, -0.05))
        cv2.fillPoly(mask, [canvas.pixels(rim)], 255, cv2.LINE_AA, SUBPIXEL_BITS)
    rows = len(mask)
    top = min(rows - 1, int(canvas.camera.horizon * rows))
    depth = 0.62 if canvas.weather.ambient < 0.75 else 0.4
    soft = cv2.GaussianBlur(mask[top:], (0, 0), rows / 200)
    dim = (1 - soft.astype(np.float32) * (depth / 255))[..., None]
    canvas.image[top:] = canvas.image[top:] * dim


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


def _strip(x0: float, x1: float, near: float = 1.2, far: float = FAR) -> Floats:
    """Return a strip along the street as (N, 4, 3) float pieces, so that haze can grow along it."""
    cuts = [z for z in (1.2, 4, 6, 9, 13, 18, 25, 35, 48, FAR) if near < z < far]
    z = np.array([near, *cuts, far])
    outline = np.zeros((len(z) - 1, 4, 3))
    outline[..., 0] = (x0, x1, x1, x0)
    outline[..., 2] = np.stack([z[:-1], z[:-1], z[1:], z[1:]], axis=-1)
    return outline
