"""What several tests of launching share."""

import pytest


@pytest.fixture
def slurm_step(monkeypatch) -> None:
    """The environment of the fourth of four tasks that srun started on two nodes."""
    step = {
        "STEP_NUM_TASKS": 4, "PROCID": 3, "LOCALID": 1, "NODEID": 1, "STEP_NUM_NODES": 2, "JOB_ID": 77, "STEP_ID": 5,
    }  # fmt: skip
    for key, value in step.items():
        monkeypatch.setenv(f"SLURM_{key}", str(value))
