"""A run that goes on with another length: the schedule is that of the new length, at the right place."""

import csv
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from icnet.models import NETWORKS
from icnet.models.weight_files import load_file
from icnet.training.callbacks.resumed_length import ResumedLength
from icnet.training.position import Position, read_position
from tests.training.lives import Small
from tests.training.test_resume_after_kills import loops

LR = 0.01
RUN = (
    "model.name=small", "trainer.log_every_n_steps=1", "logger=csv", "callbacks.pictures=0", "callbacks.extremes=0",
    "trainer.limit_val_batches=1", "scheduler.warmup_epochs=0",
)  # fmt: skip
"""Six scenes in batches of two: three steps an epoch; two epochs, six steps."""


@pytest.fixture
def train(small, script, tmp_path, monkeypatch):
    """Train into a folder below tmp_path; returns the folder, the learning rates, and the log."""
    monkeypatch.setitem(NETWORKS, "small", Small)
    words = [word for word in small if not word.startswith(("callbacks.pictures", "logger", "model="))]

    def run(name: str, *overrides: str) -> tuple[Path, list[float], str]:
        done = script("train", *words, *RUN, *overrides, f"hydra.run.dir={tmp_path / name}")
        assert done.status == 0, done.err
        folder = tmp_path / name
        rows = list(csv.DictReader((folder / "csv" / "metrics.csv").open()))
        rates = [float(row["lr-SGD/backbone"]) for row in rows if row.get("lr-SGD/backbone")]
        return folder, rates, (folder / "train_0.log").read_text()

    return run


def last(folder: Path) -> str:
    return f"resume={folder / 'checkpoints' / 'last.ckpt'}"


def poly(step: float, steps: int) -> float:
    return LR * (1 - step / steps) ** 0.9


def cosine(epoch: int, epochs: int) -> float:
    return LR * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


@pytest.mark.slow
def test_poly_with_more_epochs_goes_on_in_the_longer_schedule(train):
    first, rates, _ = train("first", "scheduler=poly")
    assert rates == pytest.approx([poly(step, 6) for step in range(6)])
    longer, rates, log = train("longer", "scheduler=poly", "trainer.max_epochs=4", last(first))
    assert rates == pytest.approx([poly(step, 12) for step in range(6, 12)])  # 0, all of them, in version 0.2
    assert "going on with another length (max_epochs was 2, is 4): weights, optimizer state and the 2 epochs" in log
    assert re.search(r"epoch 3 of 4 follows, with 3 batches an epoch; .* is at lr 0\.0053588\d+ \(in .*: 0\)", log)
    _, rates, log = train("longest", "scheduler=poly", "trainer.max_epochs=5", last(longer))
    assert rates == pytest.approx([poly(step, 15) for step in range(12, 15)])


@pytest.mark.slow
def test_cosine_with_more_epochs_goes_on_in_the_longer_schedule(train):
    first, rates, _ = train("first")
    assert rates == pytest.approx([cosine(epoch, 2) for epoch in (0, 1)])
    longer, rates, _ = train("longer", "trainer.max_epochs=4", last(first))
    assert rates == pytest.approx([cosine(epoch, 4) for epoch in (2, 3)])  # 0 for one epoch in version 0.2
    assert json.loads((longer / "results.json").read_text())["epochs"] == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "per_epoch", "told"),
    [
        ("trainer.batch_size=1", 6, "batch_size was 2, is 1"),
        ("trainer.accumulate_grad_batches=3", 1, "accumulate_grad_batches was 1, is 3"),
        ("data.train_samples=4", 2, "samples was 6, is 4"),
    ],
)
def test_poly_with_other_steps_an_epoch_ends_at_its_end(train, changed, per_epoch, told):
    first, _, _ = train("first", "scheduler=poly", "trainer.max_steps=3")  # after one epoch of two
    folder, rates, log = train("other", "scheduler=poly", "trainer.max_epochs=3", changed, last(first))
    steps = 3 * per_epoch
    assert sorted(set(rates), reverse=True) == pytest.approx([poly(step, steps) for step in range(per_epoch, steps)])
    assert told in log
    content = load_file(folder / "checkpoints" / "last.ckpt")
    assert (content["epoch"], content["global_step"]) == (2, 3 + 2 * per_epoch)
    assert content["lr_schedulers"][0]["last_epoch"] == steps
    assert content["optimizer_states"][0]["param_groups"][0]["lr"] == 0


@pytest.mark.slow
def test_max_steps_ends_poly_where_it_ends_the_run(train):
    first, _, _ = train("first", "scheduler=poly")
    _, rates, _ = train("on", "scheduler=poly", "trainer.max_epochs=9", "trainer.max_steps=10", last(first))
    assert rates == pytest.approx([poly(step, 10) for step in range(6, 10)])


@pytest.mark.slow
def test_epoch_of_other_batches_begins_anew(train):
    first, _, _ = train("first", "scheduler=poly", "trainer.max_steps=4")  # the first step of the second epoch
    assert load_file(first / "checkpoints" / "last.ckpt")["global_step"] == 4
    folder, rates, log = train("other", "scheduler=poly", "trainer.batch_size=1", last(first))
    assert "the checkpoint lies inside epoch 2, behind 1 of its batches, and these are others now" in log
    assert "(batch_size was 2, is 1): the epoch begins anew, and some of its samples come twice" in log
    assert rates == pytest.approx([poly(step, 12) for step in range(6, 12)])  # the whole second epoch
    assert load_file(folder / "checkpoints" / "last.ckpt")["global_step"] == 4 + 6


@pytest.mark.slow
def test_epoch_of_the_same_batches_goes_on_in_the_middle(train):
    first, _, _ = train("first", "scheduler=poly", "trainer.max_steps=4")
    _, rates, log = train("longer", "scheduler=poly", "trainer.max_epochs=3", last(first))
    assert "begins anew" not in log
    assert rates == pytest.approx([poly(step, 9) for step in range(4, 9)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("poly", "cosine", [cosine(2, 4), cosine(3, 4)]),
        ("cosine", "poly", [poly(step, 12) for step in range(6, 12)]),
        ("constant", "poly", [poly(step, 12) for step in range(6, 12)]),
        ("poly", "constant", [LR] * 6),
    ],
)
def test_another_schedule_begins_where_it_would_stand(train, before, after, expected):
    first, _, _ = train("first", f"scheduler={before}")
    folder, rates, log = train("other", f"scheduler={after}", "trainer.max_epochs=4", last(first))
    if after == "constant":  # nothing is logged of it
        groups = load_file(folder / "checkpoints" / "last.ckpt")["optimizer_states"][0]["param_groups"]
        rates = [group["lr"] for group in groups] * 3
    assert rates == pytest.approx(expected)
    assert f"scheduler.name was {before}, is {after}" in log


def length(devices=1, batch_size=2, samples=12, accumulate=1) -> ResumedLength:
    """The callback of a run with these numbers, as it is before a checkpoint is loaded."""
    data = SimpleNamespace(train=range(samples), batch_size=batch_size)
    callback = ResumedLength()
    trainer = SimpleNamespace(
        datamodule=data, world_size=devices, accumulate_grad_batches=accumulate, max_epochs=3, max_steps=-1
    )
    callback.setup(trainer, None, "fit")
    return callback


def loaded(now: ResumedLength, before: ResumedLength | None, loader: dict | None = None) -> Position:
    """Where a run goes on that was interrupted behind the fourth batch of its second epoch of six."""
    counters = loops((2, 2, 1, 1), ((10, 10, 10, 9), (4, 4, 4, 3)), (10, 4))
    states = {before.state_key: before.state_dict()} if before else {}
    checkpoint = {"callbacks": states, "loops": {"fit_loop": counters | {"combined_loader": [loader or {}]}}}
    now.on_load_checkpoint(None, SimpleNamespace(meta={}), checkpoint)
    return read_position(checkpoint["loops"]["fit_loop"])


IN_THE_MIDDLE, ANEW = Position(1, 4, 10, 10, 4), Position(1, 0, 10, 10, 0)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"devices": 2}, "devices was 1, is 2"),
        ({"devices": 2, "batch_size": 1}, "batch_size was 2, is 1, devices was 1, is 2"),
        ({"accumulate": 2}, "accumulate_grad_batches was 1, is 2"),
        ({"samples": 10}, "samples was 12, is 10"),
    ],
)
def test_what_an_epochs_steps_are_made_of_begins_it_anew(caplog, changed, told):
    assert loaded(length(**changed), length()) == ANEW
    assert f"inside epoch 2, behind 4 of its batches, and these are others now ({told})" in caplog.text


def test_more_epochs_do_not_begin_one_anew(caplog):
    more = length()
    more._now["max_epochs"] = 9
    assert loaded(more, length()) == IN_THE_MIDDLE
    assert caplog.messages == []


def test_checkpoint_of_an_older_version_tells_by_its_loader(caplog):
    loader = {"samples": 12, "seed": 1, "world_size": 1, "batch_size": 2}
    assert loaded(length(), None, loader) == IN_THE_MIDDLE
    assert loaded(length(devices=2), None, loader) == ANEW
    assert "devices was 1, is 2" in caplog.text
