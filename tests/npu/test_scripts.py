"""The scripts as a user starts them, on the simulated NPUs and on machines where a part of them is missing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.npu.conftest import COMMON, TINY

ROOT = Path(__file__).parents[2]


def results(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


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
    assert "TASK_QUEUE_ENABLE" not in os.environ  # what is set is set in the run's own processes


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
