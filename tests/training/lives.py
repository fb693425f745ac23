"""A training that is killed at a chosen hook, in a process of its own; see test_resume_after_kills.py."""

import os
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint
from torch import nn
from torch.nn import functional as F

from icnet.models import NETWORKS, SegmentationNetwork

ROOT = Path(__file__).parents[2]
HOOKS = (
    "on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_after_backward",
    "on_before_optimizer_step", "on_train_batch_end", "on_validation_start", "on_validation_batch_end",
    "on_validation_epoch_end", "on_validation_end", "on_save_checkpoint", "on_train_epoch_end", "on_train_end",
    "on_fit_end",
)  # fmt: skip


class Small(SegmentationNetwork):
    """Two outputs, one convolution each, and BatchNorm; a step takes milliseconds."""

    loss_weights = {"fine": 1.0, "coarse": 0.4}

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Conv2d(8, num_classes, 1) for name in self.loss_weights})

    def forward(self, image):
        features = self.stem(image)
        if self.training:
            return {name: head(features) for name, head in self.heads.items()}
        return F.interpolate(self.heads["fine"](features), image.shape[2:], mode="bilinear", align_corners=True)

    def backbone_parameters(self):
        return list(self.stem.parameters())

    def head_parameters(self):
        return list(self.heads.parameters())


class Killer(Callback):
    """Send this process a signal at the n-th hook; two of these share their count."""

    def __init__(self, count: list[int], at: int | None, number: int) -> None:
        self.count = count
        self.at = at
        self.number = number


class LastKiller(Killer, Checkpoint):
    """Lightning calls these after all others, behind what is saved."""


def _hook(name: str):
    def hook(self, *args, **kwargs) -> None:
        self.count[0] += 1
        if self.count[0] == self.at:
            os.kill(os.getpid(), self.number)

    hook.__name__ = name
    return hook


for _name in HOOKS:
    setattr(Killer, _name, _hook(_name))


def live(overrides: tuple[str, ...], folder: str, at: int | None, number: int) -> None:
    """Run ``train.py`` here and be sent signal ``number`` at hook ``at``; the count of hooks goes to ``hooks.txt``."""
    torch.set_num_threads(1)
    log = open(Path(folder).with_suffix(".log"), "a")  # noqa: SIM115
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    import icnet.factory.trainer

    count = [0]
    build = icnet.factory.trainer.callbacks
    icnet.factory.trainer.callbacks = lambda *args, **told: [
        Killer(count, at, number), *build(*args, **told), LastKiller(count, at, number)
    ]  # fmt: skip
    NETWORKS["small"] = Small
    sys.path.insert(0, str(ROOT))
    import train

    sys.argv = [str(ROOT / "train.py"), *overrides, f"hydra.run.dir={folder}"]
    train.main()
    Path(folder, "hooks.txt").write_text(str(count[0]))
