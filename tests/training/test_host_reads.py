"""The host never waits for the device within a training step: nothing is read from it but where a log line is written.

The device is torch's ``meta``, on which tensors have no values: the real Trainer with the real callbacks runs every
line of a step, and each operation that would ask for a value is seen, counted, and given a zero.
"""

import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from icnet import factory
from icnet.config import (
    AmpConfig,
    CallbackConfig,
    DataConfig,
    LoggerConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    StreetConfig,
    TrainConfig,
    TrainerConfig,
)
from icnet.factory import trainer as trainer_factory
from icnet.models import NETWORKS, SegmentationNetwork
from icnet.models.modules import ConvBNReLU
from icnet.models.network import Option
from icnet.training.loss_scale import DynamicScale
from icnet.training.losses import CascadeLoss
from icnet.training.segmentation_task import SegmentationTask

STEPS, LOGGED = 6, 4
aten = torch.ops.aten
VALUES = {aten._local_scalar_dense.default}
SHAPES = {  # the shape of what they return depends on values
    aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten.unique_dim.default,
    aten.unique_consecutive.default, aten.bincount.default, aten.repeat_interleave.Tensor,
}  # fmt: skip


class Meta(CPUAccelerator):
    """A device like any other to Lightning."""

    def setup_device(self, device):
        assert device.type == "meta"


class Waits(TorchDispatchMode, Callback):
    """Counts by step what makes the host wait for the device, and keeps the lines that asked."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.counts: Counter[int] = Counter()
        self.lines: list[str] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.step = batch_idx + 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        source = args[0] if args and isinstance(args[0], Tensor) else None
        if func in VALUES and source.device.type == "meta":
            self._note()
            return source.dtype == torch.bool or 0.0
        if func in SHAPES and source.device.type == "meta":
            self._note()
            found = func(torch.zeros_like(source, device="cpu"), *args[1:], **kwargs)
            return tree_map_only(Tensor, lambda tensor: torch.empty_like(tensor, device="meta"), found)
        if func is aten._to_copy.default and not kwargs.get("non_blocking"):
            target = kwargs.get("device") or source.device
            if source.device.type != target.type:  # pageable memory: the host waits in both directions
                self._note()
                if source.device.type == "meta":
                    return func(torch.zeros_like(source, device="cpu"), **kwargs)
        return func(*args, **kwargs)

    def _note(self) -> None:
        self.counts[self.step] += 1
        frames = [frame for frame in traceback.extract_stack()[:-2] if "/torch/" not in frame.filename]
        self.lines.append(
            f"step {self.step}: " + " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames[-1:-12:-1])
        )


@pytest.fixture
def waits(street_root, tmp_path, monkeypatch) -> Callable[..., Waits]:
    """Train ``STEPS`` batches of the real thing, but for the device, and return what waited."""

    def run(*, optim: str = "sgd", amp: AmpConfig | None = None, loss: LossConfig | None = None, ema: float = 0.0,
            **trainer: object) -> Waits:  # fmt: skip
        config = TrainConfig(
            data=DataConfig(
                name="street", root=str(street_root), street=StreetConfig(train=6, val=3, height=64, width=128),
                crop_size=[64, 64], scale_range=[64, 96], workers=0,
            ),
            model=ModelConfig(backbone="resnet18"),
            loss=loss or LossConfig(),
            optim=OptimConfig(name=optim),
            amp=amp or AmpConfig(),
            callbacks=CallbackConfig(ema_decay=ema, result_files="perf", throughput_warmup_steps=0),
            logger=LoggerConfig(tensorboard=False, csv=True),
            trainer=TrainerConfig(
                accelerator="cpu", batch_size=1, max_epochs=1, limit_val_batches=0, log_every_n_steps=LOGGED,
                **{"progress_bar": False, **trainer},
            ),
            output_dir=str(tmp_path),
        )  # fmt: skip
        seen = Waits()
        strategy = {"accelerator": Meta(), "strategy": SingleDeviceStrategy(device="meta"), "devices": 1}
        module = SimpleNamespace(max_memory_allocated=lambda device: 0, get_device_name=str)
        monkeypatch.setattr(torch, "meta", module, raising=False)
        monkeypatch.setattr(trainer_factory, "device_arguments", lambda *args, **options: strategy)
        data = factory.data_module(config.data, config.seed, batch_size=1)
        task = factory.task(config, data.classes).to("meta")  # parameters cannot stay the same objects on the way there
        made: Trainer = factory.lightning_trainer(config, data)
        made.callbacks.insert(0, seen)
        if isinstance(getattr(made.precision_plugin, "scaler", None), DynamicScale):
            made.precision_plugin.scaler._device = "meta"
        with seen:
            made.fit(task, data)
        assert made.global_step == STEPS // config.trainer.accumulate_grad_batches
        return seen

    return run


def between(seen: Waits) -> list[str]:
    """The lines that waited in a step behind which nothing is logged; the first may set up what later ones use."""
    quiet = {f"step {step}:" for step in range(2, STEPS) if step != LOGGED}
    return [line for line in seen.lines if line[: line.index(":") + 1] in quiet]


class Small(SegmentationNetwork):
    """One convolution and BatchNorm; meta kernels of a whole network take seconds."""

    options = {"backbone": Option("resnet18")}
    loss_weights = {"fine": 1.0, "coarse": 0.4}

    def __init__(self, num_classes: int, backbone: str = "resnet18") -> None:
        super().__init__(num_classes)
        self.stem = ConvBNReLU(3, 8, 3, stride=4)
        self.heads = nn.ModuleDict({name: nn.Conv2d(8, num_classes, 1) for name in self.loss_weights})

    def forward(self, image):
        features = self.stem(image)
        return {name: head(features) for name, head in self.heads.items()}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(NETWORKS, "icnet", Small)


def test_icnet_waits_for_nothing(waits):
    assert between(waits(loss=LossConfig(ohem_threshold=0.7), progress_bar=True)) == []


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "options",
    [
        {"optim": "adamw", "gradient_clip_val": 1.0, "accumulate_grad_batches": 2},
        {"loss": LossConfig(class_weights=[1.0] * 19, resize="logits"), "ema": 0.9, "progress_bar": True},
        {"amp": AmpConfig("bf16"), "loss": LossConfig(resize="blend")},
        {"amp": AmpConfig("O1", 128)},
        {"amp": AmpConfig("O2", 128), "gradient_clip_val": 1.0},
    ],
    ids=lambda options: " ".join(options),
)
def test_step_waits_for_nothing(waits, options):
    assert between(waits(**options)) == []


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("level", ["O1", "O2"])
def test_dynamic_loss_scale_reads_once_a_step_whether_a_gradient_overflowed(waits, level):
    seen = waits(amp=AmpConfig(level, "dynamic"))
    assert [seen.counts[step] for step in (2, 3, 5)] == [1, 1, 1], seen.lines


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "read",
    [
        Tensor.item, Tensor.cpu, Tensor.tolist, Tensor.nonzero, bool, lambda loss: loss[loss > 0],
        lambda loss: torch.tensor(1.0).to(loss.device), lambda loss: loss[None].unique(),
    ],
    ids=["item", "cpu", "tolist", "nonzero", "bool", "mask", "from the host", "unique"],
)  # fmt: skip
def test_what_waits_is_noticed(waits, monkeypatch, read):
    class Reads(CascadeLoss):
        def forward(self, outputs, mask):
            losses = super().forward(outputs, mask)
            read(losses["loss"].detach())
            return losses

    monkeypatch.setattr("icnet.factory.loss.CascadeLoss", Reads)
    assert len(between(waits())) >= 3


@pytest.mark.usefixtures("small")
def test_what_lightning_reads_for_its_bar_is_noticed(waits, monkeypatch):
    log = SegmentationTask.log
    monkeypatch.setattr(SegmentationTask, "log", lambda *args, **told: log(*args, **{**told, "prog_bar": True}))
    assert len(between(waits())) >= 3
