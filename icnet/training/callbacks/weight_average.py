"""The exponential moving average of the weights."""

from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from typing_extensions import override

from icnet.errors import UserError
from icnet.training.precision import OPT_LEVELS, amp_options


def check_average(opt_level: str) -> None:
    """Refuse an opt level whose weights cannot be averaged.

    Args:
        opt_level: A key of ``OPT_LEVELS``.

    Raises:
        UserError: If they are float16, in which most steps are lost.
    """
    if OPT_LEVELS[opt_level].float16_weights:
        averaged = amp_options(lambda level: level.scales and not level.float16_weights)
        raise UserError(
            f"callbacks.ema_decay averages the weights, and at {opt_level} they are float16; choose {averaged}"
        )


class ExponentialAverage(WeightAveraging):
    """Average the weights after every step; what does not change is its average to the bit.

    Lightning's ``EMAWeightAveraging`` rounds ``decay w + (1 - decay) w``, which moves frozen weights; here it is
    ``w + (1 - decay) (new - w)``, over all tensors at once. Torch's ``AveragedModel`` also reads from the device, twice
    a step, whether it has averaged before; here the host knows.

    Args:
        decay: Share of the average before that is kept at each step, 0-1.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self._average = get_ema_multi_avg_fn(decay)
        self._averaged_before = False

    @property
    @override
    def state_key(self) -> str:
        return EMAWeightAveraging.__qualname__  # as in version 0.1

    @override
    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return False  # Lightning's own way is not taken

    @property
    def _averages(self) -> AveragedModel:
        return cast(AveragedModel, self._average_model)  # Lightning makes it when a training is set up

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._averaged_before = bool(self._averages.n_averaged > 0)  # read once, after a checkpoint was loaded

    @override
    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step <= self._latest_update_step:
            return
        self._latest_update_step = trainer.global_step
        averages, values = [], []
        for average, value in zip(_tensors(self._averages.module), _tensors(pl_module), strict=True):
            if self._averaged_before and value.is_floating_point():
                averages.append(average)
                values.append(value)
            else:  # the first time, and counters, which have no mean
                average.copy_(value)
        if averages:
            self._average(averages, values, 0)
        self._averages.n_averaged += 1
        self._averaged_before = True


def _tensors(module: torch.nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]
