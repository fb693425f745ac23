"""Colours, RGB 0-255: the ones that several modules use, and how to choose among some."""

from collections.abc import Sequence

import numpy as np

from icnet.data.street.world import Floats

Colour = Sequence[float] | Floats

BLACK, WHITE, GLASS = (22, 22, 26), (238, 238, 236), (52, 66, 82)
CLOTHES = ((196, 52, 56), (44, 72, 150), (238, 204, 70), (232, 232, 228), (58, 58, 64), (120, 60, 130), (216, 112, 48),
           (96, 150, 190), (150, 96, 70), (224, 140, 170))  # fmt: skip
CAR_PAINTS = ((170, 24, 30), (28, 52, 120), (196, 200, 204), (40, 42, 48), (236, 236, 234), (92, 104, 116),
              (24, 84, 96), (120, 20, 44), (64, 100, 160))  # fmt: skip
FACADES = ((188, 120, 92), (214, 190, 152), (168, 160, 150), (226, 214, 190), (176, 96, 80), (200, 170, 140),
           (190, 186, 178), (210, 176, 120), (156, 130, 110))  # fmt: skip


def pick(rng: np.random.Generator, colours: Sequence[Colour], spread: float = 12.0) -> Floats:
    """Return one of the colours, slightly varied, as (3,) float."""
    colour = np.array(colours[int(rng.integers(len(colours)))], float)
    return np.clip(colour + rng.normal(0, spread, 3) * 0.6 + rng.normal(0, spread), 0, 255)
