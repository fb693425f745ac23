"""Paths in the configuration: what a shell would expand is expanded, by every key alike."""

from dataclasses import fields, is_dataclass, replace

import pytest

from icnet.config import DataConfig, DemoConfig, EvalConfig, ExportConfig, ModelConfig, TrainConfig
from icnet.errors import UserError
from icnet.factory.evaluation import evaluation_data

DATA = DataConfig(name="folder")
WHOLE = [
    (DATA, "data."), (ModelConfig(), "model."), (TrainConfig(data=DATA, output_dir="x"), ""),
    (EvalConfig(output_dir="x"), ""), (ExportConfig(), ""), (ExportConfig().export, "export."),
    (DemoConfig(output="x"), ""),
]  # fmt: skip
PATHS = [
    (config, field.name, above)
    for config, above in WHOLE
    for field in fields(config)
    if field.metadata["path"] and not is_dataclass(field.type)
]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/mnt/data")
    monkeypatch.delenv("UNSET", raising=False)


@pytest.mark.parametrize(("config", "name", "above"), PATHS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_path_is_expanded(config, name, above):
    for given, expanded in (
        ("~/a/{stem}", "/home/me/a/{stem}"),
        ("$DATA/a", "/mnt/data/a"),
        ("${DATA}_2/$5", "/mnt/data_2/$5"),
        ("a/~b", "a/~b"),
        ("~nobody-of-this-name/a", "~nobody-of-this-name/a"),
    ):
        made = replace(config, **{name: given})
        assert getattr(made, name) == expanded
        assert replace(made) == made
    for given in ("$UNSET/a", "a/${UNSET}"):
        with pytest.raises(UserError) as refused:
            replace(config, **{name: given})
        assert str(refused.value).startswith(f"{above}{name}={given} names the environment variable UNSET, which is")


def test_there_are_as_many_paths_as_we_know():
    assert len(PATHS) == 6 + 2 + 1 + 1 + 2 + 1 + 3  # data, model, train, eval, export twice, demo


def test_file_with_a_dollar_in_its_name_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a$UNSET.png").touch()
    assert DemoConfig(input="a$UNSET.png", output="x").input == "a$UNSET.png"


def test_data_of_an_evaluation_is_expanded():
    class Opened:
        data = {"name": "folder", "root": "/somewhere"}

    config = EvalConfig(output_dir="x")
    config.data.root = "~/here"
    assert evaluation_data(config, Opened()).root == "/home/me/here"
