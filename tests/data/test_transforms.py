"""The fused crop against resizing, padding and cropping one after another."""

import math
import pickle
import random
from fractions import Fraction

import cv2
import numpy as np
import pytest

from icnet.data.transforms import A, RandomScaleCrop, TrainTransform

IGNORE = 255


def _noise(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, generator.choice(np.array([3, 5, 11, 255], np.uint8), (height, width))


def _reference_image(
    image: np.ndarray, size: tuple[int, int], corner: tuple[int, int], crop: tuple[int, int]
) -> np.ndarray:
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    missing = [max(want - have, 0) for want, have in zip(crop, size, strict=True)]
    padded = np.pad(resized, ((0, missing[0]), (0, missing[1]), (0, 0)))
    return padded[corner[0] : corner[0] + crop[0], corner[1] : corner[1] + crop[1]]


def _reference_mask(
    mask: np.ndarray, size: tuple[int, int], corner: tuple[int, int], crop: tuple[int, int]
) -> np.ndarray:
    rows, columns = (
        [math.floor((position + Fraction(1, 2)) * Fraction(source, target)) for position in range(target)]
        for source, target in zip(mask.shape, size, strict=True)
    )
    resized = np.array([[mask[row, column] for column in columns] for row in rows], np.uint8)
    padded = np.full((max(size[0], crop[0]), max(size[1], crop[1])), IGNORE, np.uint8)
    padded[: size[0], : size[1]] = resized
    return padded[corner[0] : corner[0] + crop[0], corner[1] : corner[1] + crop[1]]


def _cropped(transform: RandomScaleCrop, seed: int, image: np.ndarray, mask: np.ndarray) -> tuple:
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
    result = transform(image=image, mask=mask)
    return result["image"], result["mask"], transform.params["size"], transform.params["corner"]


@pytest.mark.parametrize(
    ("shape", "scale_range"),
    [
        ((90, 180), (45, 180)),
        ((90, 180), (88, 92)),
        ((131, 77), (20, 300)),
        ((60, 60), (400, 500)),
        ((200, 310), (9, 40)),
    ],
)
def test_fused_crop_equals_resize_pad_crop(shape: tuple[int, int], scale_range: tuple[int, int]) -> None:
    crop = (64, 80)
    transform = RandomScaleCrop(crop, scale_range)
    image, mask = _noise(*shape)
    for seed in range(40):
        got, _, size, corner = _cropped(transform, seed, image, mask)
        expected = _reference_image(image, size, corner, crop)
        assert got.shape == (*crop, 3)
        assert np.abs(got.astype(int) - expected).max() <= 2, (seed, size, corner)


@pytest.mark.parametrize("short", [66, 68])
@pytest.mark.parametrize("shape", [(67, 81), (81, 67), (67, 67), (67, 400)])
def test_crops_whose_size_no_scale_changes_are_resampled_too(shape: tuple[int, int], short: int) -> None:
    crop = (23, 26)
    transform = RandomScaleCrop(crop, (short, short))
    image, mask = _noise(*shape)
    for seed in range(60):
        got, _, size, corner = _cropped(transform, seed, image, mask)
        expected = _reference_image(image, size, corner, crop)
        assert np.abs(got.astype(int) - expected).max() <= 2, (seed, size, corner)


def test_fused_mask_equals_nearest_of_whole() -> None:
    crop = (64, 80)
    transform = RandomScaleCrop(crop, (20, 160))
    for seed in range(12):
        image, mask = _noise(83, 97, seed)
        _, got, size, corner = _cropped(transform, seed, image, mask)
        np.testing.assert_array_equal(got, _reference_mask(mask, size, corner, crop))
        assert set(np.unique(got)) <= {3, 5, 11, IGNORE}


def test_fused_mask_follows_opencv_exact_nearest() -> None:
    _, mask = _noise(90, 180)
    got = RandomScaleCrop((100, 200), (100, 100)).apply_to_mask(mask, size=(100, 200), corner=(0, 0))
    whole = cv2.resize(mask, (200, 100), interpolation=cv2.INTER_NEAREST_EXACT)
    assert (got == whole).mean() > 0.999


def test_small_image_is_padded_at_right_and_bottom() -> None:
    transform = RandomScaleCrop((64, 64), (32, 32))
    image, mask, size, corner = _cropped(
        transform, 0, np.full((32, 48, 3), 9, np.uint8), np.full((32, 48), 4, np.uint8)
    )
    assert (size, corner) == ((32, 48), (0, 0))
    assert (image[:32, :48] == 9).all()
    assert image.sum() == 9 * 32 * 48 * 3
    assert (mask[:32, :48] == 4).all()
    assert (mask == IGNORE).sum() == 64 * 64 - 32 * 48


def test_short_side_and_corner_cover_their_ranges() -> None:
    transform = RandomScaleCrop((8, 8), (10, 12))
    image, mask = _noise(20, 40)
    drawn = [_cropped(transform, seed, image, mask)[2:] for seed in range(300)]
    assert {size for size, _ in drawn} == {(10, 20), (11, 22), (12, 24)}
    assert {corner[0] for size, corner in drawn if size[0] == 12} == {0, 1, 2, 3, 4}
    assert {corner[1] for size, corner in drawn if size[1] == 20} == set(range(13))


def test_image_and_mask_stay_aligned() -> None:
    mask = np.kron(np.arange(18, dtype=np.uint8).reshape(3, 6), np.ones((30, 30), np.uint8))
    image = np.repeat(mask[..., None] * 10, 3, axis=2)
    transform = TrainTransform((48, 48), (45, 180), blur=0.0)
    for seed in range(30):
        transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        result = transform(image=image, mask=mask)
        labelled = result["mask"] != IGNORE
        same = result["image"][labelled][:, 0] == result["mask"][labelled] * 10
        assert same.mean() > 0.85  # all but the pixels interpolated across borders


def test_flip_mirrors_image_and_mask() -> None:
    image, mask = _noise(32, 32)
    result = TrainTransform((32, 32), (32, 32), flip=1.0, blur=0.0)(image=image, mask=mask)
    np.testing.assert_array_equal(result["image"], image[:, ::-1])
    np.testing.assert_array_equal(result["mask"], mask[:, ::-1])


def test_blur_and_jitter_leave_mask_alone() -> None:
    image, mask = _noise(32, 32)
    transform = TrainTransform((32, 32), (32, 32), flip=0.0, blur=1.0, color_jitter=0.5)
    transform.set_random_state(np.random.default_rng(0), random.Random(0))
    result = transform(image=image, mask=mask)
    assert not np.array_equal(result["image"], image)
    np.testing.assert_array_equal(result["mask"], mask)


def test_jitter_is_off_at_zero() -> None:
    image, mask = _noise(32, 32)
    result = TrainTransform((32, 32), (32, 32), flip=0.0, blur=0.0, color_jitter=0.0)(image=image, mask=mask)
    np.testing.assert_array_equal(result["image"], image)


@pytest.mark.parametrize("color_jitter", [0.0, 0.4])
def test_draws_and_results_are_those_of_compose(color_jitter: float) -> None:
    """Compose decides, checks and copies more, and so do its transforms; nothing of that may change a bit."""
    ours = TrainTransform((40, 48), (20, 90), color_jitter=color_jitter)
    theirs = A.Compose(TrainTransform((40, 48), (20, 90), color_jitter=color_jitter).steps)
    for seed in range(60):
        image, mask = _noise(int(30 + seed % 7), 64 - seed % 5, seed)
        found = []
        for transform in (ours, theirs):
            transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
            found.append(transform(image=image, mask=mask))
        np.testing.assert_array_equal(found[0]["image"], found[1]["image"])
        np.testing.assert_array_equal(found[0]["mask"], found[1]["mask"])


def test_transform_survives_pickling() -> None:
    image, mask = _noise(32, 32)
    transform = TrainTransform((16, 16), (16, 40))
    twin = pickle.loads(pickle.dumps(transform))  # noqa: S301 (as a spawned worker gets it)
    for each in (transform, twin):
        each.set_random_state(np.random.default_rng(3), random.Random(3))
    np.testing.assert_array_equal(transform(image=image, mask=mask)["image"], twin(image=image, mask=mask)["image"])
