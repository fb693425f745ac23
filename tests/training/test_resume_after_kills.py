"""Whatever a run goes through, it ends like an undisturbed one: same weights, same optimizer, same scores.

Six stories are drawn by a seed. ``RESUME_STORIES=200 pytest tests/training/test_resume_after_kills.py`` draws more,
``RESUME_SEED`` others.
"""

import json
import multiprocessing
import os
import random
import signal
from pathlib import Path

import pytest
import torch

from icnet.training.position import Position, read_position, write_position
from tests.training import lives

STORIES = int(os.environ.get("RESUME_STORIES", "6"))
SEED = int(os.environ.get("RESUME_SEED", "1"))
EPOCHS, SCENES = 3, 6
COMMON = (
    "data=street", f"data.street.train={SCENES}", "data.street.val=2", "data.street.height=64", "data.street.width=64",
    "data.crop_size=[64,64]", "data.scale_range=[64,96]", "data.workers=0", "model.name=small", "trainer=cpu_1p",
    "trainer.progress_bar=false", f"trainer.max_epochs={EPOCHS}", "trainer.log_every_n_steps=1", "optim.lr=0.01",
    "callbacks.pictures=0", "callbacks.extremes=0", "logger=csv",
)  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Run one life in a process that has everything imported already; returns its exit code."""
    scenes = tmp_path_factory.mktemp("lives") / "scenes"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.lives", "icnet.factory", "icnet.launch.command"])

    def run(overrides: tuple[str, ...], folder: Path, at: int | None = None, number: int = signal.SIGKILL) -> int:
        words = (*COMMON, f"data.root={scenes}", *overrides)
        process = context.Process(target=lives.live, args=(words, str(folder), at, int(number)))
        process.start()
        process.join(180)
        assert process.exitcode is not None, "the run hangs"
        return process.exitcode

    return run


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
    """Folder of the undisturbed run with these overrides, made once; and how many hooks it called."""
    done: dict[tuple[str, ...], Path] = {}

    def run(overrides: tuple[str, ...]) -> tuple[Path, int]:
        if overrides not in done:
            folder = tmp_path_factory.mktemp("undisturbed") / "run"
            assert start(overrides, folder) == 0, folder.with_suffix(".log").read_text()
            done[overrides] = folder
        return done[overrides], int((done[overrides] / "hooks.txt").read_text())

    return run


def draw(number: int) -> tuple[tuple[str, ...], random.Random]:
    """Draw a run: how it checkpoints, validates, accumulates, schedules, ends."""
    rng = random.Random(SEED * 100_003 + number)
    batch_size = rng.choice((1, 2))
    steps = SCENES // batch_size
    overrides = [
        f"trainer.batch_size={batch_size}",
        f"callbacks.checkpoint_every_n_steps={rng.choice((0, 1, 2, 2, 3, 4, 5))}",
        f"trainer.val_every_n_epochs={rng.choice((0, 1, 1, 2))}",
        f"trainer.accumulate_grad_batches={rng.choice((1, 1, 2, 4))}",
        f"scheduler={rng.choice(('cosine', 'poly'))}",
    ]
    if rng.random() < 0.3:
        overrides.append(f"trainer.max_steps={rng.randint(2, EPOCHS * steps)}")
    if rng.random() < 0.3:
        overrides.append("callbacks.ema_decay=0.9")
    if rng.random() < 0.3:
        overrides.append("callbacks.early_stop_patience=1")
    if rng.random() < 0.2:
        overrides.append("trainer.limit_train_batches=0.5")
    return tuple(overrides), rng


def state(folder: Path, name: str = "last.ckpt") -> dict:
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def assert_equal(one, other, where: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for i, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            assert_equal(mine, theirs, f"{where}[{i}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def assert_same_end(folder: Path, whole: Path) -> None:
    ours, theirs = state(folder), state(whole)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert_equal(ours[key], theirs[key], key)
    assert read_position(ours["loops"]["fit_loop"]) == read_position(theirs["loops"]["fit_loop"])
    results, expected = (json.loads((run / "results.json").read_text()) for run in (folder, whole))
    for key in ("status", "epochs", "steps", "history", "best_miou", "best_epoch", "confusion", "train_loss"):
        assert results[key] == expected[key], key
    if (whole / "checkpoints" / "best.ckpt").exists():
        assert_equal(state(folder, "best.ckpt")["state_dict"], state(whole, "best.ckpt")["state_dict"], "best")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(STORIES))
def test_run_with_kills_ends_like_an_undisturbed_one(start, undisturbed, tmp_path, number):
    overrides, rng = draw(number)
    whole, hooks = undisturbed(overrides)
    folder, story = tmp_path / "run", []
    for _ in range(rng.randint(1, 4)):
        at, killed_by = rng.randint(1, hooks), rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
        code = start((*overrides, "resume=here"), folder, at, killed_by)
        story.append((at, killed_by.name, code))
        log = folder.with_suffix(".log").read_text()
        # -SIGTERM: before the training has begun nobody heeds it.
        allowed = {0, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM}
        assert code in allowed, f"{overrides} {story}\n{log}"
    for _ in range(2):  # what is finished stays finished
        assert start((*overrides, "resume=here"), folder) == 0, folder.with_suffix(".log").read_text()
        try:
            assert_same_end(folder, whole)
        except AssertionError as error:
            raise AssertionError(f"{' '.join(overrides)}: {story} of {hooks} hooks: {error}") from error


@pytest.mark.slow
def test_every_hook_of_two_epochs_survives_a_kill(start, undisturbed, tmp_path):
    overrides = ("trainer.batch_size=2", "trainer.max_epochs=2", "callbacks.checkpoint_every_n_steps=3")
    whole, hooks = undisturbed(overrides)
    step = max(1, hooks // STORIES)
    for at in range(1, hooks + 1, step):  # all of them with many stories
        folder = tmp_path / str(at)
        start((*overrides, "resume=here"), folder, at)
        assert start((*overrides, "resume=here"), folder) == 0, folder.with_suffix(".log").read_text()
        assert_same_end(folder, whole)


def loops(epoch, batch, optimizer, is_last=False) -> dict:
    """Counters as Lightning has them at some hook: (ready, started, processed, completed), total and current alike."""
    names = ("ready", "started", "processed", "completed")

    def progress(total, current):
        return {"total": dict(zip(names, total, strict=True)), "current": dict(zip(names, current, strict=True))}

    step = {"total": {"ready": optimizer[0], "completed": optimizer[0]},
            "current": {"ready": optimizer[1], "completed": optimizer[1]}}  # fmt: skip
    return {
        "epoch_progress": progress(epoch, epoch),
        "epoch_loop.batch_progress": {**progress(*batch), "is_last_batch": is_last},
        "epoch_loop.scheduler_progress": step,
        "epoch_loop.automatic_optimization.optim_progress": {"optimizer": {"step": step, "zero_grad": step}},
        "epoch_loop.val_loop.batch_progress": {**progress((4, 4, 4, 4), (4, 4, 4, 4)), "is_last_batch": True},
        "epoch_loop.state_dict": {"_batches_that_stepped": 0},
        "combined_loader": [{}],
    }


SAVED = {
    "behind the fourth batch of the second epoch of six, inside on_train_batch_end": (
        loops((2, 2, 1, 1), ((10, 10, 10, 9), (4, 4, 4, 3)), (10, 4)), Position(1, 4, 10, 10, 4)
    ),
    "the same with two batches to a step": (
        loops((2, 2, 1, 1), ((10, 10, 10, 9), (4, 4, 4, 3)), (5, 2)), Position(1, 4, 10, 5, 2)
    ),
    "behind the last batch of the second epoch, before its validation: its end, as far as weights go": (
        loops((2, 2, 1, 1), ((12, 12, 12, 11), (6, 6, 6, 5)), (12, 6), True), Position(2, 0, 12, 12, 0)
    ),
    "at the end of the second epoch": (
        loops((2, 2, 2, 1), ((12, 12, 12, 12), (6, 6, 6, 6)), (12, 6), True), Position(2, 0, 12, 12, 0)
    ),
    "the third epoch has begun, its first batch is there and not trained": (
        loops((3, 3, 2, 2), ((13, 12, 12, 12), (1, 0, 0, 0)), (12, 0)), Position(2, 0, 12, 12, 0)
    ),
    "max_steps has ended the run inside its second epoch": (
        loops((2, 2, 2, 1), ((9, 9, 9, 9), (3, 3, 3, 3)), (9, 3)), Position(1, 3, 9, 9, 3)
    ),
}  # fmt: skip


@pytest.mark.parametrize(("saved", "expected"), SAVED.values(), ids=SAVED)
def test_position_is_read_from_any_hook_and_stays_when_written(saved, expected):
    assert read_position(saved) == expected
    written = write_position(saved, expected)
    assert read_position(written) == expected
    assert write_position(written, expected) == written
    assert ("combined_loader" in written) == bool(expected.batches)
    assert saved["epoch_loop.val_loop.batch_progress"]["total"]["ready"] == 4  # what was given is as it was
