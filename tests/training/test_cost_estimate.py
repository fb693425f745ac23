"""The cost of a run, told after twenty steps and after the first validation, from a clock that the tests turn."""

import re
from types import SimpleNamespace

import pytest
import torch

from icnet.training.callbacks import cost_estimate, speed_monitor
from icnet.training.callbacks.cost_estimate import CostEstimate, batches_left, validations_left
from icnet.training.callbacks.speed_monitor import SpeedMonitor
from icnet.training.callbacks.validation_schedule import PublishedValidationSchedule

MODULE = SimpleNamespace(device=torch.device("cpu"), log=lambda *_, **__: None)


def trainer(epoch: int = 0, done: int = 0, **more: object) -> SimpleNamespace:
    """In an epoch of 100 batches, behind some of them."""
    current = SimpleNamespace(completed=done)
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=current)))
    usual = {
        "max_epochs": 10, "max_steps": -1, "global_step": 100 * epoch + done, "accumulate_grad_batches": 1,
        "num_training_batches": 100, "world_size": 1, "is_global_zero": True, "check_val_every_n_epoch": 5,
        "limit_val_batches": 1.0, "callbacks": [], "datamodule": SimpleNamespace(workers=3),
    }  # fmt: skip
    return SimpleNamespace(current_epoch=epoch, fit_loop=loop, **{**usual, **more})


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"epoch": 2, "done": 30}, 100 * 8 - 30),
        ({"epoch": 2, "done": 30, "max_epochs": -1}, None),  # without an end
        ({"done": 30, "max_steps": 50}, 20),
        ({"done": 30, "max_steps": 50, "global_step": 10, "accumulate_grad_batches": 3}, 120),
        ({"epoch": 9, "done": 95, "max_steps": 2000}, 5),  # the epochs end first
        ({"done": 30, "max_steps": 50, "max_epochs": -1}, 20),
    ],
)
def test_batches_that_are_left(given, left):
    assert batches_left(trainer(**given)) == left


def test_validations_that_are_left():
    assert validations_left(trainer(epoch=3)) == 2  # behind epochs 5 and 10
    assert validations_left(trainer(epoch=5)) == 1
    assert validations_left(trainer(limit_val_batches=0)) == 0
    assert validations_left(trainer(epoch=3, max_steps=560)) == 1  # ends within epoch 6
    assert validations_left(trainer(epoch=3, done=20, max_steps=499)) == 0  # one step before the end of epoch 5
    assert validations_left(trainer(max_steps=1000, max_epochs=-1)) == 2
    assert validations_left(trainer(max_epochs=-1)) == 0
    published = {"callbacks": [PublishedValidationSchedule()], "max_epochs": 200}
    assert validations_left(trainer(world_size=8, **published)) == 36 + 20  # to 180 every five, then each
    assert validations_left(trainer(epoch=190, **published)) == 10


@pytest.mark.parametrize(("wait", "limit"), [(0.01, "the device"), (0.25, "data")])
def test_line_says_end_memory_and_what_the_run_waits_for(monkeypatch, caplog, wait, limit):
    caplog.set_level("INFO")
    clock = {"now": 0.0}
    for module in (speed_monitor, cost_estimate):
        monkeypatch.setattr(module.time, "perf_counter", lambda: clock["now"])
    speed, estimate = SpeedMonitor(), CostEstimate("more hands", "fewer pixels")
    run = trainer(callbacks=[speed, estimate])
    batch = {"image": torch.zeros(4, 1)}
    speed.on_train_start(run, MODULE)
    for step in range(1, 31):
        clock["now"] += wait
        speed.on_train_batch_start(run, MODULE, batch, 0)
        clock["now"] += (0.5 if step > 5 else 10) - wait  # the first ones are slow and do not count
        run.fit_loop.epoch_loop.batch_progress.current.completed = step
        for callback in (speed, estimate):
            callback.on_train_batch_end(run, MODULE, None, batch, 0)
        assert len(caplog.messages) == (step >= 20)
    (line,) = caplog.messages
    assert line.startswith(
        f"a step takes 0.5 s, {100 * wait / 0.5:.0f} % of it waiting for data; the 980 that are left"
    )
    assert "(0:08:10 from now), 2 validations not counted. " in line  # 980 half seconds
    assert float(re.search(r"taken (\d+\.\d) GiB of memory", line)[1]) > 0
    assert f"limited by {limit}; what helps: {'more hands' if limit == 'data' else 'fewer pixels'}" in line
    run.current_epoch, caplog.handler.records[:] = 4, []
    run.fit_loop.epoch_loop.batch_progress.current.completed = 100
    for _ in range(2):
        estimate.on_validation_start(run, MODULE)
        clock["now"] += 60
        estimate.on_validation_end(run, MODULE)
    (line,) = caplog.messages[-1:]
    assert caplog.text.count("a validation takes") == 1
    assert line.startswith("a validation takes 60 s; with the 1 to come the run ends about ")
    assert line.endswith("(0:05:10 from now)")  # 500 steps and a minute


def test_other_processes_and_runs_without_an_end_say_nothing(caplog):
    caplog.set_level("INFO")
    for more in ({"is_global_zero": False}, {"max_epochs": -1}):
        speed, estimate = SpeedMonitor(), CostEstimate("", "")
        run = trainer(callbacks=[speed, estimate], **more)
        for _ in range(25):
            for callback in (speed, estimate):
                callback.on_train_batch_end(run, MODULE, None, {"image": torch.zeros(4, 1)}, 0)
    assert caplog.messages == []
