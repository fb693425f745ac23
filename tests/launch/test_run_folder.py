"""One folder for all processes of a run, and the note of a job that failed."""

from pathlib import Path

import pytest

from icnet.errors import UserError
from icnet.launch import run_folder
from icnet.launch.logs import log_path
from icnet.launch.rank import ProcessRank
from icnet.launch.run_folder import SharedRunFolder


@pytest.mark.usefixtures("slurm_step")
def test_folder_of_a_slurm_step_is_named_after_it():
    fourth = ProcessRank(rank=3, local_rank=1, node=1, local_world_size=2, world_size=4)
    expected = ["hydra.output_subdir=null", "hydra.run.dir=outputs/slurm_77_5"]
    assert SharedRunFolder(fourth, []).overrides == expected
    assert SharedRunFolder(ProcessRank(), ["hydra.run.dir=mine"]).overrides == []
    assert run_folder.shared_run_folder([]).overrides == expected


def test_log_is_named_after_device_and_node():
    assert log_path(Path("run"), "train", 2, ProcessRank(local_rank=1)) == Path("run/train_1.log")
    assert log_path(Path("run"), "train", [2, 3], ProcessRank(local_rank=1, node=1)) == Path("run/train_node1_3.log")


def test_torchrun_without_a_store_needs_a_folder(monkeypatch):
    for key in ("TORCHELASTIC_RUN_ID", "RANK", "LOCAL_RANK", "GROUP_RANK"):
        monkeypatch.setenv(key, "0")
    for key in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.setenv(key, "2")
    with pytest.raises(UserError, match="^torchrun keeps no store here .*; give hydra.run.dir=PATH$"):
        run_folder.shared_run_folder([])
    assert run_folder.shared_run_folder(["hydra.run.dir=mine"]).overrides == []


def test_process_that_is_alone_agrees_with_nobody():
    assert run_folder.shared_run_folder(["-m"]) is None


def test_worst_status_of_failed_jobs_is_known_until_they_are_cleared(tmp_path):
    for name, status in (("0", 2), ("1", 1), ("2", 2)):
        (tmp_path / name).mkdir()
        run_folder.write_failure(tmp_path / name, status, "a line")
    (tmp_path / "3").mkdir()
    assert (tmp_path / "1" / "error.txt").read_text() == "died: a line\n"
    assert sorted(run_folder.failure_statuses(tmp_path)) == [1, 2]
    run_folder.write_failure(tmp_path / "nowhere", 1, "a disk that is full must not hide the error")
    run_folder.clear_failures(tmp_path)
    assert run_folder.failure_statuses(tmp_path) == []
