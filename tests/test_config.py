"""Every option of every group composes to a configuration that builds."""

import json
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue

from icnet import factory
from icnet.config import (
    AmpConfig,
    CheckConfig,
    DataConfig,
    DemoConfig,
    EvalConfig,
    ExportConfig,
    LoggerConfig,
    ModelConfig,
    OptimConfig,
    SchedulerConfig,
    TrainConfig,
)
from icnet.data.labels import CITYSCAPES_CLASSES
from icnet.errors import UserError
from icnet.factory.callbacks import callbacks
from icnet.factory.loggers import LOGGERS, loggers
from icnet.factory.network import description, model_title
from icnet.factory.task import OPTIMIZERS, SCHEDULES
from icnet.models import NETWORKS, Option
from icnet.models.icnet import ICNet
from icnet.run.differences import RESOLVED
from icnet.run.operations import costliest_operations
from icnet.run.paths import RunPaths

CONF = Path(__file__).parents[1] / "conf"
GROUPS = ("amp", "data", "debug", "experiment", "hparams", "logger", "loss", "model", "optim", "scheduler", "trainer")
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
            loggers(config)
    counted = [1.0] * 19 if isinstance(config.loss.class_weights, str) else None  # from labels that are not here
    task = factory.task(config, CITYSCAPES_CLASSES, class_weights=counted)
    assert type(task.net) is NETWORKS[config.model.name]
    assert task.net.num_classes == 19
    assert set(task.criterion.weights) == set(task.net.loss_weights)
    names = {type(callback).__name__ for callback in callbacks(config, CITYSCAPES_CLASSES, 10)}
    assert {"BestCheckpoint", "LastCheckpoint", "StopOnNonFiniteLoss", "TrainingResults", "SpeedMonitor"} <= names


def test_every_group_folder_is_known():
    assert {path.name for path in CONF.iterdir() if path.is_dir()} == {*GROUPS, "classes"}  # which is no group


def test_defaults_are_the_published_recipe():
    config = train_config()
    assert (config.optim.name, config.optim.momentum, config.optim.weight_decay) == ("sgd", 0.9, 1e-4)
    assert config.optim.head_lr_mult == 1
    assert (config.scheduler.name, config.scheduler.warmup_epochs, config.trainer.max_epochs) == ("cosine", 3, 200)
    assert (config.data.crop_size, config.data.scale_range) == ([960, 960], [512, 2048])
    assert (config.data.flip, config.data.blur, config.data.name) == (0.5, 0.5, "cityscapes")
    assert factory.task(config, CITYSCAPES_CLASSES).criterion.weights == {"sub124": 1, "sub24": 0.4, "sub4": 0.4}
    backbone = factory.resolve_task(factory.resolve(config)).model.backbone
    assert (backbone, config.loss.resize) == ("resnet50", "nearest")
    assert {"model.backbone": backbone} == RESOLVED


def test_backbone_that_is_not_given_is_the_networks_own(monkeypatch):
    class Other(ICNet):
        options = {"backbone": Option("resnet18", ("resnet18", "resnet34"))}

    class Plain(ICNet):
        options = {}

    monkeypatch.setitem(NETWORKS, "other", Other)
    monkeypatch.setitem(NETWORKS, "plain", Plain)
    for name, options in (
        ("icnet", {"backbone": "resnet50", "quarter_branch": "image", "enlarge": 1}),
        ("other", {"backbone": "resnet18"}),
        ("plain", {}),
    ):
        model = ModelConfig(name=name)
        assert description(model, 19).options == options
        config = TrainConfig(data=DataConfig(name="street"), model=model, output_dir="outputs/test")
        assert factory.resolve_task(factory.resolve(config)).model.backbone == options.get("backbone")
    assert description(train_config("model.name=plain").model, 19).options == {}
    assert description(train_config("model.name=other").model, 19).options == {"backbone": "resnet18"}
    with pytest.raises(UserError, match="^model.backbone=resnet50 is no option of plain; it has none$"):
        description(train_config("model.name=plain", "model.backbone=resnet50").model, 19)


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "model"])
def test_option_of_the_model_is_named_as_reports_name_it(option):
    assert model_title(train_config(f"model={option}").model) == option


def test_experiments_are_short_diffs_headed_by_their_command():
    for path in sorted((CONF / "experiment").glob("*.yaml")):
        lines = path.read_text().splitlines()
        assert lines[0] == "# @package _global_"
        assert lines[1].replace(" -m ", " ").startswith(f"# python train.py experiment={path.stem} ")
        keys = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
        assert len(keys) <= 20, path


# ---------------------------------------------------------------- the schema

SCHEMAS = {
    "train": TrainConfig, "eval": EvalConfig, "export": ExportConfig, "demo": DemoConfig, "check": CheckConfig,
}  # fmt: skip


def declared(schema: type, above: str = ""):
    """Yield the dotted name and the field of every key, groups too."""
    for field in fields(schema):
        yield f"{above}{field.name}", field
        if is_dataclass(field.type):
            yield from declared(field.type, f"{above}{field.name}.")


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_every_key_is_declared_with_its_meaning(schema):
    for name, field in declared(schema):
        assert field.metadata["meaning"], name
        assert isinstance(field.metadata["affects_result"], bool), name
        assert field.metadata["unit"] != field.metadata["meaning"], name


def test_keys_that_no_result_depends_on_are_declared_so():
    without = {name for name, field in declared(TrainConfig) if not field.metadata["affects_result"]}
    assert without == {
        "output_dir", "resume", "resume_changed_data", "skip_finished", "trainer.profiler", "trainer.progress_bar",
        "trainer.log_every_n_steps", "trainer.activation_checkpointing",
        "trainer.max_restarts", "trainer.rdzv_endpoint", "data.root", "data.classes", "data.images",
        "data.masks", "data.lists", "data.unlabelled", "data.workers", "data.pin_memory", "data.check", "data.cache",
        "data.cache_folder",
        "data.persistent_workers", "data.prefetch_factor", "data.eval_batch_size", "callbacks.pictures",
        "callbacks.extremes", "callbacks.device_stats", "callbacks.checkpoint_every_n_steps",
        "callbacks.throughput_warmup_steps", "callbacks.throughput_exact",
        *(f"logger.{field.name}" for field in fields(LoggerConfig)),
    }  # fmt: skip


def test_names_of_the_tables_are_those_that_may_be_chosen():
    for schema, table in ((OptimConfig, OPTIMIZERS), (SchedulerConfig, SCHEDULES)):
        (name,) = (field for field in fields(schema) if field.name == "name")
        assert name.metadata["range"].allowed == f"one of {', '.join(table)}"
    assert set(LOGGERS) == {field.name for field in fields(LoggerConfig)} - {"project"}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_defaults_lie_in_their_ranges(schema):
    schema(**{"data": DataConfig(name="street")} if schema in {TrainConfig, CheckConfig} else {}, **output_of(schema))


def output_of(schema: type) -> dict[str, str]:
    required = {"output_dir", "output"} & {field.name for field in fields(schema)}
    return dict.fromkeys(required, "outputs/test")


def test_configuration_made_in_python_is_whole():
    config = TrainConfig(data=DataConfig(name="street"), output_dir="outputs/test")
    assert config.amp == AmpConfig()
    assert "???" not in str(config)
    with pytest.raises(TypeError, match="name"):
        DataConfig()
    with pytest.raises(TypeError, match="data"):
        TrainConfig(output_dir="outputs/test")


def test_key_without_default_has_to_be_given_to_hydra_too():
    with pytest.raises(MissingMandatoryValue, match="data"):
        OmegaConf.to_object(OmegaConf.structured(TrainConfig))
    with pytest.raises(MissingMandatoryValue, match="name"):
        OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainConfig), {"data": {}, "output_dir": "x"}))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.crop_size=[64]"], r"data.crop_size=\[64\] has 1 numbers; give two, such as \[512,1024\]"),
        (["data.crop_size=[64,0]"], "data.crop_size=0 is out of range; give a number from 1"),
        (["optim.betas=[0.9,1]"], "optim.betas=1.0 is out of range; give a number from 0 to below 1"),
        (["optim.lr=nan"], "optim.lr=nan is out of range; give a number above 0"),
        (["data.flip=2"], "data.flip=2.0 is out of range; give a number from 0 to 1"),
        (["seed=-1"], "seed=-1 is out of range; give a number from 0 to 4294967295"),
        (["trainer.max_steps=0"], "trainer.max_steps=0 is out of range; give a number from 1, or -1 for all"),
        (["trainer.devices=null"], "trainer.devices=None is unknown; give a count from 1, or a list of indices"),
        (["trainer.limit_val_batches=-1"], "trainer.limit_val_batches=-1.0 is out of range; give a share above 0"),
        (
            ["loss.class_weights=[1,-1]"],
            r"loss.class_weights=\[1, -1\] is out of range; give a list with a number from 0",
        ),
        (
            ["loss.class_weights=mean"],
            "loss.class_weights=mean is out of range; give a list .*, median, median_sqrt, enet, or null",
        ),
        (["callbacks.result_files=all"], "callbacks.result_files=all is unknown; choose one of perf, acc"),
        (["trainer.rdzv_endpoint=here"], "trainer.rdzv_endpoint=here is no endpoint; give HOST:PORT"),
    ],
)
def test_value_out_of_its_range_is_refused(overrides, message):
    with pytest.raises(UserError, match=f"^{message}"):
        train_config(*overrides)


@pytest.mark.parametrize("override", ["trainer.max_steps=-1", "trainer.limit_val_batches=0", "trainer.devices=[0,2]",
                                      "loss.class_weights=null", "trainer.limit_train_batches=3"])  # fmt: skip
def test_value_that_stands_for_something_is_taken(override):
    train_config(override)


# ---------------------------------------------------------------- debug


def test_fast_goes_once_through_everything(script, small, tmp_path):
    rest = [word for word in small if not word.startswith(("trainer.max_epochs", "callbacks"))]
    done = script("train", *rest, "debug=fast", f"hydra.run.dir={tmp_path}")
    assert done.status == 0, done.err
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["status"], results["config"]["trainer"]["max_epochs"]) == ("done", 1)
    assert results["best_miou"] is not None
    for name in ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "report.html", "pictures"):
        assert (tmp_path / name).exists(), name
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2


def test_overfit_trains_and_validates_on_the_same_samples_unchanged(street_root):
    config = train_config("data=street", f"data.root={street_root}", "debug=overfit", "data.workers=0",
                          "data.street.train=6", "data.street.val=3", "data.street.height=64",
                          "data.street.width=128")  # fmt: skip
    factory.prepare_data(config.data)
    data = factory.data_module(config.data, config.seed, batch_size=config.trainer.batch_size)
    assert len(data.train) == config.trainer.limit_val_batches == 4
    for index in range(4):
        once, again, validated = data.train[index, 0], data.train[index, 7], data.val[index]
        assert (once["image"] == again["image"]).all()
        assert (once["mask"] == again["mask"]).all()
        assert once["name"] == validated["name"]


def test_profiler_leaves_its_trace_in_the_run_folder(script, small, tmp_path):
    done = script("train", *small, "debug=profiler", "trainer.max_steps=2", f"hydra.run.dir={tmp_path}")
    assert done.status == 0, done.err
    assert list(tmp_path.glob("*.pt.trace.json"))
    assert "aten::" in next(tmp_path.glob("*profile*.txt")).read_text()
    costliest = costliest_operations(RunPaths(tmp_path), 1000)
    assert sum(operation.share for operation in costliest) == pytest.approx(1)
    assert {"aten::convolution_backward", "aten::copy_"} <= {operation.name for operation in costliest}
    page = (tmp_path / "report.html").read_text()
    assert page.index("Costliest operations") < page.index(f'<th scope="row">{costliest[0].name}</th>')
    assert costliest[5].name not in page
