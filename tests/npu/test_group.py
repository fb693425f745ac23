"""The strategy in a group of two simulated NPUs: each trap of Lightning's own DDP that it closes."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ranks(simulation, tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("group")
    torchrun = (simulation.python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [*torchrun, ROOT / "tests" / "npu" / "inside" / "group_of_two.py", folder],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HCCL_EXEC_TIMEOUT": "3600"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_means_of_integers_and_floats(ranks):
    for rank, found in enumerate(ranks):
        assert found["mean"] == found["mean_in_place"] == 1.5
        assert found["mean_of_integers"] == 1.5
        assert found["integers_afterwards"] == rank + 1
        assert found["sum"] == 3
        assert found["count"] == 3.5  # logged with sync_dist=True


def test_barrier_names_the_device_of_its_rank(ranks):
    assert [found["barrier"] for found in ranks] == [[0], [1]]


def test_random_numbers_of_each_rank_go_on(ranks):
    assert all(found["states_differ"] for found in ranks)
    assert ranks[0]["drawn"] != ranks[1]["drawn"]
    for found in ranks:
        assert found["drawn_again"] == found["drawn"]


def test_group_is_left_in_the_end(ranks):
    assert all(found["left"] for found in ranks)


def test_watchdog_waits_longer_than_hccl(ranks):
    assert all(found["timeout"] > 3600 for found in ranks)
