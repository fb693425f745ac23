"""One folder for the processes that torchrun or SLURM started."""

import pytest

from icnet.errors import UserError
from icnet.launch.rank import ProcessRank
from icnet.launch.shared_folder import SharedRunFolder, shared_run_folder


@pytest.mark.usefixtures("slurm_step")
def test_folder_of_a_slurm_step_is_named_after_it():
    fourth = ProcessRank(rank=3, local_rank=1, node=1, local_world_size=2, world_size=4)
    expected = ["hydra.output_subdir=null", "hydra.run.dir=outputs/slurm_77_5"]
    assert SharedRunFolder(fourth, []).overrides == expected
    assert SharedRunFolder(ProcessRank(), ["hydra.run.dir=mine"]).overrides == []
    assert shared_run_folder([]).overrides == expected


def test_torchrun_without_a_store_needs_a_folder(monkeypatch):
    for key in ("TORCHELASTIC_RUN_ID", "RANK", "LOCAL_RANK", "GROUP_RANK"):
        monkeypatch.setenv(key, "0")
    for key in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.setenv(key, "2")
    with pytest.raises(UserError, match="^torchrun keeps no store here .*; give hydra.run.dir=PATH$"):
        shared_run_folder([])
    assert shared_run_folder(["hydra.run.dir=mine"]).overrides == []


def test_process_that_is_alone_agrees_with_nobody():
    assert shared_run_folder(["-m"]) is None
