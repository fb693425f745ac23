import numpy as np

from icnet.deploy.trained_network import distinct_palette


def test_generated_colours_differ():
    palette = np.array(distinct_palette(60), int)
    gaps = np.abs(palette[:, None] - palette[None]).sum(-1) + 1000 * np.eye(60, dtype=int)
    assert palette.shape == (60, 3)
    assert gaps.min() >= 8
    assert palette.max(axis=1).min() > 60  # nothing near black, the colour of ignored pixels
