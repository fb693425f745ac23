"""Parts of a network that training leaves alone, to the bit."""

import copy
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from icnet.config import OptimConfig, SchedulerConfig
from icnet.data.labels import ClassTable
from icnet.errors import UserError
from icnet.factory.task import optimizer_factory
from icnet.models import SegmentationNetwork
from icnet.models.icnet import ICNet
from icnet.training.callbacks.stop_on_nonfinite_loss import StopOnNonFiniteLoss
from icnet.training.callbacks.weight_average import ExponentialAverage
from icnet.training.freezing import check_parts
from icnet.training.losses import CascadeLoss
from icnet.training.optim import _KeepsGradients
from icnet.training.precision import precision_plugin
from icnet.training.segmentation_task import SegmentationTask

CLASSES = ClassTable(("dark", "bright", "red"), ((0, 0, 0), (255, 255, 255), (255, 0, 0)))


class Net(SegmentationNetwork):
    """A backbone and a head, both with BatchNorm."""

    loss_weights = {"main": 1.0}
    parts = {"backbone": ("backbone.",), "head": ("neck.", "head.")}

    def __init__(self) -> None:
        super().__init__(3)
        self.backbone = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.neck = nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6))
        self.head = nn.Conv2d(6, 3, 1)

    def imagenet_backbone(self):
        return self.backbone

    def forward(self, image):
        logits = self.head(self.neck(self.backbone(image)))
        return {"main": logits} if self.training else logits


def make_task(frozen=(), **optim) -> SegmentationTask:
    torch.manual_seed(0)
    keys = {"lr": 0.1, "weight_decay": 0.1, **optim}
    configure = optimizer_factory(OptimConfig(freeze=list(frozen), **keys), SchedulerConfig(name="constant"))
    criterion = CascadeLoss({"main": 1.0}, ignore_index=255, resize="nearest")
    return SegmentationTask(Net(), criterion, CLASSES, configure, {}, frozen=frozen)


def fit(task, *callbacks, level="O0", epochs=2, resume=None) -> Trainer:
    """Train and validate on four made-up batches an epoch."""
    generator = torch.Generator().manual_seed(1)
    samples = [
        {
            "image": torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=generator),
            "mask": torch.randint(0, 3, (16, 16), dtype=torch.uint8, generator=generator), "index": index,
        }
        for index in range(8)
    ]  # fmt: skip
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=list(callbacks),
        plugins=[precision_plugin(level, 1, "cpu")],
    )  # fmt: skip
    trainer.fit(task, DataLoader(samples, 2), DataLoader(samples, 2), ckpt_path=resume, weights_only=True)
    return trainer


def state(task) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in task.net.state_dict().items()}


def changed(before, after) -> set[str]:
    return {key for key in before if not torch.equal(before[key], after[key])}


def of(part: str, keys) -> set[str]:
    return {key for key in keys if key.startswith(Net.parts[part])}


# ---------------------------------------------------------------- what stays


@pytest.mark.filterwarnings("ignore:.*eval mode at the start:")
@pytest.mark.parametrize("optim", [{"name": "sgd"}, {"name": "adamw"}, {"name": "sgd", "nesterov": True}])
@pytest.mark.parametrize("level", ["O0", "O1", "O2", "bf16"])
def test_frozen_backbone_keeps_weights_and_statistics_and_the_head_moves(optim, level):
    task = make_task(["backbone"], **optim)
    before = state(task)
    fit(task, level=level)
    assert changed(before, state(task)) == of("head", before)


@pytest.mark.filterwarnings("ignore:.*eval mode at the start:")
def test_averaged_weights_of_a_frozen_part_are_its_weights():
    task = make_task(["backbone"])
    before = state(task)
    fit(task, ExponentialAverage(0.9))
    assert changed(before, state(task)) == of("head", before)


def test_average_is_the_formula_and_what_does_not_change_keeps_its_bits():
    callback, net = ExponentialAverage(0.9), nn.Linear(3, 1, bias=False)
    callback._average_model = model = AveragedModel(net)
    net.weight.data += 1  # the average begins with the first step's weights
    wanted = net.weight.detach().clone()
    callback.on_train_start(SimpleNamespace(), net)
    for step in range(5):
        if step:
            net.weight.data[0, :2] += 1
            wanted[0, :2] = 0.9 * wanted[0, :2] + (1 - 0.9) * net.weight.data[0, :2]
        for _ in range(2):  # batches whose gradients are accumulated
            callback.on_train_batch_end(SimpleNamespace(global_step=step + 1), net, None, None, 0)
    torch.testing.assert_close(model.module.weight, wanted)
    assert torch.equal(model.module.weight[0, 2], wanted[0, 2])
    assert model.n_averaged == 5
    assert callback.state_key == "EMAWeightAveraging"


@pytest.mark.filterwarnings("ignore:.*eval mode at the start:")
@pytest.mark.filterwarnings("ignore:.*dataloader:")
def test_average_of_a_resumed_run_is_that_of_a_whole_one(tmp_path):
    class Keep(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "2.ckpt", weights_only=False)

    whole, resumed = make_task(["backbone"]), make_task(["backbone"])
    fit(whole, ExponentialAverage(0.9), Keep(), epochs=4)
    fit(resumed, ExponentialAverage(0.9), epochs=4, resume=tmp_path / "2.ckpt")
    assert not changed(state(whole), state(resumed))


@pytest.mark.filterwarnings("ignore:.*eval mode at the start:")
def test_frozen_head_keeps_its_weights_and_statistics():
    task = make_task(["head"])
    before = state(task)
    fit(task)
    assert changed(before, state(task)) == of("backbone", before)


def test_nothing_frozen_moves_everything():
    task = make_task()
    before = state(task)
    fit(task)
    assert changed(before, state(task)) == set(before)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_backbone_at_rate_0_keeps_its_weights_and_not_its_statistics(name):
    task = make_task(name=name, backbone_lr_mult=0.0)
    before = state(task)
    fit(task)
    moving = {key for key in before if "running" in key or "tracked" in key} | of("head", before)
    assert changed(before, state(task)) == moving


def test_rates_are_multiples_of_lr():
    trainer = fit(make_task(backbone_lr_mult=0.5, head_lr_mult=3.0), epochs=1)
    assert {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups} == pytest.approx(
        {"backbone": 0.05, "head": 0.3}
    )


@pytest.mark.filterwarnings("ignore:.*eval mode at the start:")
@pytest.mark.filterwarnings("ignore:.*dataloader:")
def test_resumed_run_may_thaw_and_freeze(tmp_path):
    first = make_task(["backbone"])
    fit(first).save_checkpoint(tmp_path / "2.ckpt", weights_only=False)
    frozen = state(first)
    thawed = make_task()
    fit(thawed, epochs=3, resume=tmp_path / "2.ckpt").save_checkpoint(tmp_path / "3.ckpt", weights_only=False)
    assert changed(frozen, state(thawed)) == set(frozen)
    again = make_task(["backbone"])
    fit(again, epochs=4, resume=tmp_path / "3.ckpt")
    assert changed(state(thawed), state(again)) == of("head", frozen)


def test_statistics_stay_frozen_in_modules_that_a_conversion_put_in_place():
    task = make_task(["backbone"])
    task.net = nn.SyncBatchNorm.convert_sync_batchnorm(task.net)
    task.eval().train()
    modes = {name: module.training for name, module in task.net.named_modules() if isinstance(module, nn.SyncBatchNorm)}
    assert modes == {"backbone.1": False, "neck.1": True}
    assert task.net.training
    assert task.net.backbone.training  # only what has statistics


def test_icnet_names_its_parts():
    net = ICNet(3, "resnet18")
    found = {
        part: {key for key, _ in net.named_parameters() if key.startswith(beginnings)}
        for part, beginnings in ICNet.parts.items()
    }
    assert list(found) == ["sub1", "backbone", "head"]
    assert all(found.values())
    assert set.union(*found.values()) == {key for key, _ in net.named_parameters()}
    backbone = {id(parameter) for parameter in net.backbone_parameters()}
    assert found["backbone"] == {key for key, value in net.named_parameters() if id(value) in backbone}


def test_fused_optimizer_may_be_left_without_the_gradients_of_frozen_weights_alone():
    frozen, trained = nn.Parameter(torch.ones(1), requires_grad=False), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([frozen, trained], lr=0.1)
    trained.grad = torch.ones(1)
    _KeepsGradients()(optimizer)
    trained.grad = None
    with pytest.raises(RuntimeError, match="did not see all gradients"):
        _KeepsGradients()(optimizer)


def test_loss_that_is_nan_is_told_with_the_rate_of_what_moves(tmp_path):
    groups = [{"lr": 0.0}, {"lr": 0.3}]
    trainer = SimpleNamespace(optimizers=[SimpleNamespace(param_groups=groups)], global_step=4, current_epoch=0)
    with pytest.raises(UserError, match=r"became nan at step 4 \(epoch 1, lr 0\.3\)"):
        StopOnNonFiniteLoss(tmp_path, 1).on_train_batch_end(trainer, None, {"loss": torch.tensor(torch.nan)}, None, 0)


# ---------------------------------------------------------------- what is refused


def test_unknown_part_is_refused_with_those_there_are():
    with pytest.raises(UserError, match=r"optim\.freeze=stem is no part of ICNet; choose from sub1, backbone, head"):
        check_parts(ICNet, ["backbone", "stem"])
    with pytest.raises(UserError, match=r"optim\.freeze=x is no part of SegmentationNetwork; it names no parts"):
        check_parts(SegmentationNetwork, ["x"])


def test_freezing_everything_is_refused():
    with pytest.raises(UserError, match=r"optim\.freeze=\[head,backbone\] leaves nothing to train"):
        make_task(["head", "backbone"])


def test_training_needs_something_that_moves(script, small, tmp_path):
    for words, message in (
        (("optim.freeze=[stem]",), "optim.freeze=stem is no part of ICNet; choose from sub1, backbone, head"),
        (("optim.freeze=[sub1,backbone,head]",), "optim.freeze=[sub1,backbone,head] leaves nothing to train"),
        (("optim.freeze=[sub1,head]", "optim.backbone_lr_mult=0"), "optim.backbone_lr_mult=0 with optim.freeze="),
        (("optim.backbone_lr_mult=-1",), "optim.backbone_lr_mult=-1.0 is out of range; give a number from 0"),
    ):
        done = script("train", *small, *words, f"hydra.run.dir={tmp_path / 'run'}")
        assert done.status == 2
        assert message in done.error
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_two_processes_keep_frozen_parts_over_a_resume(process, small, tmp_path):
    words = (*small, "trainer=cpu_2p", "trainer.batch_size=1", "optim.freeze=[backbone,sub1]", "optim.weight_decay=0.1")
    states = []
    for epochs in (1, 2):
        done = process(
            "train", *words, f"trainer.max_epochs={epochs}", "resume=auto", f"hydra.run.dir={tmp_path}", cwd=tmp_path
        )
        assert done.status == 0, done.err
        assert "eval mode" not in done.err
        saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
        states.append(copy.deepcopy(saved["state_dict"]))
    moved = {key.removeprefix("net.") for key in changed(*states)}
    frozen = {key.removeprefix("net.") for key in states[0] if key.startswith(("net.backbone.", "net.sub1."))}
    assert frozen
    assert not moved & frozen
    assert {"classifier.weight", "cff_24.low.bn.running_mean"} <= moved
    assert "keep random weights" in (tmp_path / "train_0.log").read_text()
