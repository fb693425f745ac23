"""What a checkpoint tells of the configuration that it was made with."""

from dataclasses import replace
from pathlib import Path

from icnet.config import DataConfig, TrainConfig, TrainerConfig
from icnet.factory.resuming import changes
from icnet.models.checkpoints import read_checkpoint

OLD = Path(__file__).parents[1] / "old_checkpoints" / "v0.1_resnet18.ckpt"


def test_batch_size_of_an_old_checkpoint_is_the_trainers():
    meta = read_checkpoint(OLD).meta
    assert "batch_size" in meta["data"]
    trainer = TrainerConfig(batch_size=meta["data"]["batch_size"])
    given = TrainConfig(data=DataConfig(name="street"), trainer=trainer, output_dir="outputs/test")
    assert not [change for change in changes(meta, given) if "batch_size" in change]
    given = replace(given, trainer=replace(trainer, batch_size=3))
    assert [change for change in changes(meta, given) if "batch_size" in change] == ["trainer.batch_size was 2, is 3"]
