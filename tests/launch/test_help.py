"""What --help shows, of every script."""

import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from icnet.config import DemoConfig, EvalConfig, ExportConfig, TrainConfig

ROOT = Path(__file__).parents[2]
SCHEMAS = {"train": TrainConfig, "eval": EvalConfig, "export": ExportConfig, "demo": DemoConfig}


def keys(schema: type, above: str = ""):
    for field in fields(schema):
        yield f"{above}{field.name}", field
        if is_dataclass(field.type):
            yield from keys(field.type, f"{above}{field.name}.")


def words(text: str) -> str:
    """A text as one line, however it was wrapped."""
    return " ".join(text.split())


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_key_is_shown_with_its_meaning_range_and_unit(script, name):
    done = script(name, "--help")
    assert done.status == 0, done.err
    headings = {words(line) for line in done.out.splitlines()}
    entries = {words(entry) for entry in re.split(r"\n(?=  \S|\n)", done.out)}
    for key, field in keys(SCHEMAS[name]):
        about = field.metadata
        if is_dataclass(field.type):
            assert f"{key}: {about['meaning']}" in headings
            continue
        (entry,) = (entry for entry in entries if entry.startswith(f"{key}="))
        assert f" {about['meaning']} (" in entry, key
        assert entry.endswith(f"{about['unit']})"), key
        if about["range"]:
            assert about["range"].allowed.removeprefix("a number") in entry, key


def test_types_are_named(script):
    text = words(script("train", "--help").out)
    for entry in (
        "data.crop_size=[960,960] size of a training sample (two numbers, each a whole number from 1; pixels (H, W))",
        "data.pin_memory=true page-locked memory for batches, where an accelerator is (true or false)",
        "optim.lr=0.01 learning rate (a number above 0)",
        "trainer.batch_size=7 training samples per device (a whole number from 1)",
        "data.root=null folder of the data set (text)",
        "optim.betas=[0.9,0.999] decay of AdamW's two averages (two numbers, each a number from 0 to below 1)",
    ):
        assert entry in text


def test_every_option_of_every_group_is_shown(script):
    text = words(script("train", "--help").out)
    for folder in (path for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != "classes"):
        assert ", ".join(sorted(path.stem for path in folder.glob("*.yaml"))) in text


def test_values_are_those_of_the_command_line(script):
    text = words(script("train", "--help", "data=street", "optim=adamw", "seed=3").out)
    for entry in ("data=street", "data.name=street", "data.root=data/street", "optim.name=adamw", "seed=3"):
        assert f" {entry} " in text
    assert script("train", "optim=nope", "--help").error.startswith("optim=nope is unknown; choose one of adamw")


def test_help_runs_nothing_and_imports_no_torch(tmp_path):
    code = (
        f"import runpy, sys; sys.argv = ['train.py', '--help']; sys.path.insert(0, {str(ROOT)!r})\n"
        f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
        "assert not {'torch', 'lightning'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "optim.lr=0.01" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_help_into_a_pipe_that_is_closed_ends_quietly():
    command = f"{sys.executable} {ROOT / 'train.py'} --help | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)  # noqa: S602 - fixed words
    assert done.stdout.startswith("python train.py key=value")
    assert done.stderr == ""
