"""Mixed precision by apex's opt levels (https://nvidia.github.io/apex/amp.html), as Lightning precision plugins.

O0 is float32. O1 keeps float32 weights and computes in float16 where autocast says so. O2 computes with float16 weights
and float32 BatchNorm, and trains float32 masters of the weights. bf16 is autocast to bfloat16. O1 and O2 scale the loss
so that small gradients survive float16: by a fixed number, which is never checked, or by a dynamic one.
"""

import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from torch import nn
from torch.optim import Optimizer
from typing_extensions import override

from icnet.errors import UserError
from icnet.training.float16_on_cpu import Float16Products
from icnet.training.loss_scale import loss_scaler
from icnet.training.master_weights import MasterWeights

log = logging.getLogger(__name__)

STATE_KEY = "amp"  # in checkpoints; one for all levels, so that a run can go on at another
GROWTH_INTERVAL = 2000  # good steps in a row after which a dynamic scale doubles


def precision_plugin(opt_level: str, loss_scale: float | str, device_type: str) -> Precision:
    """Build the plugin of an opt level.

    Every plugin has ``opt_level``, ``loss_scale`` (the current one) and ``skipped_steps``.

    Args:
        opt_level: A key of ``OPT_LEVELS``.
        loss_scale: A number or ``dynamic``; 1 where the level has none.
        device_type: ``cpu``, ``cuda`` or ``npu``.

    Raises:
        UserError: If the level is unknown, has no such scale, or the device cannot do it.
    """
    check_precision(opt_level, loss_scale, device_type)
    return OPT_LEVELS[opt_level].build(device_type, loss_scale)


def check_precision(opt_level: str, loss_scale: float | str, device_type: str) -> None:
    """Refuse what ``precision_plugin`` cannot build, without building it: an NPU's scaler needs the device.

    Args:
        opt_level: See ``precision_plugin``, as for the others.
        loss_scale: A number or ``dynamic``.
        device_type: ``cpu``, ``cuda`` or ``npu``.

    Raises:
        UserError: If the level is unknown, has no such scale, or the device cannot do it.
    """
    if opt_level not in OPT_LEVELS:
        raise UserError(f"amp.opt_level={opt_level} is unknown; choose one of {', '.join(OPT_LEVELS)}")
    level = OPT_LEVELS[opt_level]
    if device_type in level.refused:
        raise UserError(level.refused[device_type])
    if loss_scale != 1 and not level.scales:
        raise UserError(
            f"amp.loss_scale={loss_scale} means nothing at {opt_level}, where no gradient can underflow; "
            f"choose {amp_options(lambda level: level.scales)}, or leave it out"
        )


@dataclass(frozen=True)
class OptLevel:
    """An opt level.

    Args:
        build: Makes its plugin from device type and loss scale.
        scales: Whether it scales the loss; its plugin then has ``fixed`` too, the scale that was given, None = dynamic.
        float16_weights: Whether a step computes with float16 weights, which no average can be made of.
        imitated_on_cpu: Whether a CPU imitates it, operator by operator and in the forward pass only.
        rounding: Largest difference that rounding makes in the outputs and the gradients of a step, in units of their
            norm. Seen with ResNet-18 on a CPU between a compiled network and itself: 8e-6 and 0.005 in float32;
            bfloat16 itself, not compiled, is 0.04 and 0.35 from float32.
        refused: Device type to why it does not run there and what to choose, in one line.
    """

    build: Callable[[str, float | str], Precision]
    scales: bool = False
    float16_weights: bool = False
    imitated_on_cpu: bool = False
    rounding: tuple[float, float] = (0.1, 0.5)
    refused: Mapping[str, str] = field(default_factory=dict)


class Float32(Precision):
    """O0: everything in float32."""

    opt_level = "O0"
    loss_scale = 1.0
    skipped_steps = 0


class Bfloat16Autocast(MixedPrecision):
    """bf16: float32 weights, autocast to bfloat16, whose range needs no loss scale."""

    opt_level = "bf16"
    loss_scale = 1.0
    skipped_steps = 0

    def __init__(self, device_type: str) -> None:
        super().__init__("bf16-mixed", device_type)

    @override
    def clip_gradients(self, *args: Any, **kwargs: Any) -> None:
        Precision.clip_gradients(self, *args, **kwargs)  # MixedPrecision's refuses fused optimizers for fear of scales


class Float16Autocast(MixedPrecision):
    """O1: float32 weights, autocast to float16, scaled loss.

    Args:
        device_type: ``cpu``, ``cuda`` or ``npu``.
        loss_scale: A number, or ``dynamic``: from 2^16, doubled after ``growth_interval`` good steps up to 2^24; a step
            with a NaN or infinite gradient is skipped and halves it.
        growth_interval: Good steps in a row.
    """

    opt_level = "O1"
    scaler: Any  # a GradScaler

    def __init__(self, device_type: str, loss_scale: float | str, growth_interval: int = GROWTH_INTERVAL) -> None:
        self.fixed = None if loss_scale == "dynamic" else float(loss_scale)
        self._skipped_before = 0  # in the earlier parts of a resumed run
        super().__init__("16-mixed", device_type, loss_scaler(device_type, self.fixed, growth_interval))

    @contextmanager
    @override
    def forward_context(self) -> Generator[None, None, None]:
        """Autocast; on CPUs with products that they are fast at."""
        with self.autocast_context_manager(), self._products():
            yield

    def _products(self) -> AbstractContextManager[Any]:
        return Float16Products() if self.device == "cpu" else nullcontext()

    @property
    def loss_scale(self) -> float:
        """The current scale; a dynamic one is read from the device."""
        return self.scaler.get_scale() if self.fixed is None else self.fixed

    @property
    def skipped_steps(self) -> int:
        """Steps skipped because of an overflow, since the run was begun."""
        return self._skipped_before + getattr(self.scaler, "skipped_steps", 0)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return nothing: Lightning would file it by class, where another level does not look."""
        return {}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the scale, in plain values that do not depend on the kind of scaler."""
        checkpoint[STATE_KEY] = {
            "opt_level": self.opt_level,
            "dynamic": self.fixed is None,
            "loss_scale": self.loss_scale,
            "good_steps": self.scaler.state_dict()["_growth_tracker"] if self.fixed is None else 0,
            "skipped_steps": self.skipped_steps,
        }

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with a dynamic scale; what else the checkpoint has gives way to the configuration, with a warning."""
        saved = checkpoint.get(STATE_KEY, {"dynamic": False, "loss_scale": 1.0, "skipped_steps": 0})
        self._skipped_before = saved["skipped_steps"] - getattr(self.scaler, "skipped_steps", 0)
        if self.fixed is None and saved["dynamic"]:
            state = {"scale": saved["loss_scale"], "_growth_tracker": saved["good_steps"]}
            self.scaler.load_state_dict({**self.scaler.state_dict(), **state})
        elif (self.fixed is None) != saved["dynamic"] or self.fixed != saved["loss_scale"]:
            log.warning(
                "the checkpoint's loss scale is %s%.10g; this run's is %s%.10g, as amp.loss_scale says",
                "dynamic, at " if saved["dynamic"] else "", saved["loss_scale"],
                "dynamic, from " if self.fixed is None else "", self.loss_scale,
            )  # fmt: skip


class Float16Weights(Float16Autocast):
    """O2: float16 weights, float32 BatchNorm, scaled loss, and an optimizer that works on float32 masters.

    Lightning's parameters stay what they are for the forward and backward pass, and for DDP, which reduces scaled
    float16 gradients. Between setup and teardown the optimizer's groups hold the masters in their place.

    Args:
        device_type: ``cpu``, ``cuda`` or ``npu``.
        loss_scale: As for O1.
        growth_interval: As for O1.
    """

    opt_level = "O2"
    _weights: MasterWeights | None = None

    @override
    def convert_module(self, module: nn.Module) -> nn.Module:
        """Round the weights; what they are now, loaded or not, becomes the masters."""
        self.teardown()
        self._weights = MasterWeights(module)
        return module

    @override
    def connect(
        self, model: nn.Module, optimizers: list[Optimizer], lr_schedulers: list[Any]
    ) -> tuple[nn.Module, list[Optimizer], list[Any]]:
        """Hand the masters to the optimizers, in the parameters' places, so that their states are those of O0."""
        weights = cast(MasterWeights, self._weights)
        weights.synchronize()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["params"] = [weights.masters.get(param, param) for param in group["params"]]
        return model, optimizers, lr_schedulers

    @contextmanager
    @override
    def forward_context(self) -> Generator[None, None, None]:
        """Compute in the dtypes of weights and inputs, without autocast."""
        with self._products():
            yield

    @override
    def optimizer_step(  # type: ignore[override]
        self, optimizer: Optimizer, model: LightningModule, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """Step on the masters: their gradients are unscaled, looked at and clipped in float32."""
        weights = cast(MasterWeights, self._weights)

        def closure_on_masters() -> Any:
            result = closure()
            weights.take_gradients()
            return result

        result = super().optimizer_step(optimizer, model, closure_on_masters, **kwargs)
        weights.copy_to_module()
        return result

    @override
    def teardown(self) -> None:
        """Leave a float32 model behind."""
        if self._weights is not None:
            self._weights.restore()
            self._weights = None


OPT_LEVELS = {
    "O0": OptLevel(lambda device_type, loss_scale: Float32(), rounding=(1e-3, 0.05)),
    "O1": OptLevel(Float16Autocast, scales=True, imitated_on_cpu=True),
    "O2": OptLevel(Float16Weights, scales=True, float16_weights=True, imitated_on_cpu=True),
    "bf16": OptLevel(
        lambda device_type, loss_scale: Bfloat16Autocast(device_type),
        refused={"npu": "amp=bf16 does not run on Ascend NPUs: BatchNorm has no bfloat16 there; choose amp=o1"},
    ),
}
"""What ``amp.opt_level`` may be."""


def level_of(plugin: Precision) -> OptLevel:
    """Return the opt level that a plugin was built for; of one that tells none, as Lightning's own, that of float32."""
    return OPT_LEVELS[getattr(plugin, "opt_level", Float32.opt_level)]


def amp_options(suits: Callable[[OptLevel], bool]) -> str:
    """Return the options of ``amp`` whose levels suit, for messages, such as ``amp=o1 or amp=o2``."""
    return " or ".join(f"amp={name.lower()}" for name, level in OPT_LEVELS.items() if suits(level))
