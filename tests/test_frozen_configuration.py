"""The configuration is resolved once, at the start of main: nothing changes a value of it from when it was made."""

from dataclasses import fields, is_dataclass, replace
from types import SimpleNamespace

import pytest
import torch

from icnet import factory
from icnet.config import DataConfig, DemoConfig, EvalConfig, ExportConfig, ModelConfig, StreetConfig, TrainConfig

SCHEMAS = {"train": TrainConfig, "eval": EvalConfig, "export": ExportConfig, "demo": DemoConfig}


def kinds(schema: type) -> set[type]:
    below = [field.type for field in fields(schema) if is_dataclass(field.type)]
    return {schema}.union(*map(kinds, below))


@pytest.fixture
def frozen(monkeypatch):
    """Let every configuration refuse to be changed; ``made`` are all with what they were, ``refused`` is what tried."""
    seen = SimpleNamespace(made=[], refused=[])

    def freeze(kind: type) -> None:
        init = kind.__init__

        def make(self, *args, **values):
            init(self, *args, **values)
            seen.made.append((self, repr(self)))

        def assign(self, name, value):
            if any(self is config for config, _ in seen.made):
                seen.refused.append(f"{type(self).__name__}.{name} = {value}")
                raise AssertionError(seen.refused[-1])
            object.__setattr__(self, name, value)

        monkeypatch.setattr(kind, "__init__", make)
        monkeypatch.setattr(kind, "__setattr__", assign)

    for kind in set().union(*map(kinds, SCHEMAS.values())):
        freeze(kind)
    return seen


def assert_unchanged(seen) -> None:
    assert seen.refused == []
    assert [repr(config) for config, _ in seen.made] == [text for _, text in seen.made]


def test_frozen_configuration_shows_every_change(frozen):
    config = TrainConfig(data=DataConfig(name="street"), model=ModelConfig(), output_dir="outputs/test")
    other = replace(config, seed=2)
    assert (config.seed, other.seed) == (1, 2)
    assert_unchanged(frozen)
    with pytest.raises(AssertionError, match="TrainerConfig.devices = 2"):
        other.trainer.devices = 2
    assert frozen.refused
    frozen.refused.clear()
    config.data.crop_size[0] = 64
    with pytest.raises(AssertionError):
        assert_unchanged(frozen)


@pytest.mark.parametrize("name", SCHEMAS)
def test_script_leaves_its_configuration_as_it_was_made(name, frozen, script, small, trained, street_root, tmp_path):
    quick, ckpt = ("trainer=cpu_1p", "trainer.progress_bar=false"), f"ckpt={trained / 'checkpoints' / 'best.ckpt'}"
    photo = next((street_root / "leftImg8bit" / "val").rglob("*.png"))
    words = {
        "train": (*small, "trainer.max_epochs=3", "callbacks.result_files=acc", "loss.class_weights=median",
                  f"resume={trained / 'checkpoints' / 'last.ckpt'}", f"hydra.run.dir={tmp_path / 'run'}"),
        "eval": (ckpt, *quick, "save_pictures=true", f"hydra.run.dir={tmp_path / 'eval'}"),
        "export": (ckpt, "export.height=64", "export.width=64", f"output={tmp_path / 'net.onnx'}"),
        "demo": (ckpt, f"input={photo}", f"output={tmp_path / 'shown'}", "device=cpu"),
    }  # fmt: skip
    done = script(name, *words[name])
    assert done.status == 0, done.err
    assert SCHEMAS[name] in {type(config) for config, _ in frozen.made}
    assert_unchanged(frozen)


def test_training_of_what_this_machine_has_leaves_what_was_asked_for(frozen, street_root, tmp_path):
    scenes = StreetConfig(train=6, val=3, height=64, width=128)
    data = DataConfig(
        name="street", root=str(street_root), street=scenes, crop_size=[64, 64], scale_range=[64, 96], workers=0
    )
    given = TrainConfig(data=data, model=ModelConfig(backbone="resnet18"), output_dir=str(tmp_path))
    config = replace(given, trainer=replace(given.trainer, batch_size=2))
    factory.prepare_data(config.data)
    resolved = factory.resolve(config)
    assert (config.trainer.accelerator, config.trainer.log_every_n_steps) == ("auto", 10)
    assert resolved.trainer.accelerator in {"cpu", "gpu", "npu"}
    module = factory.data_module(resolved.data, resolved.seed, batch_size=resolved.trainer.batch_size)
    factory.task(resolved, module.classes)
    assert factory.resolve_resume(resolved).resume is None
    trainer = factory.lightning_trainer(resolved, module)
    assert trainer.log_every_n_steps == 3  # batches of an epoch
    assert resolved.trainer.log_every_n_steps == 10
    assert_unchanged(frozen)


def test_evaluation_opens_its_checkpoint_once(frozen, trained, tmp_path, monkeypatch):
    opened = []
    load = torch.load
    monkeypatch.setattr("torch.load", lambda path, **options: opened.append(path) or load(path, **options))
    config = EvalConfig(ckpt=str(trained / "checkpoints" / "best.ckpt"), output_dir=str(tmp_path))
    resolved, segmenter = factory.resolve_evaluation(factory.resolve(config))
    module = factory.data_module(resolved.data, resolved.seed)
    assert module.train is None
    task = factory.evaluation_task(resolved, segmenter, module.classes)
    factory.evaluation_trainer(resolved, module)
    results = factory.evaluation_results(resolved, resolved.data, module, task, torch.device("cpu"))
    assert results.config["data"]["name"] == "street"
    assert opened == [trained / "checkpoints" / "best.ckpt"]
    assert_unchanged(frozen)
