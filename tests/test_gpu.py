"""What only an NVIDIA GPU can show: that it computes what the CPU does, and that no step waits for it."""

import copy
import random
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

import icnet
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
from icnet.data.datamodule import collate
from icnet.data.device_augmentation import WindowTransform, finish
from icnet.data.labels import CITYSCAPES_CLASSES, LABEL_ID_TO_TRAIN_ID
from icnet.data.street import draw_scene
from icnet.data.transforms import TrainTransform
from icnet.training.activation_checkpointing import checkpoint_activations

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

STEPS, LOGGED = 8, 4


class Waits(Callback):
    """Counts by step what torch says makes the host wait for the GPU."""

    def __init__(self) -> None:
        self.step = 0
        self.counts: Counter[int] = Counter()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.step = batch_idx + 1
        torch.cuda.set_sync_debug_mode("warn")

    def on_train_epoch_end(self, trainer, pl_module):
        torch.cuda.set_sync_debug_mode("default")

    def note(self, message, category, *args, **kwargs):
        self.counts[self.step] += "synchronizing CUDA operation" in str(message)


@pytest.fixture
def train(street_root, tmp_path, monkeypatch):
    """Train some steps and return what waited in those that nothing is logged behind, and the last checkpoint."""

    def run(*, augment_on="host", ema=0.0, trainer=None, **given):
        config = TrainConfig(
            data=DataConfig(
                name="street", root=str(street_root), street=StreetConfig(train=6, val=3, height=64, width=128),
                crop_size=[64, 64], scale_range=[64, 96], workers=1, augment_on=augment_on,
            ),
            model=ModelConfig(backbone="resnet18"),
            callbacks=CallbackConfig(ema_decay=ema, throughput_warmup_steps=0, pictures=0, extremes=0),
            logger=LoggerConfig(tensorboard=False, csv=True),
            trainer=TrainerConfig(
                accelerator="gpu", batch_size=1, max_epochs=1, limit_val_batches=0, log_every_n_steps=LOGGED,
                progress_bar=False, **(trainer or {}),
            ),
            output_dir=str(tmp_path),
            **given,
        )  # fmt: skip
        data = factory.data_module(config.data, config.seed, batch_size=1)
        made = factory.lightning_trainer(config, data)
        seen = Waits()
        made.callbacks.insert(0, seen)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            monkeypatch.setattr(warnings, "showwarning", seen.note)
            task = factory.task(config, data.classes)
            run.first = {name: parameter.detach().clone() for name, parameter in task.named_parameters()}
            made.fit(task, data)
        quiet = [step for step in range(2, made.num_training_batches) if step != LOGGED]
        return {step: seen.counts[step] for step in quiet}, tmp_path / "checkpoints" / "last.ckpt"

    return run


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ({"loss": LossConfig(ohem_threshold=0.7)}, 0),
        ({"augment_on": "device", "ema": 0.9}, 0),
        ({"optim": OptimConfig(name="adamw"), "trainer": {"gradient_clip_val": 1.0, "accumulate_grad_batches": 2}}, 0),
        ({"amp": AmpConfig("bf16")}, 0),
        ({"amp": AmpConfig("O1", 128)}, 0),
        ({"amp": AmpConfig("O2", 128)}, 0),
        ({"amp": AmpConfig("bf16"), "trainer": {"compile": True}}, 0),
        ({"amp": AmpConfig("O2", 128), "trainer": {"compile": True, "gradient_clip_val": 1.0}}, 0),
        ({"amp": AmpConfig("O1", "dynamic")}, 2),  # whether a gradient overflowed, and if so the new scale
    ],
    ids=lambda given: " ".join(map(str, given.values())) if isinstance(given, dict) else str(given),
)
def test_step_waits_for_nothing(train, given, allowed):
    waits, _ = train(**given)
    assert max(waits.values()) <= allowed


def test_what_waits_is_noticed(train, monkeypatch):
    forward = factory.loss.CascadeLoss.forward
    monkeypatch.setattr(
        factory.loss.CascadeLoss, "forward", lambda *args: [losses := forward(*args), losses["loss"].item()][0]
    )
    waits, _ = train()
    assert min(waits.values()) == 1


def scenes(count, height, width):
    drawn = [draw_scene(seed, height, width) for seed in range(count)]
    images = torch.from_numpy(np.stack([image for image, _ in drawn])).permute(0, 3, 1, 2)
    return images, torch.from_numpy(np.stack([LABEL_ID_TO_TRAIN_ID[labels] for _, labels in drawn])).byte()


@pytest.mark.parametrize("checkpointed", [False, True])
def test_loss_and_gradients_are_those_of_the_cpu(tmp_path, checkpointed):
    torch.manual_seed(0)
    config = TrainConfig(
        data=DataConfig(name="street"), model=ModelConfig(backbone="resnet18"), output_dir=str(tmp_path)
    )
    here = factory.task(config, CITYSCAPES_CLASSES).double().train()
    there = copy.deepcopy(here).cuda()
    if checkpointed:
        checkpoint_activations(there.net)
    images, masks = scenes(2, 128, 256)
    found = []
    for task in (here, there):
        loss = task.criterion(task(images.to(task.device)), masks.to(task.device))["loss"]
        loss.backward()
        found.append((loss, torch.cat([p.grad.flatten() for p in task.net.parameters() if p.grad is not None])))
    (loss, gradient), (their_loss, their_gradient) = found
    assert their_loss.item() == pytest.approx(loss.item(), rel=1e-6)
    assert (their_gradient.cpu() - gradient).norm() < 1e-5 * gradient.norm()


def test_augmentation_is_that_of_the_cpu():
    transform = TrainTransform(crop_size=(64, 80), scale_range=(45, 180), flip=0.5, blur=1.0, color_jitter=0.4)
    sources = [draw_scene(seed, 90, 180) for seed in range(4)]
    samples = []
    for number, (image, mask) in enumerate(sources):
        cut = WindowTransform(transform)
        cut.set_random_state(np.random.default_rng(number), random.Random(number))  # noqa: S311
        samples.append({**cut(image=image, mask=mask), "name": str(number), "index": number})
    batch = collate(samples)
    moved = {**batch, "windows": type(batch["windows"])(*(t if t is None else t.cuda() for t in batch["windows"]))}
    here, there = finish(batch), finish(moved)
    assert torch.equal(there["mask"].cpu(), here["mask"])
    assert (there["image"].cpu().int() - here["image"].int()).abs().max() <= 2


def test_trained_network_gives_the_labels_of_the_cpu(train):
    _, last = train(amp=AmpConfig("bf16"))
    image = draw_scene(7, 128, 256)[0]
    with torch.backends.cudnn.flags(allow_tf32=False):
        here, there = (icnet.load(last, device=device)(image, logits=True) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-4 * np.abs(here).max())


@pytest.mark.parametrize("level", ["O0", "O1", "O2", "bf16"])
def test_captured_training_moves_the_weights_as_the_other_does(train, caplog, level):
    moves = []
    for compiled in (False, True):
        torch.manual_seed(0)
        _, last = train(trainer={"compile": compiled}, amp=AmpConfig(level, 1))
        state = torch.load(last, weights_only=True)["state_dict"]
        moves.append(torch.cat([(state[key] - first).flatten() for key, first in train.first.items()]))
    assert "left out" not in caplog.text
    plain, captured = moves
    assert (captured - plain).norm() < 0.05 * plain.norm()  # cuDNN may choose other kernels
