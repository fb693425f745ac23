"""The scripts as a user starts them, on the simulated NPUs: many devices, sweeps, dying ranks, missing parts."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import SMALL

ROOT = Path(__file__).parents[2]
COMMON = (*(word for word in SMALL if not word.startswith(("trainer=", "trainer.batch_size", "optim.lr"))),)
TINY = ("trainer.batch_size=1", "callbacks.pictures=0", "trainer.log_every_n_steps=1")


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> tuple[str, ...]:
    """Overrides for eight cards: two steps of eight scenes an epoch, and one validation image per card."""
    root = tmp_path_factory.mktemp("npu") / "scenes"
    return ("data.street.train=16", "data.street.val=8", f"data.root={root}", "trainer.max_epochs=1")


def results(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


def losses(run: Path) -> list[float]:
    rows = csv.DictReader((run / "csv" / "metrics.csv").open())
    return [float(row["train/loss"]) for row in rows if row.get("train/loss")]


@pytest.fixture(scope="session")
def eight(simulation, scenes, tmp_path_factory) -> Path:
    """The run folder of ``python train.py trainer=npu_8p optim.lr=0.1``, on small images."""
    run = tmp_path_factory.mktemp("eight") / "run"
    done = subprocess.run(
        [
            simulation.python, ROOT / "train.py", "trainer=npu_8p", "optim.lr=0.1", *COMMON, *TINY, *scenes,
            f"hydra.run.dir={run}",
        ],
        capture_output=True, text=True, check=False, timeout=900, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
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
    assert "TASK_QUEUE_ENABLE" not in os.environ  # what is set is set in the run's own processes


def test_sweep_over_several_npus_runs_each_value_in_turn(on_npu, scenes, tmp_path):
    sweep = tmp_path / "sweep"
    words = ("trainer=npu_8p", "trainer.devices=2", "trainer.max_steps=2", "optim.lr=0.08,0.1")
    done = on_npu("train", "-m", *words, *COMMON, *TINY, *scenes, f"hydra.sweep.dir={sweep}")
    assert done.status == 0, done.err
    found = [results(sweep / str(number)) for number in range(2)]
    assert [run["config"]["optim"]["lr"] for run in found] == [0.08, 0.1]
    assert [run["devices"] for run in found] == [2, 2]
    assert found[0]["train_loss"] != found[1]["train_loss"]
    assert "2 runs on street (synthetic)" in done.out


def test_row_of_the_published_table_trains_whole(on_npu, scenes, tmp_path):
    # On two of its eight cards: float16 is slow in the simulation, and each card is a process.
    row = ("experiment=full", "hparams=npu_lr0.1_s32_o1", "trainer.batch_size=1", "callbacks.pictures=0")
    fewer = ("trainer.devices=2", "data.street.train=4", "data.street.val=2", f"data.root={tmp_path / 'scenes'}")
    done = on_npu("train", *row, *COMMON, *scenes, *fewer, f"hydra.run.dir={tmp_path}")
    assert done.status == 0, done.err
    found = results(tmp_path)
    assert (found["status"], found["devices"], found["steps"]) == ("done", 2, 2)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert {group["initial_lr"] for group in saved["optimizer_states"][0]["param_groups"]} == {0.1}
    assert (saved["amp"]["opt_level"], saved["amp"]["loss_scale"]) == ("O1", 32)
    told = dict(line.split(" = ") for line in (tmp_path / "ICNet_bs2_2p_acc.log").read_text().splitlines())
    assert (told["RankSize"], told["BatchSize"]) == ("2", "2")
    assert told["TrainAccuracy"] == f"{100 * found['history'][-1]['miou_running_mean']:.2f}"
    assert "68.1" in (tmp_path / "report.html").read_text()  # the published figure of this row


def test_evaluation_on_three_npus_counts_each_image_once(eight, on_npu, script, tmp_path, count_alike):
    ckpt = f"ckpt={eight / 'checkpoints' / 'last.ckpt'}"
    common = ("trainer.progress_bar=false", "save_pictures=true")
    three = ("trainer=npu_8p", "trainer.devices=3")  # which share eight images unevenly
    done = on_npu("eval", *three, ckpt, *common, f"hydra.run.dir={tmp_path / 'npu'}")
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


def test_two_npus_train_as_two_cpu_processes_do(on_npu, process, scenes, tmp_path):
    # Two steps from equal weights, no more: what rounds otherwise drifts apart, on some CPUs faster than on others.
    # Nor BatchNorm over a single image, which would divide by rounding.
    steps = (
        "callbacks.pictures=0", "trainer.log_every_n_steps=1", "optim.lr=0.01", "scheduler=constant", *scenes,
        "trainer.batch_size=2", "trainer.max_steps=2", "trainer.limit_val_batches=0", "data.crop_size=[128,128]",
        "data.scale_range=[128,192]", "callbacks.checkpoint_every_n_steps=1",
    )  # fmt: skip
    picked = ("trainer=npu_8p", "trainer.devices=[1,3]")
    npu = on_npu("train", *picked, *COMMON, *steps, f"hydra.run.dir={tmp_path / 'npu'}")
    assert npu.status == 0, npu.err
    cpu = process("train", "trainer=cpu_2p", *COMMON, *steps, f"hydra.run.dir={tmp_path / 'cpu'}")
    assert cpu.status == 0, cpu.err
    ours, theirs = losses(tmp_path / "npu"), losses(tmp_path / "cpu")
    assert len(ours) == 2
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert ours[1] == pytest.approx(theirs[1], rel=1e-3)
    assert theirs[1] != pytest.approx(theirs[0], rel=1e-2)  # the step counts for far more than the tolerance
    assert sorted(path.name for path in (tmp_path / "npu").glob("train_*.log")) == ["train_1.log", "train_3.log"]


def test_killed_rank_is_named_and_a_restart_finishes_the_run(simulation, scenes, tmp_path):
    run = tmp_path / "run"
    overrides = (
        "trainer=npu_8p", "trainer.devices=2", "trainer.max_restarts=1", "amp=o2", "amp.loss_scale=32",
        "trainer.sync_batchnorm=true", *COMMON, *TINY,
        *scenes, "trainer.max_epochs=2", "trainer.limit_train_batches=4", f"hydra.run.dir={run}",
    )  # fmt: skip
    process = subprocess.Popen(
        [simulation.python, ROOT / "train.py", *overrides], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    last = run / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 300
    while not last.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (pid,) = re.findall(r"rank 1 of 2 is process (\d+)", (run / "train_1.log").read_text())
    os.kill(int(pid), signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "SIGKILL" in errors + (run / "train_0.log").read_text()
    found = results(run)
    assert (found["status"], found["epochs"], found["steps"]) == ("done", 2, 8)


def one_epoch(scenes: tuple[str, ...], run: Path) -> tuple[str, ...]:
    return (*COMMON, *TINY, *scenes, "trainer.max_steps=1", f"hydra.run.dir={run}")


def test_missing_wheel_is_said(process, scenes, tmp_path):
    done = process("train", "trainer=npu_1p", *one_epoch(scenes, tmp_path))
    assert done.status == 2
    assert "torch_npu is not installed" in done.error
    assert "pip install torch_npu==2." in done.error
    assert "trainer=cpu_1p" in done.error


def test_missing_cann_is_said(on_npu, scenes, tmp_path):
    done = on_npu("train", "trainer=npu_1p", *one_epoch(scenes, tmp_path), bare=True)
    assert done.status == 2
    assert "does not find CANN (libhccl.so" in done.error
    assert "set_env.sh" in done.error


def test_wrong_home_of_cann_is_said(on_npu, simulation, scenes, tmp_path):
    wrong = {"LD_LIBRARY_PATH": str(simulation.folder / "lib"), "ASCEND_HOME_PATH": "/nowhere"}
    done = on_npu("train", "trainer=npu_1p", *one_epoch(scenes, tmp_path), bare=True, **wrong)
    assert done.status == 2
    assert "ASCEND_HOME_PATH=/nowhere holds no CANN" in done.error


def test_no_device_is_said(on_npu, scenes, tmp_path):
    done = on_npu("train", "trainer=npu_1p", *one_epoch(scenes, tmp_path), SIMULATED_NPUS="0")
    assert done.status == 2
    assert "torch_npu finds no NPU" in done.error
    assert "npu-smi" in done.error


@pytest.mark.parametrize("state", [{"bare": True}, {"SIMULATED_NPUS": "0"}], ids=["no CANN", "no device"])
def test_machine_with_the_wheel_alone_trains_on_its_cpu(on_npu, scenes, tmp_path, state):
    run = tmp_path / "run"
    done = on_npu("train", "trainer=auto", *one_epoch(scenes, run), "data.workers=1", "optim.lr=0.01", **state)
    assert done.status == 0, done.err
    assert results(run)["device"].startswith("CPU")


def test_environment_defaults_keep_what_the_user_has_set():
    from icnet.npu.runtime import HELPFUL_DEFAULTS, set_helpful_defaults

    environment = {"TASK_QUEUE_ENABLE": "1", "OTHER": "x"}
    done = set_helpful_defaults(environment)
    assert environment["TASK_QUEUE_ENABLE"] == "1"
    assert "TASK_QUEUE_ENABLE" not in done
    assert (
        environment["HCCL_CONNECT_TIMEOUT"] == done["HCCL_CONNECT_TIMEOUT"] == HELPFUL_DEFAULTS["HCCL_CONNECT_TIMEOUT"]
    )
    assert set_helpful_defaults(environment) == {}


def test_task_queue_is_left_alone_where_launches_block():
    from icnet.npu.runtime import set_helpful_defaults

    assert "TASK_QUEUE_ENABLE" not in set_helpful_defaults({"ASCEND_LAUNCH_BLOCKING": "1"})


@pytest.mark.slow
def test_plugin_works_lifted_out_under_another_name(tmp_path):
    shutil.copytree(ROOT / "icnet" / "npu", tmp_path / "lifted")
    code = "import sys, lifted; lifted.register(); print([name for name in sys.modules if name.startswith('icnet')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
