"""A run that stopped for want of a better score stays stopped, until it gets more patience."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from icnet.training.callbacks.early_stopping import ResumableEarlyStopping


@pytest.mark.parametrize(("patience", "stops"), [(2, True), (3, False)])
def test_resumed_run_stays_stopped_with_the_patience_of_the_configuration(patience, stops, caplog):
    caplog.set_level("INFO")
    before = EarlyStopping("val/miou", mode="max", patience=2)  # what version 0.1 had
    before.wait_count, before.best_score = 2, torch.tensor(0.5)
    after = ResumableEarlyStopping("val/miou", mode="max", patience=patience)
    assert after.state_key == before.state_key
    after.load_state_dict(before.state_dict())
    trainer = SimpleNamespace(should_stop=False)
    after.on_train_start(trainer, None)
    assert (trainer.should_stop, after.patience, after.best_score.item()) == (stops, patience, 0.5)
    assert ("a larger callbacks.early_stop_patience" in caplog.text) == stops
