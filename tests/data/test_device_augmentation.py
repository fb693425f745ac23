"""Augmentation on the device, here the CPU, against that of the loader processes."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from icnet.config import DataConfig
from icnet.data.datamodule import collate
from icnet.data.device_augmentation import Windows, WindowTransform, finish
from icnet.data.transforms import Drawn, TrainTransform
from icnet.errors import UserError

IGNORE = 255


def _source(height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, generator.choice(np.array([3, 5, 11, IGNORE], np.uint8), (height, width))


def _seeded(transform: Any, seed: int) -> Any:
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
    return transform


def _windows(transform: TrainTransform, sources: Sequence[tuple[np.ndarray, np.ndarray]], seed: int) -> dict[str, Any]:
    samples = [
        {**_seeded(WindowTransform(transform), seed + n)(image=image, mask=mask), "name": str(n), "index": n}
        for n, (image, mask) in enumerate(sources)
    ]
    return collate(samples)


def _both(
    transform: TrainTransform, shapes: Sequence[tuple[int, int]], seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the differences of (N, 3, H, W) images, and the masks of device and host."""
    sources = [_source(*shape, seed + n) for n, shape in enumerate(shapes)]
    ours = finish(_windows(transform, sources, seed))
    theirs = [_seeded(transform, seed + n)(image=image, mask=mask) for n, (image, mask) in enumerate(sources)]
    images = torch.from_numpy(np.stack([sample["image"] for sample in theirs])).permute(0, 3, 1, 2)
    assert ours["image"].dtype == ours["mask"].dtype == torch.uint8
    assert ours["image"].shape == images.shape
    difference = (ours["image"].int() - images.int()).abs()
    return difference, ours["mask"], torch.from_numpy(np.stack([sample["mask"] for sample in theirs]))


@pytest.mark.parametrize(
    ("crop", "scale_range", "shapes"),
    [
        ((64, 80), (45, 180), [(90, 180), (90, 180), (90, 180)]),  # smaller and larger, borders, padding
        ((64, 80), (88, 92), [(90, 180), (91, 77)]),  # nearly as it is
        ((33, 47), (20, 300), [(131, 77), (40, 200), (33, 47), (64, 65)]),  # odd sizes, other ones in one batch
        ((64, 64), (8, 40), [(31, 20), (9, 64)]),  # all images smaller than the crop
        ((40, 24), (400, 500), [(60, 61), (7, 5)]),  # windows of a few pixels
        ((24, 24), (9, 12), [(200, 310), (310, 200)]),  # far smaller
        ((3, 2), (1, 9), [(1, 1), (1, 7), (9, 2)]),  # blur reaches beyond both borders
        ((1, 1), (1, 4), [(1, 1), (4, 4)]),
    ],
)
def test_batches_equal_the_hosts_within_rounding(
    crop: tuple[int, int], scale_range: tuple[int, int], shapes: list[tuple[int, int]]
) -> None:
    transform = TrainTransform(crop, scale_range, blur=0.8)
    total = 0.0
    for seed in range(0, 400, 10):
        difference, ours, theirs = _both(transform, shapes, seed)
        assert torch.equal(ours, theirs), seed
        assert difference.max() <= 2, seed
        total += difference.float().mean().item()
    assert total / 40 < 0.2  # where OpenCV rounds as this does: 0.002


def test_colors_equal_the_hosts_within_rounding() -> None:
    transform = TrainTransform((40, 50), (40, 40), blur=0.0, color_jitter=0.6)
    total = 0.0
    for seed in range(0, 300, 10):
        difference, _, _ = _both(transform, [(40, 50), (40, 50)], seed)
        assert difference.max() <= 3, seed  # a mean gray value next to a whole number may fall on its other side
        total += difference.float().mean().item()
    assert total / 30 < 0.1


def test_colors_after_padding_and_blur_follow_the_host() -> None:
    transform = TrainTransform((40, 50), (20, 80), color_jitter=0.3)
    for seed in range(0, 200, 10):
        difference, _, _ = _both(transform, [(30, 60), (50, 40)], seed)
        assert difference.float().mean() < 0.5, seed


@pytest.mark.parametrize("flip", [False, True])
def test_doubled_row_has_the_values_worked_out_by_hand(flip: bool) -> None:
    """Of 1x2 pixels, columns at -1/4, 1/4, 3/4 and 5/4; rows are all the same."""
    transform = TrainTransform((3, 6), (2, 2), flip=float(flip), blur=0.0)
    image = np.array([[[0, 8, 40], [100, 4, 80]]], np.uint8)
    batch = finish(_windows(transform, [(image, np.array([[3, 5]], np.uint8))], 0))
    expected = torch.tensor([[0, 25, 75, 100, 0, 0], [8, 7, 5, 4, 0, 0], [40, 50, 70, 80, 0, 0]])
    labels = torch.tensor([3, 3, 5, 5, IGNORE, IGNORE])
    if flip:
        expected, labels = expected.flip(1), labels.flip(0)
    assert torch.equal(batch["image"][0, :, :2].int(), expected[:, None].expand(3, 2, 6).int())
    assert (batch["image"][0, :, 2] == 0).all()
    assert torch.equal(batch["mask"][0, :2].int(), labels.expand(2, 6).int())
    assert (batch["mask"][0, 2] == IGNORE).all()
    assert (batch["name"], batch["index"].tolist()) == (["0"], [0])


def test_blur_is_the_gaussian(monkeypatch: pytest.MonkeyPatch) -> None:
    transform = TrainTransform((9, 9), (9, 9))
    kernel = np.array([0.25, 0.5, 0.25])
    monkeypatch.setattr(transform, "draw", lambda shape: Drawn((9, 9), (0, 0), False, kernel, None))
    image = np.zeros((9, 9, 3), np.uint8)
    image[1, 4] = 160  # mirrored at the border, it stands above the first row, too
    batch = finish(_windows(transform, [(image, image[..., 0])], 0))
    expected = torch.zeros(9, 9, dtype=torch.int)
    expected[:2, 3:6] = torch.tensor([20, 40, 20])
    expected[2, 3:6] = torch.tensor([10, 20, 10])
    assert torch.equal(batch["image"][0, 1].int(), expected)


def test_windows_are_views_of_what_the_crop_shows() -> None:
    image, mask = _source(300, 400, 0)
    for seed in range(20):
        transform = TrainTransform((40, 60), (600, 600))  # twice as large
        window = _seeded(WindowTransform(transform), seed)(image=image, mask=mask)["window"]
        assert np.shares_memory(window.image, image)
        assert np.shares_memory(window.mask, mask)
        assert window.image.shape[:2] == window.mask.shape
        assert window.mask.shape[0] <= 22
        assert window.mask.shape[1] <= 32


def test_what_no_sample_of_a_batch_needs_is_left_out() -> None:
    batch = _windows(TrainTransform((8, 8), (8, 16), blur=0.0), [_source(9, 9, 0)] * 2, 0)
    assert (batch["windows"].kernels, batch["windows"].colors) == (None, None)


def test_shapes_depend_on_nothing_that_lies_on_the_device() -> None:
    """Tensors without content: what would wait for a value, as a count or a truth, raises."""
    batch = _windows(TrainTransform((8, 12), (4, 40), blur=1.0, color_jitter=0.2), [_source(9, 30, 0)] * 3, 0)
    empty = Windows(*(tensor.to("meta") for tensor in batch["windows"]))
    finished = finish({**batch, "windows": empty})
    assert finished["image"].shape == (3, 3, 8, 12)
    assert finished["mask"].shape == (3, 8, 12)
    with pytest.raises((NotImplementedError, RuntimeError)):
        bool(empty.pixels.any())  # it does raise


def test_another_place_is_refused() -> None:
    with pytest.raises(UserError, match=r"data.augment_on=gpu is unknown; choose one of host, device"):
        DataConfig(name="street", augment_on="gpu")
