"""The simulated NPUs do what they claim: checks.py holds the checks, which run on them in a few processes."""

import importlib.metadata
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.npu.simulation import checks
from tests.npu.simulation.build import Unavailable, build

ROOT = Path(__file__).parents[3]
CHECKS = Path(checks.__file__)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def names(prefix):
    return [name for name in vars(checks) if name.startswith(prefix)]


@pytest.fixture(scope="module")
def alone(simulation, tmp_path_factory):
    results = tmp_path_factory.mktemp("alone") / "results.json"
    done = subprocess.run(
        [simulation.python, CHECKS, "single", results], env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(results.read_text())


@pytest.mark.parametrize("name", names("check_"))
def test_one_device(alone, name):
    assert not alone[name], alone[name]


@pytest.fixture(scope="module")
def start(simulation, tmp_path_factory):
    """Starts a group of processes; returns them and their results' paths."""
    started = []

    def start(ranks):
        folder = tmp_path_factory.mktemp("group")
        results = [folder / f"results_{rank}.json" for rank in range(ranks)]
        common = {**ENVIRONMENT, "WORLD_SIZE": str(ranks), "STORE": str(folder / "store")}
        processes = [
            subprocess.Popen(
                [simulation.python, CHECKS, "group", result],
                env={**common, "RANK": str(rank)}, stderr=(folder / f"errors_{rank}").open("w"),
            )
            for rank, result in enumerate(results)
        ]  # fmt: skip
        started.extend(processes)
        return processes, results

    yield start
    for process in started:
        process.kill()


@pytest.fixture(scope="module")
def pair(start):
    """Results of two processes, and how the first ended after the second had died without a word."""
    before = leftovers()
    processes, results = start(2)
    assert processes[1].wait(300) == 3
    while processes[0].poll() is None and not results[0].exists():
        time.sleep(0.1)
    time.sleep(0.5)
    waited = processes[0].poll() is None
    processes[0].terminate()
    return outcomes(results), waited, processes[0].wait(30), leftovers() - before


@pytest.fixture(scope="module")
def four(start):
    processes, results = start(4)
    assert [process.wait(300) for process in processes] == [0] * 4
    return outcomes(results)


def leftovers():
    return set(Path("/dev/shm").glob("simulated_hccl_*"))  # noqa: S108


def outcomes(results):
    return [json.loads(result.read_text()) for result in results]


@pytest.mark.parametrize("name", names("group_"))
def test_two_processes(pair, name):
    for rank, outcome in enumerate(pair[0]):
        assert not outcome[name], f"rank {rank}: {outcome[name]}"


@pytest.mark.parametrize("name", names("group_"))
def test_four_processes(four, name):
    for rank, outcome in enumerate(four):
        assert not outcome[name], f"rank {rank}: {outcome[name]}"


def test_rank_waits_for_a_dead_one_and_can_be_ended(pair):
    _, waited, status, remains = pair
    assert waited  # as on real NPUs
    assert status == -signal.SIGTERM
    assert not remains


@pytest.mark.parametrize(
    ("environment", "code", "expected"),
    [
        ({"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}, "import sys, torch; print('torch_npu' in sys.modules)", ["False"]),
        (
            {"ASCEND_RT_VISIBLE_DEVICES": "2,5,9"},
            "import torch_npu, torch; print(torch.ones(1).npu().add(1).item(), torch.npu.device_count())",
            ["2.0", "2"],
        ),
        ({"SIMULATED_NPUS": "0"}, "import torch; print(torch.npu.is_available())", ["False"]),
    ],
    ids=["off", "torch_npu imported first, two devices visible", "no device"],
)
def test_environment(simulation, environment, code, expected):
    done = subprocess.run(
        [simulation.python, "-c", code], env={**ENVIRONMENT, **environment}, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == expected, done.stderr


def test_second_build_makes_nothing(simulation, monkeypatch):
    def run(command, **_):
        raise AssertionError(f"{command} was started")

    monkeypatch.setattr(subprocess, "run", run)
    assert build(simulation.folder) == simulation


def test_other_torch_is_refused_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.12.1")
    with pytest.raises(Unavailable, match=r"torch-npu 2\.13\.0 is made for torch 2\.13\.\*, here is 2\.12\.1|need"):
        build(tmp_path)
