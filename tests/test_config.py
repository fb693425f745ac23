"""Every option of every group composes to a configuration that builds."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from icnet import factory
from icnet.config import TrainConfig
from icnet.data.labels import CITYSCAPES_CLASSES
from icnet.errors import UserError
from icnet.models.icnet import ICNet

CONF = Path(__file__).parents[1] / "conf"
GROUPS = ("amp", "data", "experiment", "hparams", "logger", "loss", "model", "optim", "scheduler", "trainer")
OPTIONS = [
    (group, path.stem)
    for group in GROUPS
    for path in sorted((CONF / group).glob("*.yaml"))
    if path.stem != "checkpoint"  # eval.py's
]


def train_config(*overrides: str) -> TrainConfig:
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("train", [*overrides, "output_dir=outputs/test"])
    return OmegaConf.to_object(composed)


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda value: str(value))
def test_option_composes_and_builds(group, option, monkeypatch):
    if option == "optuna":  # whose own keys only its package knows
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs hydra-optuna-sweeper")
    config = train_config(f"{group}={option}")
    if config.logger.wandb or config.logger.mlflow:
        with pytest.raises(UserError, match="pip install"):
            factory.loggers(config)
    task = factory.task(config, CITYSCAPES_CLASSES)
    assert isinstance(task.net, ICNet)
    assert task.net.num_classes == 19
    assert set(task.criterion.weights) == {"sub124", "sub24", "sub4"}
    names = {type(callback).__name__ for callback in factory.callbacks(config, CITYSCAPES_CLASSES)}
    assert {"ModelCheckpoint", "StopOnNonFiniteLoss", "TrainingResults", "SpeedMonitor"} <= names


def test_every_group_folder_is_known():
    assert {path.name for path in CONF.iterdir() if path.is_dir()} == set(GROUPS)


def test_batch_size_follows_the_trainer():
    assert train_config("trainer.batch_size=3").data.batch_size == 3


def test_defaults_are_the_published_recipe():
    config = train_config()
    assert (config.optim.name, config.optim.momentum, config.optim.weight_decay) == ("sgd", 0.9, 1e-4)
    assert config.optim.head_lr_mult == 1
    assert (config.scheduler.name, config.scheduler.warmup_epochs, config.trainer.max_epochs) == ("cosine", 3, 200)
    assert (config.data.crop_size, config.data.scale_range) == ([960, 960], [512, 2048])
    assert (config.data.flip, config.data.blur, config.data.name) == (0.5, 0.5, "cityscapes")
    assert factory.task(config, CITYSCAPES_CLASSES).criterion.weights == {"sub124": 1, "sub24": 0.4, "sub4": 0.4}
    assert (config.model.backbone, config.loss.resize) == ("resnet50", "nearest")


def test_experiments_are_short_diffs_headed_by_their_command():
    for path in sorted((CONF / "experiment").glob("*.yaml")):
        lines = path.read_text().splitlines()
        assert lines[0] == "# @package _global_"
        assert lines[1].replace(" -m ", " ").startswith(f"# python train.py experiment={path.stem} ")
        keys = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
        assert len(keys) <= 20, path
