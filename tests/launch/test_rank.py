"""A process's rank in a group that somebody else started, and a configuration that fits the group."""

import dataclasses

import pytest

from icnet.config import TrainerConfig
from icnet.errors import UserError
from icnet.launch import rank
from icnet.launch.rank import ProcessRank

OF_FOUR = ProcessRank(local_world_size=2, world_size=4)  # on two nodes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"devices": 4}, "trainer.devices=4, but this process was started in a group of 2 processes on each node"),
        ({"num_nodes": 3}, "trainer.num_nodes=3, but this process was started in a group of 2 nodes"),
        ({"devices": [0, 1, 2]}, r"trainer.devices=\[0, 1, 2\], but"),
    ],
)
def test_configuration_that_contradicts_the_group_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        rank.fit_trainer(TrainerConfig(**given), OF_FOUR, [])


def test_group_of_unequal_nodes_is_refused():
    with pytest.raises(UserError, match="this group has 3 processes, not as many on each node"):
        rank.fit_trainer(TrainerConfig(), ProcessRank(local_world_size=2, world_size=3), [])


def test_configuration_takes_its_numbers_from_the_group():
    trainer = TrainerConfig(max_epochs=3)
    before = dataclasses.asdict(trainer)
    fitted = rank.fit_trainer(trainer, OF_FOUR, ["optim.lr=0.1"])
    assert fitted == dataclasses.replace(trainer, devices=2, num_nodes=2)
    assert dataclasses.asdict(trainer) == before
    assert rank.fit_trainer(TrainerConfig(devices=[2, 3], num_nodes=2), OF_FOUR, []).devices == [2, 3]
    with pytest.raises(UserError, match="trainer.devices=1"):
        rank.fit_trainer(TrainerConfig(), OF_FOUR, ["trainer.devices=1"])


def test_rank_of_torchrun_is_read(monkeypatch):
    assert rank.from_environment() is None
    place = {"RANK": 5, "LOCAL_RANK": 1, "GROUP_RANK": 2, "LOCAL_WORLD_SIZE": 2, "WORLD_SIZE": 6}
    for key, value in {**place, "TORCHELASTIC_RUN_ID": "mine"}.items():
        monkeypatch.setenv(key, str(value))
    assert rank.from_environment() == ProcessRank(5, 1, 2, 2, 6)


def test_slurm_step_of_several_tasks_is_joined(slurm_step, monkeypatch):
    assert rank.from_environment() == ProcessRank(rank=3, local_rank=1, node=1, local_world_size=2, world_size=4)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert rank.from_environment() is None  # it starts its own processes
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert rank.from_environment() is None  # a batch script is no step, and nobody waits for it
