"""DDP averages gradients once for each step of the optimizer, and holds them once."""

import os

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import distributed
from torch.utils.data import DataLoader

from icnet.config import TrainerConfig
from icnet.factory import devices
from icnet.models import network_class
from icnet.training.activation_checkpointing import checkpoint_activations
from icnet.training.losses import CascadeLoss
from icnet.training.optim import sgd
from icnet.training.segmentation_task import SegmentationTask
from tests.training.test_compile_network import CLASSES, Small, batches


class Shares(Callback):
    """Counts the rounds in which gradients are averaged, and looks where they lie."""

    def __init__(self) -> None:
        self.buckets: list[int] = []  # bytes
        self.rounds: list[int] = []  # buckets so far, after each batch
        self.inside: list[bool] = []  # whether every gradient is part of what is sent

    def on_train_start(self, trainer, pl_module):
        def average(state, bucket):
            self.buckets.append(bucket.buffer().nbytes)
            self.places = (bucket.buffer().untyped_storage().data_ptr(), bucket.buffer().untyped_storage().nbytes())
            work = distributed.all_reduce(bucket.buffer(), async_op=True)
            return work.get_future().then(lambda future: future.value()[0])

        trainer.strategy.model.register_comm_hook(None, average)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        start, length = self.places
        places = [parameter.grad.data_ptr() for parameter in pl_module.net.parameters()]
        self.inside.append(all(start <= place < start + length for place in places))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.rounds.append(len(self.buckets))


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """Train in a group of one process, with the strategy of several."""
    monkeypatch.setattr(devices, "world_size", lambda trainer: 2)
    environment = dict(os.environ)

    def run(*, accumulate: int, static_graph: bool, stages: bool = False) -> tuple[Shares, SegmentationTask]:
        torch.manual_seed(0)
        net = Small(3)
        if stages:
            net.stages = ("stem",)
            checkpoint_activations(net)
        seen = Shares()
        task = SegmentationTask(
            net, CascadeLoss(Small.loss_weights, ignore_index=255), CLASSES,
            lambda task: sgd([{"params": task.net.parameters(), "lr": 0.1}], 0.9, 0.0, nesterov=False), {},
        )  # fmt: skip
        given = TrainerConfig(accelerator="cpu", accumulate_grad_batches=accumulate)
        strategy = devices.device_arguments(given, static_graph=static_graph)["strategy"]
        assert strategy._ddp_kwargs["static_graph"] is (static_graph and accumulate == 1)  # torch fails with both
        trainer = Trainer(
            accelerator="cpu", devices=1, strategy=strategy, max_epochs=1, accumulate_grad_batches=accumulate,
            logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
            default_root_dir=tmp_path, callbacks=[seen],
        )  # fmt: skip
        trainer.fit(task, DataLoader(batches(6), batch_size=None))
        return seen, task

    yield run
    if distributed.is_initialized():
        distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.parametrize("static_graph", [False, True])
@pytest.mark.parametrize(("accumulate", "rounds"), [(1, [1, 2, 3, 4, 5, 6]), (3, [0, 0, 1, 1, 1, 2])])
def test_gradients_are_averaged_once_for_each_optimizer_step_and_held_once(fit, accumulate, rounds, static_graph):
    seen, task = fit(accumulate=accumulate, static_graph=static_graph)
    assert seen.rounds == rounds
    assert set(seen.buckets) == {sum(parameter.nbytes for parameter in task.net.parameters())}
    assert all(seen.inside[1:])  # the first step may still sort the buckets


@pytest.mark.parametrize("accumulate", [1, 3])
def test_static_graph_and_repeated_activations_change_no_bit(fit, accumulate):
    _, plain = fit(accumulate=accumulate, static_graph=False)
    _, static = fit(accumulate=accumulate, static_graph=True, stages=True)
    for key, value in plain.state_dict().items():
        assert torch.equal(static.state_dict()[key], value), key


def test_icnet_says_that_its_steps_are_alike():
    assert network_class("icnet").static_graph
    assert not Small.static_graph  # a network from outside has to say so
