"""Several processes agree on stopping from host to host; whole runs are in tests/launch/test_processes.py."""

import signal
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import distributed

from icnet.training.callbacks.checkpoint_on_signal import CheckpointOnSignal


def asked_lightning() -> None:
    raise AssertionError("Lightning would read from the device before every batch")


@pytest.fixture
def group(monkeypatch):
    """Two ranks on accelerators, of which the other has been asked to stop where ``other`` says so."""
    made = SimpleNamespace(other=0, hosts=object(), asked=[])

    def all_reduce(votes, operation, group):
        assert votes.device.type == "cpu"
        assert group is made.hosts
        made.asked.append(votes.item())
        votes.clamp_(min=made.other)

    monkeypatch.setattr(distributed, "get_backend", lambda: "nccl")
    monkeypatch.setattr(distributed, "new_group", lambda backend: made.hosts if backend == "gloo" else None)
    monkeypatch.setattr(distributed, "all_reduce", all_reduce)
    return made


def test_ranks_ask_each_other_after_each_step_and_no_device(group, tmp_path):
    loop = SimpleNamespace(_broadcast_sigterm_tensor=asked_lightning)
    trainer = SimpleNamespace(
        world_size=2, accumulate_grad_batches=2, is_last_batch=False, fit_loop=SimpleNamespace(epoch_loop=loop)
    )
    callback = CheckpointOnSignal(tmp_path / "last.ckpt")
    before = signal.getsignal(signal.SIGTERM)
    callback.on_train_start(trainer, SimpleNamespace(device=torch.device("cuda")))
    try:
        loop._broadcast_sigterm_tensor()
        for batch in range(4):  # two steps
            callback.on_train_batch_start(trainer, None, None, batch)
            callback.on_train_batch_end(trainer, None, None, None, batch)
        assert group.asked == [0, 0]
        group.other = 1
        for batch in (4, 5):
            callback.on_train_batch_start(trainer, None, None, batch)
            callback.on_train_batch_end(trainer, None, None, None, batch)
        with pytest.raises(SIGTERMException):
            callback.on_train_batch_start(trainer, None, None, 6)
    finally:
        callback.on_train_end(trainer, None)
    assert signal.getsignal(signal.SIGTERM) is before
