"""Float16 products on CPUs against sums written out by hand, and against float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from icnet.training.float16_on_cpu import Float16Products


def autocast(dtype=torch.float16):
    return torch.autocast("cpu", dtype)


def test_inputs_and_results_are_rounded_and_the_sum_between_them_is_not():
    image, weight = torch.ones(1, 4096, 1, 1), torch.ones(1, 4096, 1, 1)
    with autocast(), Float16Products():
        total = F.conv2d(image, weight)  # summed in float16, one by one, it would stay at 2048
        rounded = F.conv2d(torch.full((1, 1, 1, 1), 2049.0), torch.ones(1, 1, 1, 1))
        overflown = F.conv2d(torch.full((1, 1, 1, 1), 300.0), torch.full((1, 1, 1, 1), 300.0))
    assert (total.dtype, total.item()) == (torch.float16, 4096)
    assert rounded.item() == 2048  # float16 has 11 bits
    assert overflown.item() == float("inf")  # its largest number is 65504


def test_gradients_underflow_as_in_float16_unless_they_are_scaled():
    weight = torch.ones(1, 1, 1, 1, requires_grad=True)
    found = []
    for scale in (1.0, 1024.0):
        with autocast(), Float16Products():
            loss = F.conv2d(torch.ones(1, 1, 1, 1), weight).float().sum() * 1e-8  # below float16's least, 6e-8
        (loss * scale).backward()
        found.append(weight.grad.item() / scale)
        weight.grad = None
    assert found[0] == 0
    assert found[1] == pytest.approx(1e-8, rel=5e-3)


@pytest.mark.parametrize("half_weights", [False, True])
def test_a_layer_equals_float64_on_rounded_inputs_within_one_rounding(half_weights):
    torch.manual_seed(0)
    layer, image = nn.Conv2d(16, 8, 3, stride=2, padding=1), torch.randn(2, 16, 9, 11)
    exact = F.conv2d(
        image.half().double(), layer.weight.half().double(), layer.bias.half().double(), stride=2, padding=1
    )
    with Float16Products():
        if half_weights:
            found = layer.half()(image.half())
        else:
            with autocast():
                found = layer(image)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.double(), exact, rtol=2**-10, atol=1e-6)


def test_matrix_products_too():
    one, other = torch.full((1, 1, 4096), 1.0), torch.full((1, 4096, 1), 1.0)
    with autocast(), Float16Products():
        assert torch.bmm(one, other).item() == (one @ other).item() == 4096
        assert torch.baddbmm(torch.ones(1, 1, 1), one, other).dtype == torch.float16


def test_whatever_is_not_float16_stays_as_it_is():
    torch.manual_seed(0)
    layer, image = nn.Conv2d(3, 4, 3), torch.randn(1, 3, 5, 5)
    plain = layer(image)
    with autocast(torch.bfloat16):
        brain = layer(image)
    with Float16Products():
        assert torch.equal(layer(image), plain)
        with autocast(torch.bfloat16):
            assert torch.equal(layer(image), brain)
