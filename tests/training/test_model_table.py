"""The table of the model."""

from lightning.pytorch import Trainer

from icnet import factory
from icnet.config import DataConfig, ModelConfig, TrainConfig
from icnet.data.labels import CITYSCAPES_CLASSES
from icnet.training.callbacks.model_table import ModelTable


def test_table_of_the_model_counts_parameters_and_no_operations(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    model = ModelConfig(backbone="resnet18")
    config = TrainConfig(data=DataConfig(name="street"), model=model, output_dir="outputs/test")
    task = factory.task(config, CITYSCAPES_CLASSES)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    task.trainer = trainer
    ModelTable(max_depth=2).on_fit_start(trainer, task)
    shown = capsys.readouterr().out
    assert "net.backbone" in shown
    assert "FLOP" not in shown
    count = sum(parameter.numel() for parameter in task.parameters()) / 1e6
    assert f"parameters: {count:.1f} M, of which {count:.1f} M are trained" in shown
