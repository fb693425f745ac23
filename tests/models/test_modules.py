"""Parts of the networks that stand for others."""

import pytest
import torch
from torch import nn

from icnet.models.modules import CascadeFeatureFusion, ResizedTaps, resize, resize_and_convolve


@pytest.mark.parametrize(
    ("kernel_size", "dilation", "bias", "align_corners"),
    [(3, 2, True, True), (3, 1, False, False), ((1, 5), (1, 2), True, True), ((5, 3), (1, 2), False, True)],
)
@pytest.mark.parametrize("size", [(9, 14), (5, 7), (3, 16)])
def test_resized_taps_equal_a_convolution_of_resized_features(kernel_size, dilation, bias, align_corners, size):
    torch.manual_seed(0)
    conv = nn.Conv2d(40, 2, kernel_size, padding="same", dilation=dilation, bias=bias).double().requires_grad_(False)
    x = torch.randn(2, 40, 5, 7, dtype=torch.float64)
    expected = conv(resize(x, size, align_corners=align_corners))
    taps = ResizedTaps(conv).double()
    torch.testing.assert_close(taps(x, size, align_corners=align_corners), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(
        resize_and_convolve(x, size, conv, align_corners=align_corners), expected, atol=1e-12, rtol=0
    )


@pytest.mark.parametrize(("channels", "written"), [(1153, True), (1152, False)])
def test_fusion_is_exported_as_taps_where_they_are_fewer_than_the_channels_in(channels, written):
    """A 3x3 kernel with 128 channels out has 9 x 128 = 1152."""
    fusion = CascadeFeatureFusion(channels, 8, 128, lambda count: nn.Conv2d(count, 2, 1)).eval().requires_grad_(False)
    low, high = torch.randn(1, channels, 4, 4), torch.randn(1, 8, 8, 8)
    expected, _ = fusion(low, high)
    fusion.prepare_export()
    assert (fusion.resized_taps is not None) is written
    assert sum(parameter.numel() > 128 * channels for parameter in fusion.parameters()) == (0 if written else 1)
    torch.testing.assert_close(fusion(low, high)[0], expected, atol=1e-5, rtol=0)
