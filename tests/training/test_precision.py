"""Opt levels against training steps written out by hand, on networks small enough for float16 on a CPU."""

import copy
import csv
import itertools
import logging
import math
import os
import socket
import subprocess
import sys
import types
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from icnet.errors import UserError
from icnet.models import NETWORKS, build_network
from icnet.models.modules import ImageNormalizer
from icnet.training.activation_checkpointing import check_activation_checkpointing
from icnet.training.callbacks.loss_scale_monitor import LossScaleMonitor
from icnet.training.callbacks.stop_on_nonfinite_loss import StopOnNonFiniteLoss
from icnet.training.callbacks.weight_average import check_average
from icnet.training.checkpoint_io import AtomicCheckpointIO
from icnet.training.float16_on_cpu import Float16Products
from icnet.training.precision import (
    OPT_LEVELS,
    Float16Autocast,
    Float16Weights,
    OptLevel,
    check_precision,
    level_of,
    precision_plugin,
)
from tests.models.network_tester import ALL_NETWORKS, SMALL

LR, MOMENTUM, DECAY = 0.1, 0.9, 0.01
LEVELS = {"O1": Float16Autocast, "O2": Float16Weights}
HALF = {"first.weight", "last.weight", "last.bias"}  # what O2 makes float16


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, image):
        return {"out": self.last(F.relu(self.bn(self.first(image))))}


class Task(LightningModule):
    """Learns to give the target; in the optimizer steps named by ``spoiled`` the gradient is infinite, not the loss."""

    def __init__(self, net, spoiled=()) -> None:
        super().__init__()
        self.net = net
        self.spoiled = spoiled
        self.normalize = ImageNormalizer()
        self.seen = []

    def training_step(self, batch, batch_idx):
        image, target = batch
        out = self.net(image)["out"]
        self.seen.append((out.dtype, torch.is_autocast_enabled("cpu")))
        if self.trainer.global_step in self.spoiled:
            out.register_hook(lambda grad: grad * math.inf)
        return {"loss": (out - target).square().mean()}

    def validation_step(self, batch, batch_idx):
        self.log("val", (self.net(batch[0])["out"] - batch[1]).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), LR, MOMENTUM, weight_decay=DECAY)


class Diary(Callback):
    """What the weights were after every step."""

    def __init__(self) -> None:
        self.weights, self.rounded, self.momentum, self.scales, self.skipped = [], [], [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.weights.append({key: value.clone() for key, value in pl_module.net.state_dict().items()})
        self.rounded.append({key: value.detach().clone() for key, value in pl_module.net.named_parameters()})
        states = trainer.optimizers[0].state_dict()["state"]
        self.momentum.append([state["momentum_buffer"].clone() for state in states.values()])
        self.scales.append(trainer.precision_plugin.loss_scale)
        self.skipped.append(trainer.precision_plugin.skipped_steps)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def batches():
    return some_batches(6)


def some_batches(count, size=4):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 3, 10, 10, generator=generator), torch.randn(size, 2, 8, 8, generator=generator))
        for _ in range(count)
    ]


def fit(task, plugin, batches, folder, *callbacks, resume=None, validate=False, **arguments):
    trainer = Trainer(
        **{
            "accelerator": "cpu", "devices": 1, "max_epochs": 1, "logger": False, "enable_progress_bar": False,
            "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
            "enable_model_summary": False, "default_root_dir": folder, "callbacks": list(callbacks),
            "plugins": [AtomicCheckpointIO(), plugin], "use_distributed_sampler": False, **arguments,
        }
    )  # fmt: skip
    loader = DataLoader(batches, batch_size=None)
    trainer.fit(task, loader, loader if validate else None, ckpt_path=resume)
    return trainer


def by_hand(level, net, batches, scale, *, dynamic=False, interval=2000, clip=None, accumulate=1, spoiled=()):
    """The steps of apex, one after the other; returns masters, momenta, the scale and the number of skipped steps."""
    model = copy.deepcopy(net).train()
    masters = {name: param.detach().clone() for name, param in model.named_parameters()}
    momenta, good, skipped = {}, 0, 0
    if level == "O2":
        for name, param in model.named_parameters():
            param.data = param.data.half() if name in HALF else param.data
    for start in range(0, len(batches), accumulate):
        for image, target in batches[start : start + accumulate]:
            with Float16Products():  # see the test of its own
                if level == "O2":
                    out = model(image.half())["out"].float()
                else:
                    with torch.autocast("cpu", torch.float16):
                        out = model(image)["out"]
            if start // accumulate in spoiled:
                out.register_hook(lambda grad: grad * math.inf)
            ((out - target).square().mean() / accumulate * scale).backward()
        grads = {name: param.grad.float() / scale for name, param in model.named_parameters()}
        model.zero_grad()
        if dynamic and not all(grad.isfinite().all() for grad in grads.values()):
            scale, good, skipped = scale / 2, 0, skipped + 1
            continue
        norm = torch.stack([grad.norm() for grad in grads.values()]).norm()
        for name, grad in grads.items():
            if clip is not None:
                grad = grad * min(clip / (norm + 1e-6), 1)
            grad = grad.add(masters[name], alpha=DECAY)
            momenta[name] = momenta[name] * MOMENTUM + grad if name in momenta else grad
            masters[name] = masters[name].add(momenta[name], alpha=-LR)
        for name, param in model.named_parameters():
            param.data.copy_(masters[name])
        good += 1
        if dynamic and good == interval:
            scale, good = min(2 * scale, 2.0**24), 0
    return masters, momenta, scale, skipped


def assert_same(actual, expected, **tolerance):
    expected = {name: value for name, value in expected.items() if name in actual}
    assert expected
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, **{"rtol": 0, "atol": 0, **tolerance}, msg=name)


# ---------------------------------------------------------------- against steps by hand


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("scale", [1, 128, "dynamic"])
def test_run_equals_the_steps_by_hand_exactly(level, scale, net, batches, tmp_path):
    dynamic = scale == "dynamic"
    if dynamic:
        batches = [(image, 100 * target) for image, target in batches]  # overflows at 2^16 by itself
    masters, momenta, last_scale, skipped = by_hand(
        level, net, batches, 2.0**16 if dynamic else scale, dynamic=dynamic, interval=2
    )
    diary = Diary()
    fit(Task(net), LEVELS[level]("cpu", scale, growth_interval=2), batches, tmp_path, diary)
    assert_same(diary.weights[-1], masters)
    assert_same(dict(zip(masters, diary.momentum[-1], strict=True)), momenta)
    assert (diary.scales[-1], diary.skipped[-1]) == (last_scale, skipped)
    assert (skipped > 0) == dynamic
    assert skipped < len(batches)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("scale", [64, "dynamic"])
def test_accumulated_gradients_equal_the_steps_by_hand(level, scale, net, batches, tmp_path):
    dynamic = scale == "dynamic"
    first = 2.0**16 if dynamic else scale
    spoiled = {1} if dynamic else ()
    masters, momenta, _, skipped = by_hand(level, net, batches, first, dynamic=dynamic, accumulate=2, spoiled=spoiled)
    diary = Diary()
    fit(Task(net, spoiled), LEVELS[level]("cpu", scale), batches, tmp_path, diary, accumulate_grad_batches=2)
    assert_same(diary.weights[-1], masters)
    assert_same(dict(zip(masters, diary.momentum[-1], strict=True)), momenta)
    assert diary.skipped[-1] == skipped == len(spoiled)


def test_gradients_that_an_optimizer_keeps_are_written_in_place(net, batches, tmp_path):
    class Keeping(torch.optim.SGD):
        def zero_grad(self, set_to_none=True):
            super().zero_grad(set_to_none=False)

        def step(self, closure=None):
            places.append([param.grad.data_ptr() for param in self.param_groups[0]["params"]])
            return super().step(closure)

    places, task, diary = [], Task(net), Diary()
    task.configure_optimizers = lambda: Keeping(net.parameters(), LR, MOMENTUM, weight_decay=DECAY)
    masters, *_ = by_hand("O2", net, batches, 128, accumulate=2)
    fit(task, Float16Weights("cpu", 128), batches, tmp_path, diary, accumulate_grad_batches=2)
    assert_same(diary.weights[-1], masters)
    assert places == [places[0]] * 3


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("scale", [1024, "dynamic"])
def test_clipping_sees_unscaled_gradients(level, scale, net, batches, tmp_path):
    free, *_ = by_hand(level, net, batches, 1024)
    for clip, bites in ((0.5, True), (100.0, False)):  # scaled by 1024, every gradient here is above 100
        masters, *_ = by_hand(level, net, batches, 1024, clip=clip)
        assert any(not torch.equal(masters[name], free[name]) for name in free) == bites
        diary = Diary()
        plugin = LEVELS[level]("cpu", scale)
        if scale == "dynamic":
            plugin.on_load_checkpoint({"amp": saved_scale(1024.0)})
        fit(Task(copy.deepcopy(net)), plugin, batches, tmp_path, diary, gradient_clip_val=clip)
        # The norm is summed in another order, which now and then rounds a weight to the neighbouring float16.
        assert_same(diary.weights[-1], masters, rtol=1e-3, atol=1e-4)


def saved_scale(scale, good_steps=0):
    return {"opt_level": "O1", "dynamic": True, "loss_scale": scale, "good_steps": good_steps, "skipped_steps": 0}


# ---------------------------------------------------------------- overflow


@pytest.mark.parametrize("level", LEVELS)
def test_overflow_under_a_dynamic_scale_skips_one_step_and_halves(level, net, batches, tmp_path):
    diary = Diary()
    plugin = LEVELS[level]("cpu", "dynamic")
    plugin.on_load_checkpoint({"amp": saved_scale(256.0)})
    fit(Task(net, spoiled={3}), plugin, batches, tmp_path, diary)
    assert diary.scales == [256.0] * 3 + [128.0] * 3
    assert diary.skipped == [0] * 3 + [1] * 3
    before, after = diary.weights[2], diary.weights[3]
    assert all(torch.equal(before[name], after[name]) for name, _ in net.named_parameters())
    assert all(map(torch.equal, diary.momentum[2], diary.momentum[3]))
    assert all(map(torch.equal, diary.rounded[2].values(), diary.rounded[3].values()))
    for one, other in itertools.pairwise([0, 1, 2, 4, 5]):  # every other step moves every weight
        for name, _ in net.named_parameters():
            assert not torch.equal(diary.weights[one][name], diary.weights[other][name])


@pytest.mark.parametrize("level", LEVELS)
def test_overflow_under_a_fixed_scale_skips_nothing_and_ends_in_one_line(level, net, batches, tmp_path):
    diary = Diary()
    keep = ModelCheckpoint(tmp_path, "last", enable_version_counter=False, save_on_train_epoch_end=True)
    callbacks = (StopOnNonFiniteLoss(tmp_path, 1), diary, keep)
    with pytest.raises(UserError, match=r"^the loss became nan at step 9 \(epoch 2.*last.ckpt; try"):
        fit(Task(net, spoiled={7}), LEVELS[level]("cpu", 128), batches, tmp_path, *callbacks, max_epochs=3)
    assert diary.skipped == [0] * len(diary.skipped)
    assert diary.weights[7]["first.weight"].isnan().any()
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 6
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


@pytest.mark.parametrize("level", LEVELS)
def test_overflow_in_the_last_step_of_an_epoch_does_not_reach_the_checkpoint(level, net, batches, tmp_path):
    keep = ModelCheckpoint(tmp_path, "last", enable_version_counter=False, save_on_train_epoch_end=True)
    callbacks = (StopOnNonFiniteLoss(tmp_path, 1), keep)
    with pytest.raises(UserError, match=r"^the weights became NaN or infinite by step 12, .*last.ckpt; try"):
        fit(Task(net, spoiled={11}), LEVELS[level]("cpu", 128), batches, tmp_path, *callbacks, max_epochs=3)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 6


@pytest.mark.parametrize("level", LEVELS)
def test_scale_doubles_after_good_steps_up_to_the_bound(level, net, batches, tmp_path):
    diary = Diary()
    plugin = LEVELS[level]("cpu", "dynamic", growth_interval=2)
    plugin.on_load_checkpoint({"amp": saved_scale(64.0, good_steps=1)})
    fit(Task(net), plugin, batches, tmp_path, diary)
    assert diary.scales == [128.0, 128.0, 256.0, 256.0, 512.0, 512.0]
    bounded = LEVELS[level]("cpu", "dynamic", growth_interval=1)
    bounded.on_load_checkpoint({"amp": saved_scale(2.0**23)})
    diary = Diary()
    tiny = [(image, target * 1e-7) for image, target in batches]
    small = copy.deepcopy(net)
    nn.init.constant_(small.last.weight, 1e-7)  # gradients that 2^24 does not drive out of range
    nn.init.zeros_(small.last.bias)
    fit(Task(small), bounded, tiny, tmp_path, diary)
    assert diary.scales == [2.0**24] * 6


# ---------------------------------------------------------------- dtypes, checkpoints


def test_o2_rounds_all_but_batchnorm_between_setup_and_teardown(net, batches, tmp_path):
    seen = {}

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            seen["parameters"] = {name: param.dtype for name, param in pl_module.named_parameters()}
            seen["others"] = {value.dtype for value in pl_module.buffers() if value.is_floating_point()}
            seen["saved"] = {value.dtype for value in pl_module.state_dict().values() if value.is_floating_point()}
            seen["optimizer"] = {param.dtype for param in trainer.optimizers[0].param_groups[0]["params"]}
            pl_module.net.bn.register_forward_hook(
                lambda module, args, out: seen.update(bn=(args[0].dtype, out.dtype))
            )  # fmt: skip

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            gradients = [param.grad for param in pl_module.net.parameters() if param.dtype == torch.float16]
            seen["left"] = {gradient is not None for gradient in gradients}
            state = trainer.optimizers[0].state_dict()["state"]
            seen["momentum"] = {entry["momentum_buffer"].dtype for entry in state.values()}
            masters, rounded = pl_module.state_dict(), dict(pl_module.named_parameters())
            seen["agree"] = all(torch.equal(masters[name].to(param.dtype), param) for name, param in rounded.items())

    task = Task(net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fit(task, precision_plugin("O2", 128, "cpu"), batches, tmp_path, Look())
    single, half = torch.float32, torch.float16
    assert {name for name, dtype in seen["parameters"].items() if dtype == half} == {f"net.{name}" for name in HALF}
    assert set(seen["parameters"].values()) == {single, half}
    assert seen["others"] == seen["saved"] == seen["optimizer"] == seen["momentum"] == {single}
    assert set(task.seen) == {(single, False)}
    assert seen["bn"] == (half, half)
    assert seen["left"] == {False}
    assert seen["agree"]
    assert {value.dtype for value in net.parameters()} == {single}  # afterwards an ordinary network
    assert net(batches[0][0])["out"].dtype == single
    assert not torch.equal(net.first.weight, before["first.weight"])
    assert not torch.equal(net.first.weight, net.first.weight.half().float())  # with all its bits


def test_loading_into_a_converted_model_sets_masters_and_rounded_weights(net, batches):
    plugin = Float16Weights("cpu", 1)
    task = Task(copy.deepcopy(net))
    plugin.convert_module(task)
    other = {name: torch.randn_like(value) for name, value in net.state_dict().items() if value.is_floating_point()}
    task.net.load_state_dict(other, strict=False)
    assert_same(task.net.state_dict(), other)
    assert torch.equal(task.net.first.weight, other["first.weight"].half())
    with pytest.raises(RuntimeError, match="size mismatch"):
        task.net.load_state_dict({**other, "first.weight": torch.zeros(1)}, strict=False)
    plugin.teardown()
    assert_same(task.net.state_dict(), other)


def test_validating_a_checkpoint_after_training_uses_its_rounded_weights(net, batches, tmp_path):
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1, auto_insert_metric_name=False)
    task = Task(net)
    trainer = fit(task, precision_plugin("O2", 128, "cpu"), batches, tmp_path, keep, validate=True)
    loader = DataLoader(batches, batch_size=None)
    [scores] = trainer.validate(task, loader, ckpt_path=tmp_path / "2.ckpt", verbose=False)
    fresh = Net()
    saved = torch.load(tmp_path / "2.ckpt", weights_only=True)["state_dict"]
    fresh.load_state_dict({name.removeprefix("net."): value for name, value in saved.items()})
    assert_same(net.state_dict(), fresh.state_dict())
    for layer in (fresh.first, fresh.last):
        layer.half()
    fresh.eval()
    with torch.no_grad():
        expected = torch.stack([(fresh(x.half())["out"].float() - y).square().mean() for x, y in batches]).mean()
    assert scores["val"] == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("scale", [128, "dynamic"])
@pytest.mark.parametrize("step", [6, 8])  # the end of an epoch, and amid one
def test_resumed_run_equals_an_uninterrupted_one_exactly(level, scale, step, net, batches, tmp_path):
    batches = batches[:1] * 6 if step == 8 else batches  # the plain loader here begins anew
    spoiled = {4, 9} if scale == "dynamic" else ()
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1, auto_insert_metric_name=False)
    whole, rest = Diary(), Diary()

    def plugin():
        return LEVELS[level]("cpu", scale, growth_interval=5)

    fit(Task(net, spoiled), plugin(), batches, tmp_path, keep, whole, max_epochs=2)
    path = tmp_path / f"{step}.ckpt"
    saved = torch.load(path, weights_only=True)
    assert {value.dtype for key, value in saved["state_dict"].items() if "tracked" not in key} == {torch.float32}
    torch.manual_seed(5)
    fit(Task(Net(), spoiled), plugin(), batches, tmp_path, rest, max_epochs=2, resume=path)
    assert len(rest.weights) == 12 - step
    for ours, theirs in zip(rest.weights, whole.weights[step:], strict=True):
        assert_same(ours, theirs)
    assert all(map(torch.equal, rest.momentum[-1], whole.momentum[-1]))
    assert rest.scales == whole.scales[step:]
    assert rest.skipped == whole.skipped[step:]
    if scale == "dynamic":
        assert whole.skipped[-1] > whole.skipped[step - 1] >= 1
        assert len(set(whole.scales[step:])) > 1


@pytest.mark.parametrize("one", ["O0", "O1", "O2", "bf16"])
@pytest.mark.parametrize("other", ["O0", "O1", "O2", "bf16"])
def test_run_goes_on_at_another_level_with_all_its_bits(one, other, net, batches, tmp_path):
    scale = {"O1": "dynamic", "O2": "dynamic"}
    keep = ModelCheckpoint(tmp_path, "end", save_on_train_epoch_end=True)
    fit(Task(net), precision_plugin(one, scale.get(one, 1), "cpu"), batches[:2], tmp_path, keep)
    first = {}

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            first.update({key: value.clone() for key, value in pl_module.net.state_dict().items()})
            first["momentum"] = trainer.optimizers[0].state_dict()["state"][0]["momentum_buffer"].clone()
            first["scale"] = trainer.precision_plugin.loss_scale

    plugin = precision_plugin(other, scale.get(other, 1), "cpu")
    fit(Task(Net()), plugin, batches[:2], tmp_path, Look(), max_epochs=2, resume=tmp_path / "end.ckpt")
    saved = torch.load(tmp_path / "end.ckpt", weights_only=True)
    assert_same({f"net.{key}": value for key, value in first.items()}, saved["state_dict"])
    assert torch.equal(first["momentum"], saved["optimizer_states"][0]["state"][0]["momentum_buffer"])
    if {one, other} <= {"O1", "O2"}:
        assert first["scale"] == saved["amp"]["loss_scale"]


# ---------------------------------------------------------------- kinds of scales


@pytest.fixture
def fake_npu(monkeypatch):
    """Stands in for torch_npu's scaler, with its signature and its demand on state dicts."""

    class GradScaler(torch.amp.GradScaler):
        def __init__(self, init_scale=2.0**16, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000,
                     dynamic=True, enabled=True):  # fmt: skip
            super().__init__("cpu", init_scale, growth_factor, backoff_factor, growth_interval, enabled)
            self.dynamic = dynamic

        def state_dict(self):
            return {**super().state_dict(), "dynamic": self.dynamic}

        def load_state_dict(self, state_dict):
            super().load_state_dict(state_dict)
            self.dynamic = state_dict["dynamic"]

    module = types.ModuleType("torch_npu.npu.amp")
    module.GradScaler = GradScaler
    for name in ("torch_npu", "torch_npu.npu"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "torch_npu.npu.amp", module)


KINDS = [("O1", "cpu"), ("O2", "cpu"), ("O1", "npu"), ("O2", "npu")]


@pytest.mark.parametrize(("level", "device"), KINDS)
@pytest.mark.parametrize(("other", "elsewhere"), KINDS)
def test_dynamic_scale_is_carried_between_devices_and_levels(level, device, other, elsewhere, fake_npu, caplog):
    source = precision_plugin(level, "dynamic", device)
    source.on_load_checkpoint({"amp": {**saved_scale(512.0, 77), "skipped_steps": 3}})
    checkpoint = {}
    source.on_save_checkpoint(checkpoint)
    target = precision_plugin(other, "dynamic", elsewhere)
    target.on_load_checkpoint(checkpoint)
    again = {}
    target.on_save_checkpoint(again)
    assert again["amp"] == {**checkpoint["amp"], "opt_level": other}
    assert (target.loss_scale, target.skipped_steps, again["amp"]["good_steps"]) == (512.0, 3, 77)
    assert caplog.messages == []


@pytest.mark.parametrize(("level", "device"), KINDS)
@pytest.mark.parametrize(
    ("before", "after", "scale", "warned"),
    [
        (64, "dynamic", 65536.0, "the checkpoint's loss scale is 64; this run's is dynamic, from 65536"),
        ("dynamic", 64, 64.0, "the checkpoint's loss scale is dynamic, at 65536; this run's is 64"),
        (64, 128, 128.0, "the checkpoint's loss scale is 64; this run's is 128"),
        (64, 64.0, 64.0, None),
        (None, "dynamic", 65536.0, "the checkpoint's loss scale is 1; this run's is dynamic, from 65536"),
    ],
)
def test_other_kind_of_scale_gives_way_with_a_warning(level, device, before, after, scale, warned, fake_npu, caplog):
    checkpoint = {}
    if before is not None:
        precision_plugin(level, before, device).on_save_checkpoint(checkpoint)
    plugin = precision_plugin(level, after, "cpu")
    plugin.on_load_checkpoint(checkpoint)
    assert plugin.loss_scale == scale
    assert caplog.messages == ([f"{warned}, as amp.loss_scale says"] if warned else [])


def test_scalers_of_torch_npu_are_used_on_npus(fake_npu):
    from torch_npu.npu.amp import GradScaler

    fixed, dynamic = (precision_plugin("O2", scale, "npu").scaler for scale in (32, "dynamic"))
    assert isinstance(fixed, GradScaler)
    assert (fixed.dynamic, fixed.get_scale()) == (False, 32.0)
    assert isinstance(dynamic, GradScaler)
    assert (dynamic.dynamic, dynamic.get_scale(), dynamic.get_growth_interval()) == (True, 65536.0, 2000)


def test_bfloat16_on_npus_is_refused():
    with pytest.raises(UserError, match="^amp=bf16 .* BatchNorm .* choose amp=o1$"):
        precision_plugin("bf16", 1, "npu")


def test_unknown_level_and_a_scale_without_use_are_refused():
    with pytest.raises(UserError, match=r"amp\.opt_level=O3 is unknown; choose one of O0, O1, O2, bf16"):
        precision_plugin("O3", 1, "cpu")
    for level in ("O0", "bf16"):
        with pytest.raises(UserError, match=f"amp.loss_scale=dynamic means nothing at {level}"):
            precision_plugin(level, "dynamic", "cpu")


def test_levels_are_checked_without_the_device_that_they_need():
    check_precision("O1", 128, "npu")
    check_precision("O2", "dynamic", "npu")
    with pytest.raises(UserError, match="choose amp=o1"):
        check_precision("bf16", 1, "npu")


@pytest.mark.parametrize("level", ["O0", "bf16"])
def test_level_without_a_scale_trains_in_its_dtype(level, net, batches, tmp_path):
    plugin, task, expected = precision_plugin(level, 1, "cpu"), Task(net), copy.deepcopy(net)
    fit(task, plugin, batches[:2], tmp_path)
    assert (plugin.opt_level, plugin.loss_scale, plugin.skipped_steps) == (level, 1.0, 0)
    assert set(task.seen) == {(torch.float32, False) if level == "O0" else (torch.bfloat16, True)}
    optimizer = torch.optim.SGD(expected.parameters(), LR, MOMENTUM, weight_decay=DECAY)
    for image, target in batches[:2]:
        with torch.autocast("cpu", torch.bfloat16, enabled=level == "bf16"):
            loss = (expected(image)["out"] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert_same(net.state_dict(), expected.state_dict())


@pytest.mark.skipif(find_spec("torch_npu") is None, reason="needs torch_npu: run it by .simulated_npu/python")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("scale", [128, "dynamic"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("options", [{"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.3}])
def test_npu_trains_and_resumes_as_the_cpu_does(level, scale, fused, options, batches, tmp_path):
    from icnet import npu
    from icnet.training.optim import npu_fused_sgd

    npu.load()
    npu.register()
    batches = [(image, 100 * target) for image, target in batches] if scale == "dynamic" else batches
    results = {}
    for device in ("cpu", "npu"):
        for epochs, resume in ((1, None), (2, tmp_path / f"{device}.ckpt")):
            npu_0 = {"accelerator": "npu", "devices": [0], "strategy": npu.SingleNPUStrategy()}
            on = npu_0 if device == "npu" else {}
            torch.manual_seed(0)
            task = Task(Net())
            if fused and device == "npu":
                group = {"params": list(task.net.parameters()), "lr": LR}
                task.configure_optimizers = partial(npu_fused_sgd, [group], MOMENTUM, DECAY, nesterov=False)
            plugin = precision_plugin(level, scale, device)
            keep = ModelCheckpoint(tmp_path, device, save_on_train_epoch_end=True, enable_version_counter=False)
            fit(task, plugin, batches, tmp_path, keep, max_epochs=epochs, resume=resume, **on, **options)
        saved = torch.load(tmp_path / f"{device}.ckpt", weights_only=True)
        results[device] = saved["state_dict"], saved["amp"]
    assert_same(results["npu"][0], results["cpu"][0])
    assert results["npu"][1] == results["cpu"][1]
    assert (results["cpu"][1]["skipped_steps"] > 0) == (scale == "dynamic")


# ---------------------------------------------------------------- the log


def test_log_names_skipped_steps_and_metrics_hold_the_scale(net, batches, tmp_path, caplog):
    caplog.set_level(logging.INFO, "icnet")
    plugin = Float16Weights("cpu", "dynamic")
    plugin.on_load_checkpoint({"amp": {**saved_scale(256.0), "skipped_steps": 3}})
    watch = LossScaleMonitor()
    logger = CSVLogger(tmp_path, name="", version="csv")
    fit(Task(net, spoiled={1, 4}), plugin, batches, tmp_path, watch, logger=logger, log_every_n_steps=2)
    assert [
        record.message for record in caplog.records if record.name == "icnet.training.callbacks.loss_scale_monitor"
    ] == [
        "mixed precision O2, loss scale dynamic, now 256",
        "float16 on a CPU is a trial of its rounding, computed in float32: amp=o0 is faster",
        "step 2 skipped: a gradient overflowed; the loss scale is 128 now",
        "step 5 skipped: a gradient overflowed; the loss scale is 64 now",
    ]
    with (tmp_path / "csv" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    logged = [(float(row["amp/loss_scale"]), float(row["amp/skipped_steps"])) for row in rows]
    assert logged == [(128.0, 4.0), (128.0, 4.0), (64.0, 5.0)]
    assert (plugin.opt_level, plugin.loss_scale, plugin.skipped_steps) == ("O2", 64.0, 5)


def test_log_falls_silent_after_ten_skipped_steps(net, batches, tmp_path, caplog):
    watch = LossScaleMonitor()
    plugin = precision_plugin("O1", "dynamic", "cpu")
    fit(Task(net, spoiled=range(12)), plugin, batches * 2, tmp_path, watch)
    warned = [text for text in caplog.messages if " skipped: " in text]
    assert len(warned) == 10
    assert warned[-1].startswith("step 10 skipped: ")
    assert warned[-1].endswith("the loss scale is 64 now; further ones are only counted")
    assert plugin.skipped_steps == 12


def test_log_says_the_level_without_a_scale(net, batches, tmp_path, caplog):
    caplog.set_level(logging.INFO, "icnet")
    watch = LossScaleMonitor()
    logger = CSVLogger(tmp_path, name="", version="csv")
    fit(Task(net), precision_plugin("O0", 1, "cpu"), batches, tmp_path, watch, logger=logger, log_every_n_steps=1)
    assert "precision O0, no loss scale" in caplog.messages
    assert not (tmp_path / "csv" / "metrics.csv").exists()  # nothing to log


def test_entry_of_a_level_says_all_that_others_need_to_know(monkeypatch):
    class Wide(Float16Autocast):
        opt_level = "wide"

    monkeypatch.setitem(OPT_LEVELS, "half", OptLevel(Float16Weights, float16_weights=True, imitated_on_cpu=True))
    monkeypatch.setitem(OPT_LEVELS, "wide", OptLevel(Wide, scales=True, rounding=(1.0, 2.0)))
    with pytest.raises(UserError, match="^callbacks.ema_decay .* at half they are float16; choose amp=o1 or amp=wide$"):
        check_average("half")
    with pytest.raises(UserError, match="amp.opt_level=half on a CPU.*choose amp=o0 or amp=bf16 or amp=wide$"):
        check_activation_checkpointing(NETWORKS["icnet"], "half", "cpu")
    with pytest.raises(UserError, match="=2 means nothing at half.*choose amp=o1 or amp=o2 or amp=wide, or leave it"):
        check_precision("half", 2, "cpu")
    check_activation_checkpointing(NETWORKS["icnet"], "half", "cuda")
    for level in ("O0", "O1", "bf16", "wide"):
        check_average(level)
    assert level_of(precision_plugin("wide", 1, "cpu")).rounding == (1.0, 2.0)
    assert level_of(Precision()) is OPT_LEVELS["O0"]


def test_averaged_weights_are_not_float16():
    with pytest.raises(UserError, match="^callbacks.ema_decay averages the weights, and at O2 they .*; choose amp=o1$"):
        check_average("O2")


# ---------------------------------------------------------------- the real network


class Segmentation(LightningModule):
    def __init__(self, net) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch, batch_idx):
        image, mask = batch
        losses = []
        for logits in self.net(image).values():
            assert logits.dtype == torch.float32 or torch.is_autocast_enabled("cpu")
            losses.append(F.cross_entropy(logits.float(), mask[:, : logits.shape[2], : logits.shape[3]]))
        return sum(losses)

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), LR)


@pytest.mark.parametrize("name", ALL_NETWORKS)
def test_network_takes_the_step_of_float32_at_every_level(name, tmp_path):
    torch.manual_seed(0)
    start = build_network(name, 3, **SMALL.get(name, {}))
    batch = [(torch.randn(2, 3, 64, 64), torch.randint(3, (2, 64, 64)))]
    moved = {}
    for level, scale in (("O0", 1), ("O1", 128), ("O2", 128), ("bf16", 1)):
        net = copy.deepcopy(start)
        # In the smallest branch BatchNorm would divide by the spread of two values, which turns rounding into noise.
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.forward = types.MethodType(_normalize_nothing, module)
        fit(Segmentation(net), precision_plugin(level, scale, "cpu"), batch, tmp_path)
        before, after = (nn.utils.parameters_to_vector(model.parameters()).detach() for model in (start, net))
        moved[level] = after - before
    # Where rounding turns a ReLU on or off, gradients come or go. Seen of the ResNet: 0.017, 0.026 and 0.051, of
    # EfficientNet-Lite0, which has more layers: 0.027, 0.034 and 0.058.
    half = 0.04 if name == "icnet" else 0.06
    for level, share in (("O1", half), ("O2", half), ("bf16", 0.1)):
        assert (moved[level] - moved["O0"]).norm() < share * moved["O0"].norm(), level


def _normalize_nothing(self, x):
    return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


# ---------------------------------------------------------------- two processes

VARIANTS = [(view, accumulate, scale) for view in (True, False) for accumulate in (1, 2) for scale in (128, "dynamic")]


class Calm(Task):
    """With fixed statistics, so that half a batch gives half the gradient."""

    def training_step(self, batch, batch_idx):
        self.net.bn.eval()
        return super().training_step(batch, batch_idx)


@pytest.mark.slow
def test_two_processes_equal_one_with_the_double_batch(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    environment |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen([sys.executable, __file__, str(tmp_path)], env={**environment, "LOCAL_RANK": str(rank)})
        for rank in (0, 1)
    ]
    try:
        assert [process.wait(120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for variant in VARIANTS:
        _, accumulate, scale = variant
        torch.manual_seed(0)
        net = Net()
        before = copy.deepcopy(net.state_dict())
        diary = Diary()
        plugin = Float16Weights("cpu", scale)
        spoiled = {1} if scale == "dynamic" else ()
        fit(Calm(net, spoiled), plugin, some_batches(6, 8), tmp_path, diary, accumulate_grad_batches=accumulate)
        (first, skipped), (second, also_skipped) = (rank[str(variant)] for rank in ranks)
        assert_same(first, second)
        assert skipped == also_skipped == diary.skipped[-1] == len(spoiled)
        # Each process rounds its gradients to float16 (2^-11), and so do the halved ones and their sum.
        assert_same(first, diary.weights[-1], rtol=0, atol=1e-3)
        assert max((value - before[name]).abs().max() for name, value in first.items()) > 0.05


def _be_a_rank(rank: int, folder: Path) -> None:
    results = {}
    for variant in VARIANTS:
        view, accumulate, scale = variant
        torch.manual_seed(rank)  # the second process begins elsewhere, and must take over the first one's weights
        net = Net().to(memory_format=torch.channels_last)
        half = [(x[4 * rank : 4 * rank + 4], y[4 * rank : 4 * rank + 4]) for x, y in some_batches(6, 8)]
        spoiled = {1} if scale == "dynamic" and rank == 1 else ()  # an overflow of one stops both
        plugin = Float16Weights("cpu", scale)
        fit(
            Calm(net, spoiled), plugin, half, folder, devices=2,
            accumulate_grad_batches=accumulate,
            strategy=DDPStrategy(
                broadcast_buffers=False, gradient_as_bucket_view=view, process_group_backend="gloo"
            ),
        )  # fmt: skip
        weights = {name: value for name, value in net.state_dict().items() if value.is_floating_point()}
        results[str(variant)] = weights, plugin.skipped_steps
    torch.save(results, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _be_a_rank(int(os.environ["LOCAL_RANK"]), Path(sys.argv[1]))
