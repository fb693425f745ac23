"""Groups of simulated NPUs: eight that train together, sweeps, ranks that die; run by tests/npu/test_inside.py."""

import csv
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.npu.conftest import COMMON, TINY
from tests.scripts import ScriptProcess


def results(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


def losses(run: Path) -> list[float]:
    rows = csv.DictReader((run / "csv" / "metrics.csv").open())
    return [float(row["train/loss"]) for row in rows if row.get("train/loss")]


@pytest.fixture(scope="session")
def eight(scenes, tmp_path_factory) -> Path:
    """The run folder of ``python train.py trainer=npu_8p optim.lr=0.1``, on small images."""
    run = tmp_path_factory.mktemp("eight") / "run"
    words = ("trainer=npu_8p", "optim.lr=0.1", *COMMON, *TINY, *scenes, f"hydra.run.dir={run}")
    process = ScriptProcess("train", *words)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return run


def test_eight_npus_train_one_network(eight):
    found = results(eight)
    assert found["devices"] == 8
    assert found["device"].startswith("Ascend910B")
    assert found["steps"] == 2
    assert found["config"]["optim"]["lr"] == 0.1
    assert found["status"] == "done"
    for device in range(8):
        assert (eight / f"train_{device}.log").is_file()


def test_sweep_over_several_npus_runs_each_value_in_turn(process, scenes, tmp_path):
    sweep = tmp_path / "sweep"
    words = ("trainer=npu_8p", "trainer.devices=2", "trainer.max_steps=2", "optim.lr=0.08,0.1")
    done = process("train", "-m", *words, *COMMON, *TINY, *scenes, f"hydra.sweep.dir={sweep}")
    assert done.status == 0, done.err
    found = [results(sweep / str(number)) for number in range(2)]
    assert [run["config"]["optim"]["lr"] for run in found] == [0.08, 0.1]
    assert [run["devices"] for run in found] == [2, 2]
    assert found[0]["train_loss"] != found[1]["train_loss"]
    assert "2 runs on street (synthetic)" in done.out


def test_evaluation_on_three_npus_counts_each_image_once(eight, process, script, tmp_path, count_alike):
    ckpt = f"ckpt={eight / 'checkpoints' / 'last.ckpt'}"
    common = ("trainer.progress_bar=false", "save_pictures=true")
    three = ("trainer=npu_8p", "trainer.devices=3")  # which share eight images unevenly
    done = process("eval", *three, ckpt, *common, f"hydra.run.dir={tmp_path / 'npu'}")
    assert done.status == 0, done.err
    alone = script("eval", "trainer=cpu_1p", ckpt, *common, f"hydra.run.dir={tmp_path / 'cpu'}")
    assert alone.status == 0, alone.err
    many, one = results(tmp_path / "npu"), results(tmp_path / "cpu")
    assert count_alike(many, one)
    assert count_alike(results(eight), one)  # the validation of the training
    assert len(list((tmp_path / "npu" / "pictures").glob("*.jpg"))) == 8
    ours, theirs = (
        json.loads((tmp_path / name / "pictures" / "extremes" / "extremes.json").read_text()) for name in ("npu", "cpu")
    )
    assert len(ours) == len(theirs) == 6
    assert sorted(ours.values()) == pytest.approx(sorted(theirs.values()), abs=0.02)  # of one image: a pixel counts


def test_two_npus_train_as_two_cpu_processes_do(process, scenes, tmp_path):
    # Two steps from equal weights, no more: what rounds otherwise drifts apart, on some CPUs faster than on others.
    # Nor BatchNorm over a single image, which would divide by rounding.
    steps = (
        "callbacks.pictures=0", "trainer.log_every_n_steps=1", "optim.lr=0.01", "scheduler=constant", *scenes,
        "trainer.batch_size=2", "trainer.max_steps=2", "trainer.limit_val_batches=0", "data.crop_size=[128,128]",
        "data.scale_range=[128,192]", "callbacks.checkpoint_every_n_steps=1",
    )  # fmt: skip
    picked = ("trainer=npu_8p", "trainer.devices=[1,3]")
    npu = process("train", *picked, *COMMON, *steps, f"hydra.run.dir={tmp_path / 'npu'}")
    assert npu.status == 0, npu.err
    cpu = process("train", "trainer=cpu_2p", *COMMON, *steps, f"hydra.run.dir={tmp_path / 'cpu'}")
    assert cpu.status == 0, cpu.err
    ours, theirs = losses(tmp_path / "npu"), losses(tmp_path / "cpu")
    assert len(ours) == 2
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert ours[1] == pytest.approx(theirs[1], rel=1e-3)
    assert theirs[1] != pytest.approx(theirs[0], rel=1e-2)  # the step counts for far more than the tolerance
    assert sorted(path.name for path in (tmp_path / "npu").glob("train_*.log")) == ["train_1.log", "train_3.log"]


def test_killed_rank_is_named_and_a_restart_finishes_the_run(scenes, tmp_path):
    run = tmp_path / "run"
    overrides = (
        "trainer=npu_8p", "trainer.devices=2", "trainer.max_restarts=1", "amp=o2", "amp.loss_scale=32",
        "trainer.sync_batchnorm=true", *COMMON, *TINY,
        *scenes, "trainer.max_epochs=2", "trainer.limit_train_batches=4", f"hydra.run.dir={run}",
    )  # fmt: skip
    process = ScriptProcess("train", *overrides)
    last = run / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 300
    while not last.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (pid,) = re.findall(r"rank 1 of 2 is process (\d+)", (run / "train_1.log").read_text())
    os.kill(int(pid), signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "SIGKILL" in errors + (run / "train_0.log").read_text()
    found = results(run)
    assert (found["status"], found["epochs"], found["steps"]) == ("done", 2, 8)
