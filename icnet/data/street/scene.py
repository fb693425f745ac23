"""Draws one synthetic street scene: a small 3-D world, painted far to near into an image and its label map.

Everything is built from flat ``Patch`` pieces that are projected and filled; what is painted into the image is labelled
in the same stroke. Random numbers never depend on the image size, so one seed is the same scene at every resolution.
"""

import numpy as np
import numpy.typing as npt

from icnet.data.street.backdrop import paint_sky, paint_skyline
from icnet.data.street.canvas import Canvas
from icnet.data.street.ground import cast_shadows, paint_ground, texture_ground
from icnet.data.street.photo import develop, paint_hood
from icnet.data.street.plan import Street


def draw_scene(seed: int, height: int, width: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
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
    paint_ground(canvas, street, surface)
    texture_ground(canvas, surface)
    seen = [item for item in street.items if canvas.sees(item.foot)]
    cast_shadows(canvas, seen)
    paint_sky(canvas, surface, street.weather.haze)
    paint_skyline(canvas, surface)
    for item in sorted(seen, key=lambda item: (-item.ring, -item.z)):
        item.draw(canvas)
    if surface.random() < 0.5:
        paint_hood(canvas, surface)
    return develop(canvas, light), canvas.labels
