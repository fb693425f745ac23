"""Processes: started, joined, watched, stopped and started again."""

import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hydra.types import RunMode

from icnet.config import EvalConfig, TrainerConfig
from icnet.launch import processes
from icnet.launch.rank import RankDied
from icnet.models.weight_files import load_file
from tests.scripts import ScriptProcess

ROOT = Path(__file__).parents[2]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}  # sums are then the same however it is started
TERMINATED = 128 + signal.SIGTERM  # the shell's convention

pytestmark = pytest.mark.slow


@pytest.fixture
def overrides(small) -> tuple[str, ...]:
    """Overrides of a run of three epochs of three steps in two processes."""
    more = ("trainer.batch_size=1", "trainer.max_epochs=3", "callbacks.pictures=0")
    return (*(word for word in small if word != "trainer=cpu_1p"), *more)


def start(*command: object, **options: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        **{"env": ONE_THREAD, **options},
    )  # fmt: skip


def train(*overrides: object, **options: object) -> ScriptProcess:
    return ScriptProcess("train", *overrides, env=ONE_THREAD, **options)


def ended(process: subprocess.Popen | ScriptProcess, status: int = 0) -> tuple[str, str]:
    """Wait for a process; returns what it wrote."""
    out, err = process.communicate(timeout=200)
    assert process.returncode == status, err
    assert "Traceback" not in err
    return out, err


def wait_for(text: str, path: Path, process: ScriptProcess) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() or text not in path.read_text():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def process_of(rank: int, run: Path) -> int:
    """The process id of a rank, from its log."""
    return int(re.findall(r"rank \d of 2 is process (\d+)", (run / f"train_{rank}.log").read_text())[-1])


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = (load_file(run / "checkpoints" / "last.ckpt")["state_dict"] for run in (one, other))
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


@pytest.fixture
def undisturbed(overrides, tmp_path_factory) -> Path:
    """The run folder of two processes that nothing happened to; made once."""
    run = tmp_path_factory.getbasetemp() / "undisturbed"
    if not run.exists():
        ended(train(*overrides, "trainer=cpu_2p", f"hydra.run.dir={run}"))
    return run


def test_sweep_runs_each_job_in_two_processes_with_its_own_values(overrides, tmp_path):
    sweep = tmp_path / "sweep"
    out, _ = ended(
        train(
            "-m",
            *overrides,
            "trainer=cpu_2p",
            "trainer.max_epochs=1",
            "optim.lr=0.08,0.1,0.11",
            f"hydra.sweep.dir={sweep}",
        )
    )
    results = [json.loads((sweep / str(number) / "results.json").read_text()) for number in range(3)]
    assert [result["config"]["optim"]["lr"] for result in results] == [0.08, 0.1, 0.11]
    assert {(result["devices"], result["steps"]) for result in results} == {(2, 3)}
    assert len({result["final_miou"] for result in results}) > 1
    assert "3 runs on street (synthetic)" in out
    logs = [(sweep / "1" / f"train_{rank}.log").read_text() for rank in (0, 1)]
    assert [log.count("epoch 1/1 on street (synthetic)") for log in logs] == [1, 1]
    assert out.count("epoch 1/1 on street (synthetic)") == 3  # rank 0's of each job; rank 1 is not on the terminal
    assert sorted(path.name for path in (sweep / "1").glob("*.log")) == ["train_0.log", "train_1.log"]


def test_killed_rank_is_named_and_the_group_goes_on_to_undisturbed_weights(overrides, undisturbed, tmp_path):
    process = train(*overrides, "trainer=cpu_2p", "trainer.max_restarts=1", f"hydra.run.dir={tmp_path}")
    wait_for("epoch 1/3", tmp_path / "train_0.log", process)
    last = tmp_path / "checkpoints" / "last.ckpt"
    while not last.exists():
        time.sleep(0.02)
    os.kill(process_of(1, tmp_path), signal.SIGKILL)
    ended(process)
    log = (tmp_path / "train_0.log").read_text()
    assert f"rank 1 (device 1) was killed by SIGKILL; its log is {tmp_path / 'train_1.log'}; starting again" in log
    assert "going on from" in log  # not from the beginning
    assert (tmp_path / "train_1.log").read_text().count("rank 1 of 2 is process") == 2  # appended
    assert_same_weights(undisturbed, tmp_path)


def test_terminated_group_saves_in_mid_epoch_and_goes_on_from_there(overrides, undisturbed, tmp_path):
    process = train(*overrides, "trainer=cpu_2p", f"hydra.run.dir={tmp_path}")
    wait_for("training icnet", tmp_path / "train_1.log", process)
    process.send_signal(signal.SIGTERM)
    _, err = ended(process, TERMINATED)
    assert "error" not in err
    assert "elastic" not in err
    assert load_file(tmp_path / "checkpoints" / "last.ckpt")["global_step"] in {1, 2}
    ended(train(*overrides, "trainer=cpu_2p", f"hydra.run.dir={tmp_path}", "resume=auto"))
    assert_same_weights(undisturbed, tmp_path)


def test_group_started_by_nohup_outlives_its_terminal(overrides, tmp_path):
    words = (*overrides, "trainer=cpu_2p", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}")
    process = train(*words, ignored=(signal.SIGHUP,))
    wait_for("rank 1 of 2", tmp_path / "train_1.log", process)
    process.send_signal(signal.SIGHUP)
    ended(process)


def test_ranks_of_torchrun_share_one_folder_and_train_like_ours(overrides, undisturbed, tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    ended(start(*torchrun, ROOT / "train.py", *overrides, "trainer=cpu_1p", cwd=tmp_path))
    (results,) = tmp_path.glob("outputs/*/*/results.json")
    run = results.parent
    assert list(tmp_path.glob("outputs/*/*")) == [run]
    assert json.loads(results.read_text())["devices"] == 2
    assert sorted(path.name for path in run.glob("*.log")) == ["train_0.log", "train_1.log"]
    assert "epoch 3/3" in (run / "train_1.log").read_text()
    assert_same_weights(undisturbed, run)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return taken.getsockname()[1]


def test_two_nodes_train_like_two_processes_of_one(overrides, undisturbed, tmp_path):
    nodes = ("trainer.num_nodes=2", f"trainer.rdzv_endpoint=localhost:{free_port()}", f"hydra.run.dir={tmp_path}")
    for process in [train(*overrides, "trainer=cpu_1p", *nodes) for _ in range(2)]:
        ended(process)
    assert sorted(path.name for path in tmp_path.glob("*.log")) == ["train_0.log", "train_node1_0.log"]
    assert json.loads((tmp_path / "results.json").read_text())["steps"] == 9
    assert_same_weights(undisturbed, tmp_path)


@pytest.mark.skipif(find_spec("hydra_plugins.hydra_joblib_launcher") is None, reason="needs hydra-joblib-launcher")
def test_job_that_fails_in_another_process_fails_the_sweep(overrides, tmp_path):
    # One process each: that a rank's failure becomes its job's is shown below, by jobs that do nothing else.
    command = ("-m", *overrides, "trainer=cpu_1p", "trainer.max_epochs=1", f"hydra.sweep.dir={tmp_path}")
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    out, err = ended(train(*command, *parallel, "trainer.batch_size=1,7"), 2)
    line = "has 6 samples but one step takes 7"
    assert (tmp_path / "1" / "error.txt").read_text().startswith("failed: ")
    assert [text for text in err.splitlines() if line in text][0].startswith("error: job 1: ")
    table = out[out.index("2 runs on street (synthetic)") :]
    rows = [text.split() for text in table.splitlines() if text[1:3] in {"0 ", "1 "}]
    assert [(row[0], row[-1]) for row in rows] == [("0", "done"), ("1", "failed")]
    assert line in table.splitlines()[-1]


@pytest.fixture
def config(tmp_path, monkeypatch) -> EvalConfig:
    """Enough of a configuration to start two processes that train nothing."""
    about = SimpleNamespace(mode=RunMode.RUN, job=SimpleNamespace(name="train"), overrides=SimpleNamespace(hydra=[]))
    monkeypatch.setattr(processes.HydraConfig, "get", lambda: about)
    return EvalConfig(trainer=TrainerConfig(devices=[2, 3]), output_dir=str(tmp_path))


BROKEN = """
import os, signal, subprocess, time

def wait_in_vain():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as one that waits for its device
    time.sleep(100)

def break_rank_0(config):
    subprocess.run(["echo", "from outside Python"])
    if os.environ["RANK"] == "0":
        raise ValueError("broken on purpose")
    wait_in_vain()

def leave_rank_1(config):
    if os.environ["RANK"] == "1":
        os._exit(0)
    wait_in_vain()
"""


@pytest.fixture
def broken(tmp_path, monkeypatch) -> ModuleType:
    """Functions that another process can import."""
    (tmp_path / "broken_ranks.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_ranks", raising=False)
    return importlib.import_module("broken_ranks")


def test_exception_ends_the_group_and_stands_in_its_log(config, broken, tmp_path, capfd):
    start = time.monotonic()
    with pytest.raises(RankDied, match=r"rank 0 \(device 2\) ended with exit status 1") as died:
        processes.run(broken.break_rank_0, config, 2)
    assert time.monotonic() - start < 40
    assert str(died.value).endswith(f"(ValueError: broken on purpose); its log is {tmp_path / 'train_2.log'}")
    log = (tmp_path / "train_2.log").read_text()
    assert "Traceback" in log
    assert "in break_rank_0" in log
    terminal = "".join(capfd.readouterr())
    assert terminal.count("from outside Python") == 1  # rank 0's
    assert "from outside Python" in (tmp_path / "train_3.log").read_text()
    assert "Traceback" not in terminal


def test_rank_that_leaves_early_without_an_error_ends_the_group(config, broken):
    with pytest.raises(RankDied, match=r"rank 1 \(device 3\) ended with exit status 0; its log is .*train_3.log"):
        processes.run(broken.leave_rank_1, config, 2)


@pytest.mark.parametrize(
    ("more", "overrides"),
    [
        (["trainer.num_nodes=2"], "needs trainer.rdzv_endpoint=HOST:PORT"),
        (["trainer.num_nodes=2", "trainer.rdzv_endpoint=localhost:1"], "needs hydra.run.dir=PATH"),
    ],
)
def test_several_nodes_need_a_meeting_place_and_one_folder(script, small, tmp_path, monkeypatch, more, overrides):
    monkeypatch.chdir(tmp_path)
    done = script("train", *small, *more)
    assert done.status == 2
    assert overrides in done.error


def test_sweep_inside_a_group_is_refused(script, small, monkeypatch):
    for key in ("RUN_ID", "RANK", "LOCAL_RANK", "GROUP_RANK"):
        monkeypatch.setenv(f"TORCHELASTIC_{key}" if key == "RUN_ID" else key, "0")
    for key in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.setenv(key, "2")
    done = script("train", "-m", *small, "optim.lr=0.1,0.2")
    assert done.status == 2
    assert "-m in a group of torchrun or srun" in done.error
