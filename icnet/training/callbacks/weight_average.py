"""The exponential moving average of the weights."""

from collections.abc import Callable

import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_avg_fn
from typing_extensions import override


class ExponentialAverage(WeightAveraging):
    """Average the weights after every step; what does not change is its average to the bit.

    Lightning's ``EMAWeightAveraging`` rounds ``decay w + (1 - decay) w``, which moves frozen weights.

    Args:
        decay: Share of the average before that is kept at each step, 0-1.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(avg_fn=_keep_equal(get_ema_avg_fn(decay)))

    @property
    @override
    def state_key(self) -> str:
        return EMAWeightAveraging.__qualname__  # as in version 0.1


def _keep_equal(average: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def averaged(before: Tensor, current: Tensor, count: Tensor) -> Tensor:
        return torch.where(before == current, before, average(before, current, count))

    return averaged
