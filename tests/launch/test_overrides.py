"""Paths on the command line, typed as in any other program."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from icnet.config import CheckConfig, DemoConfig, EvalConfig, ExportConfig, TrainConfig
from icnet.launch.overrides import path_keys, readable


def value(word: str, schema: type = TrainConfig) -> object:
    (override,) = OverridesParser.create().parse_overrides(readable([word], schema))
    assert not override.is_sweep_override()
    return override.value()


@pytest.mark.parametrize(
    "path",
    [
        "images/{split}/{stem}.jpg", "{split}/**/{stem}_L.png", "~/data", "$DATA/set", "/data/my set (2)", "/data/a=b",
        "/data/街景", "/data/Größe", "/data/it's", "x[1].png", "a;b&c", "/plain/path-1.2_3", "C:\\data", "null.d", "x!",
    ],
)  # fmt: skip
def test_path_may_be_typed_as_it_is(path):
    assert value(f"data.root={path}") == path
    assert value(f"+data.root={path}") == path


def test_what_hydra_reads_already_is_left_alone():
    words = [
        "data.root='a b'", 'data.root="{x}"', "data.root=/a,/b", "data.root=choice(/a,/b)", "data.root=glob(*)",
        "data.root=null", "data.root=", "data.crop_size=[64,64]", "optim.lr=0.1", "-m", "--help", "data=street",
    ]  # fmt: skip
    assert readable(words, TrainConfig) == words
    assert value("data.root=null") is None


def test_folders_that_hydra_makes_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("RUNS", "/runs (1)")
    assert value("hydra.run.dir=~/x") == "/home/me/x"
    assert value("hydra.sweep.dir=$RUNS/x") == "/runs (1)/x"
    assert readable(["hydra.run.dir=outputs/${now:%Y}"], TrainConfig) == ["hydra.run.dir='outputs/${now:%Y}'"]


def test_environment_variables_in_braces_are_no_keys(monkeypatch):
    monkeypatch.setenv("SETS", "/sets (1)")
    assert value("data.root=${SETS}/voc") == "/sets (1)/voc"
    assert readable(["data.root=${oc.env:SETS}/voc"], TrainConfig) == ["data.root='${oc.env:SETS}/voc'"]
    assert readable(["model.weights=${output_dir}/x"], TrainConfig) == ["model.weights='${output_dir}/x'"]


@pytest.mark.parametrize(
    ("schema", "keys"),
    [
        (
            TrainConfig,
            {
                "data.root", "data.classes", "data.images", "data.masks", "data.lists",
                "data.cache_folder", "model.weights", "model.backbone_weights", "resume",
            },
        ),
        (
            EvalConfig,
            {
                "ckpt", "data.root", "data.classes", "data.images", "data.masks", "data.lists", "data.cache_folder",
                "runtime.classes",
            },
        ),
        (
            CheckConfig,
            {"output", "data.root", "data.classes", "data.images", "data.masks", "data.lists", "data.cache_folder"},
        ),
        (
            ExportConfig,
            {
                "ckpt", "output", "export.images",
                "data.root", "data.classes", "data.images", "data.masks", "data.lists",
                "data.cache_folder",
            },
        ),
        (DemoConfig, {"ckpt", "input", "output", "runtime.classes"}),
    ],
)  # fmt: skip
def test_every_path_of_the_configuration_is_one(schema, keys):
    assert set(path_keys(schema)) == keys


def test_command_takes_a_pattern_and_a_home_as_they_are_typed(script, tmp_path, monkeypatch):
    """As far as the first look at the data: what it says shows what arrived."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SET", "my set (1)")
    (tmp_path / "my set (1)/pictures").mkdir(parents=True)
    done = script(
        "train", "data=folder", "data.root=~/$SET", "data.images=pictures/{split}/{stem}", "data.classes=bdd100k",
        "hydra.run.dir=~/run", "trainer=cpu_1p", "model=icnet_resnet18",
    )  # fmt: skip
    assert done.status == 2
    assert f"there is no image {tmp_path}/my set (1)/pictures/train/{{stem}}" in done.error
    assert (tmp_path / "run/.hydra/overrides.yaml").exists()
    done = script("eval", "ckpt=~/nope.ckpt", f"hydra.run.dir={tmp_path}/eval")
    assert done.error.startswith(f"ckpt={tmp_path}/nope.ckpt does not exist")
    done = script("train", "data=folder", "data.root=$NO_SUCH_VARIABLE/x", f"hydra.run.dir={tmp_path}/other")
    assert done.error == (
        "data.root=$NO_SUCH_VARIABLE/x names the environment variable NO_SUCH_VARIABLE, which is not set; set it, or "
        "give the path itself"
    )
