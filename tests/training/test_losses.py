import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from icnet.training.losses import CascadeLoss, blend_labels, masked_cross_entropy, resize_labels

IGNORE = 255
MODES = ("nearest", "logits", "blend")


def criterion(**options) -> CascadeLoss:
    return CascadeLoss({"out": 1.0}, ignore_index=IGNORE, **options)


def some_batch(size=(7, 9), logits_size=None, classes=6, ignored=0.3, seed=0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, *(logits_size or size), generator=generator)
    mask = torch.randint(0, classes, (2, *size), generator=generator)
    mask[torch.rand(mask.shape, generator=generator) < ignored] = IGNORE
    return logits, mask


def logits_of(probabilities: list[list[float]]) -> Tensor:
    """(1, 2, H, W) logits of two classes, the first of which has these probabilities."""
    first = torch.tensor(probabilities)
    return torch.stack([first.log(), (1 - first).log()])[None]


# ---------------------------------------------------------------- the plain loss


def test_loss_equals_the_hand_worked_example():
    # Probabilities of the true class are 1/2, 1/4, 1/8 (class 1 with 1 - 7/8); the fourth pixel is ignored.
    logits = logits_of([[1 / 2, 1 / 4], [7 / 8, 1 / 3]])
    mask = torch.tensor([[[0, 0], [1, IGNORE]]])
    loss = criterion().single(logits, mask)
    assert loss.item() == pytest.approx((1 + 2 + 3) / 3 * math.log(2))


def test_total_is_the_weighted_sum_of_the_outputs():
    mask = torch.zeros(1, 8, 8, dtype=torch.uint8)
    outputs = {
        "sub124": logits_of([[1 / 8] * 4] * 4),
        "sub24": logits_of([[1 / 2] * 2] * 2),
        "sub4": logits_of([[1 / 4]]),
    }
    weights = {"sub124": 1.0, "sub24": 0.4, "sub4": 0.4}
    losses = CascadeLoss(weights, ignore_index=IGNORE)(outputs, mask)
    assert set(losses) == {"loss", "loss_sub124", "loss_sub24", "loss_sub4"}
    bits = {name: value.item() / math.log(2) for name, value in losses.items()}
    assert bits == pytest.approx({"loss_sub124": 3, "loss_sub24": 1, "loss_sub4": 2, "loss": 3 + 0.4 + 0.8})
    assert all(value.dtype == torch.float32 and value.ndim == 0 for value in losses.values())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("class_weights", [None, [0.5, 1.0, 2.0, 0.1, 1.5, 0.0]])
def test_loss_and_gradient_equal_cross_entropy_on_masks_of_the_same_size(mode, class_weights):
    logits, mask = some_batch()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = criterion(resize=mode, class_weights=class_weights).single(ours, mask)
    table = None if class_weights is None else torch.tensor(class_weights)
    wanted = F.cross_entropy(theirs, mask, weight=table, ignore_index=IGNORE)
    loss.backward()
    wanted.backward()
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_masked_cross_entropy_is_zero_exactly_where_pixels_are_ignored():
    logits, mask = some_batch()
    per_pixel = masked_cross_entropy(logits, mask, mask != IGNORE)
    wanted = F.cross_entropy(logits, mask, ignore_index=IGNORE, reduction="none")
    assert per_pixel.shape == mask.shape
    assert (per_pixel[mask == IGNORE] == 0).all()
    torch.testing.assert_close(per_pixel, wanted)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{}, {"class_weights": [1.0, 2.0, 3.0, 1.0, 1.0, 1.0]}, {"ohem_threshold": 0.7}])
def test_nothing_labelled_gives_zero_with_zero_gradient(mode, options):
    logits, mask = some_batch(size=(8, 12), logits_size=(4, 6))
    logits.requires_grad_()
    loss = criterion(resize=mode, **options).single(logits, torch.full_like(mask, IGNORE))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{}, {"class_weights": [1.0] * 6}, {"ohem_threshold": 0.7}])
def test_cross_entropy_never_sees_a_target_outside_the_classes(mode, options, monkeypatch):
    seen = []
    kernel = F.cross_entropy

    def spy(logits: Tensor, target: Tensor, *args, **kwargs) -> Tensor:
        seen.append((target.min().item(), target.max().item(), logits.shape[1]))
        return kernel(logits, target, *args, **kwargs)

    monkeypatch.setattr(F, "cross_entropy", spy)
    for logits_size in ((8, 12), (4, 6)):
        logits, mask = some_batch(size=(8, 12), logits_size=logits_size, ignored=0.5)
        criterion(resize=mode, **options).single(logits, mask)
    assert len(seen) == 2
    assert all(low >= 0 and high < classes for low, high, classes in seen)


@pytest.mark.parametrize("mode", MODES)
def test_uint8_masks_give_the_loss_of_int64_masks(mode):
    logits, mask = some_batch(size=(9, 14), logits_size=(5, 7))
    loss = criterion(resize=mode, class_weights=[1.0, 2.0, 1.0, 0.5, 1.0, 1.0], ohem_threshold=0.6)
    assert loss.single(logits, mask.to(torch.uint8)) == loss.single(logits, mask)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", ["nearest", "blend"])
def test_half_precision_logits_are_computed_in_float32(mode, dtype):
    logits, mask = some_batch(size=(16, 24), logits_size=(8, 12))
    half = logits.to(dtype).requires_grad_()
    loss = criterion(resize=mode).single(half, mask)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss == criterion(resize=mode).single(half.detach().float(), mask)
    assert half.grad.isfinite().all()
    assert half.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_enlarged_half_precision_logits_give_a_float32_loss_near_the_true_one(dtype):
    logits, mask = some_batch(size=(16, 24), logits_size=(8, 12))
    loss = criterion(resize="logits").single(logits.to(dtype), mask)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(criterion(resize="logits").single(logits, mask).item(), rel=0.01)


# ---------------------------------------------------------------- how labels and outputs meet


def test_nearest_labels_equal_the_hand_worked_table():
    # 6 rows to 4: positions 0, 5/3, 10/3, 5, so rows 0, 2, 3, 5. 7 columns to 4: positions 0, 2, 4, 6.
    mask = 10 * torch.arange(6)[:, None] + torch.arange(7)
    wanted = [[0, 2, 4, 6], [20, 22, 24, 26], [30, 32, 34, 36], [50, 52, 54, 56]]
    assert resize_labels(mask[None], (4, 4)).tolist() == [wanted]
    # 2 to 4: positions 0, 1/3, 2/3, 1. Down to a single one: the first.
    assert resize_labels(torch.tensor([[[3, 8]]]), (1, 4)).tolist() == [[[3, 3, 8, 8]]]
    assert resize_labels(mask[None], (1, 1)).tolist() == [[[0]]]


@pytest.mark.parametrize(("length", "wanted"), [(960, 240), (1024, 64), (2048, 512), (713, 90), (65, 18), (30, 47)])
def test_nearest_labels_lie_within_half_a_pixel_of_the_grid(length, wanted):
    picked = resize_labels(torch.arange(length)[None, None], (1, wanted))[0, 0].tolist()
    grid = [Fraction(i * (length - 1), wanted - 1) for i in range(wanted)]
    assert max(abs(p - g) for p, g in zip(picked, grid, strict=True)) <= Fraction(1, 2)


def test_nearest_labels_are_labels_of_the_input():
    mask = torch.tensor([0, 5, 11, IGNORE], dtype=torch.uint8)[torch.randint(0, 4, (2, 37, 53))]
    small = resize_labels(mask, (9, 14))
    assert small.shape == (2, 9, 14)
    assert small.dtype == torch.uint8
    assert set(small.unique().tolist()) <= {0, 5, 11, IGNORE}


def test_nearest_mode_scores_the_labels_on_the_grid():
    # 5x5 labels on a 3x3 output: every second row and column; all others are wrong on purpose.
    mask = torch.ones(1, 5, 5, dtype=torch.long)
    mask[:, ::2, ::2] = 0
    loss = criterion().single(logits_of([[1 / 4] * 3] * 3), mask)
    assert loss.item() == pytest.approx(2 * math.log(2))


def enlarging_matrix(small: int, large: int) -> np.ndarray:
    """Linear interpolation with aligned corners as a matrix."""
    matrix = np.zeros((large, small))
    for i in range(large):
        position = i * (small - 1) / (large - 1)
        left = min(int(position), small - 2)
        matrix[i, left] = 1 - (position - left)
        matrix[i, left + 1] = position - left
    return matrix


def test_logits_mode_enlarges_the_outputs_to_the_labels():
    logits, mask = some_batch(size=(13, 21), logits_size=(4, 6))
    large = enlarging_matrix(4, 13) @ logits.double().numpy() @ enlarging_matrix(6, 21).T
    scores = large - np.log(np.exp(large).sum(1, keepdims=True))
    labels = mask.numpy()
    losses = [-scores[n, labels[n, y, x], y, x] for n, y, x in np.argwhere(labels != IGNORE)]
    loss = criterion(resize="logits").single(logits, mask)
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_blended_labels_equal_the_hand_worked_table():
    def blended(left: int, right: int) -> list[int]:
        return blend_labels(torch.tensor([[[left, right]]], dtype=torch.uint8), (1, 3), IGNORE)[0, 0].tolist()

    assert blended(5, 11) == [5, 8, 11]  # a class that is on neither side
    assert blended(2, 5) == [2, 3, 5]  # 3.5, truncated
    assert blended(IGNORE, 4) == [-1, 1, 4]  # (-1 + 4) / 2
    assert blended(IGNORE, 0) == [-1, 0, 0]  # -0.5 is truncated towards zero: ignored becomes road
    assert blended(IGNORE, IGNORE) == [-1, -1, -1]


def test_blend_mode_equals_the_formula_of_the_base_implementation():
    logits, mask = some_batch(size=(32, 48), logits_size=(8, 12), classes=19)
    ids = torch.where(mask == IGNORE, -1, mask)
    resized = F.interpolate(ids.unsqueeze(1).float(), size=(8, 12), mode="bilinear", align_corners=True)
    target = resized.squeeze(1).trunc().to(torch.int64)
    wanted = F.cross_entropy(logits, target, ignore_index=-1)
    loss = criterion(resize="blend").single(logits, mask)
    torch.testing.assert_close(loss, wanted)
    assert abs(loss - criterion(resize="nearest").single(logits, mask)) > 0.01  # the modes are not the same thing


# ---------------------------------------------------------------- hard examples


@pytest.mark.parametrize(
    ("threshold", "min_kept", "counted"),
    [
        (0.5, 0.1, 2),  # 0.1 and 0.3 are below 0.5
        (0.5, 0.75, 3),  # three of four must count
        (0.05, 0.1, 1),  # none is below, but one at least must count
        (0.95, 0.1, 4),
        (0.05, 1.0, 4),
    ],
)
def test_hard_examples_equal_the_hand_worked_table(threshold, min_kept, counted):
    probabilities = [0.9, 0.1, 0.6, 0.3]
    logits = logits_of([[*probabilities, 0.01]])
    mask = torch.tensor([[[0, 0, 0, 0, IGNORE]]])  # the hardest of all is ignored
    loss = criterion(ohem_threshold=threshold, ohem_min_kept=min_kept).single(logits, mask)
    hardest = sorted(probabilities)[:counted]
    assert loss.item() == pytest.approx(sum(-math.log(p) for p in hardest) / counted, rel=1e-5)


def hard_loss_plainly(logits: np.ndarray, mask: np.ndarray, threshold: float, min_kept: float, weights) -> float:
    exponential = np.exp(logits - logits.max(1, keepdims=True))
    softmax = exponential / exponential.sum(1, keepdims=True)
    labelled = [(softmax[n, mask[n, y, x], y, x], mask[n, y, x]) for n, y, x in np.argwhere(mask != IGNORE)]
    labelled.sort()
    at_least = max(math.ceil(len(labelled) * min_kept - 1e-9), 1)
    bound = max(threshold, labelled[at_least - 1][0])
    counted = [(p, weights[label]) for p, label in labelled if p <= bound + 1e-7]  # ties count together
    return sum(-math.log(p) * w for p, w in counted) / sum(w for _, w in counted)


@pytest.mark.parametrize("threshold", [0.02, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("min_kept", [0.05, 0.4, 1.0])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 0.1, 1.5, 1.0]])
def test_hard_examples_equal_the_plain_reference(threshold, min_kept, ties, weights):
    logits, mask = some_batch(size=(12, 15), seed=3)
    if ties:  # only four different pixels, all of the same label
        logits = logits[:, :, :2, :2].repeat(1, 1, 6, 8)[:, :, :, :15]
        mask[mask != IGNORE] = 2
    wanted = hard_loss_plainly(logits.double().numpy(), mask.numpy(), threshold, min_kept, weights or [1.0] * 6)
    loss = criterion(ohem_threshold=threshold, ohem_min_kept=min_kept, class_weights=weights).single(logits, mask)
    assert loss.item() == pytest.approx(wanted, rel=1e-5)


def test_easy_and_ignored_pixels_get_no_gradient_from_hard_examples():
    logits = logits_of([[0.9, 0.1, 0.2]]).requires_grad_()
    criterion(ohem_threshold=0.5).single(logits, torch.tensor([[[0, 0, IGNORE]]])).backward()
    assert (logits.grad.abs().sum(1)[0, 0] > 0).tolist() == [False, True, False]
