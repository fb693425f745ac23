"""Run folders written by hand, as in tests/report, and a configuration as train.py composes it."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from icnet.config import TrainConfig
from tests.conftest import SMALL
from tests.report.conftest import evaluation, picture, run

__all__ = ["evaluation", "picture", "run", "small_config"]


@pytest.fixture
def small_config(tmp_path) -> TrainConfig:
    """The configuration of a small training in a folder of its own."""
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    with initialize_config_dir(str(Path(__file__).parents[2] / "conf"), version_base="1.3"):
        composed = compose("train", [*SMALL, "data.root=scenes", f"output_dir={tmp_path / 'run'}"])
    return OmegaConf.to_object(composed)
