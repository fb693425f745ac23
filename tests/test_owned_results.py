"""A result belongs to its data and its classes: no script takes one for that of others."""

import json
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from icnet.models import NETWORKS
from icnet.models.weight_files import load_file
from tests.scripts import ScriptProcess
from tests.training.lives import Small

NAMES = ("sky", "road", "car")
COLOURS = ((70, 130, 180), (128, 64, 128), (0, 0, 142))
QUICK = (
    "data=folder", "data.crop_size=[64,64]", "data.scale_range=[64,96]", "data.workers=0", "model.name=small",
    "trainer=cpu_1p", "trainer.batch_size=2", "trainer.max_epochs=1", "trainer.progress_bar=false", "optim.lr=0.01",
    "callbacks.pictures=0", "callbacks.extremes=0", "logger=csv",
)  # fmt: skip
EVAL = ("trainer=cpu_1p", "trainer.progress_bar=false", "extremes=0", "data.workers=0")

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    monkeypatch.setitem(NETWORKS, "small", Small)


def write_folder(root: Path, names=NAMES, train=4, val=2, seed=0) -> Path:
    """Write a data set of data=folder whose images show their labels."""
    rng = np.random.default_rng(seed)
    rows = [{"name": name, "color": list(COLOURS[NAMES.index(name)])} for name in names]
    for split, count in (("train", train), ("val", val)):
        for folder in ("images", "masks"):
            (root / folder / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            mask = np.repeat(np.repeat(rng.integers(0, 3, (2, 2), np.uint8), 32, 0), 32, 1)
            image = np.array(COLOURS, np.uint8)[mask] + rng.integers(0, 20, (64, 64, 3), np.uint8)
            cv2.imwrite(str(root / "images" / split / f"{number}.png"), image)
            cv2.imwrite(str(root / "masks" / split / f"{number}.png"), mask)
    (root / "classes.yaml").write_text(yaml.safe_dump({"classes": rows}))
    return root


@pytest.fixture
def first(tmp_path) -> Path:
    return write_folder(tmp_path / "first")


@pytest.fixture
def second(tmp_path) -> Path:
    return write_folder(tmp_path / "second", train=6, val=3, seed=1)


@pytest.fixture
def train(script, tmp_path):
    """Train on a data set into a folder of the same name for all; returns how that ended."""

    def run(root: Path, *words: str, name: str = "run"):
        return script("train", *QUICK, f"data.root={root}", *words, f"hydra.run.dir={tmp_path / name}")

    return run


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


OTHER = "train had 4 samples, has 6; val had 2 samples, has 3"


def test_result_of_other_data_is_not_taken_for_this_runs(train, first, second, tmp_path):
    done = train(first)
    assert done.status == 0, done.err
    before = (tmp_path / "run" / "results.json").read_bytes()
    for words in (("resume=auto",), ("skip_finished=true",), ("skip_finished=true", "resume=here")):
        other = train(second, *words)
        assert other.status == 2, words
        assert f"holds a run on other data ({OTHER}), and data.root={second}" in other.error
        assert (tmp_path / "run" / "results.json").read_bytes() == before
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    elsewhere = train(second, f"resume={last}", "trainer.max_epochs=2", name="on")
    assert elsewhere.status == 2
    assert f"resume={last} was made on other data ({OTHER})" in elsewhere.error
    assert f"model.weights={last}" in elsewhere.error
    tuned = train(second, f"model.weights={last}", name="tuned")
    assert tuned.status == 0, tuned.err


def test_result_of_the_same_data_in_another_place_is_this_runs(train, first, tmp_path):
    done = train(first)
    assert done.status == 0, done.err
    moved = tmp_path / "moved"
    shutil.copytree(first, moved)
    assert "is done already" in train(moved, "skip_finished=true").out
    on = train(moved, "resume=auto", "trainer.max_epochs=2")
    assert on.status == 0, on.err
    assert results(tmp_path / "run")["epochs"] == 2
    assert results(tmp_path / "run")["config"]["data"]["root"] == str(moved)


def test_auto_begins_anew_rather_than_going_on_from_other_data(train, first, second, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = train(first, name="outputs/a")
    assert done.status == 0, done.err
    anew = train(second, "resume=auto", name="b")
    assert anew.status == 0, anew.err
    assert (
        "of this configuration here or below outputs/: the run starts anew" in (tmp_path / "b/train_0.log").read_text()
    )
    again = train(first, "resume=auto", name="c")
    assert again.status == 0, again.err
    assert "going on from outputs/a/checkpoints/last.ckpt" in (tmp_path / "c/train_0.log").read_text()


def test_checkpoint_and_results_tell_the_same_data(train, first, tmp_path):
    done = train(first)
    assert done.status == 0, done.err
    told = load_file(tmp_path / "run" / "checkpoints" / "last.ckpt")["icnet"]["fingerprint"]
    assert told == results(tmp_path / "run")["fingerprint"]
    assert (told["classes"], told["labels"], told["ignored"]) == (
        list(NAMES),
        {"sky": "0", "road": "1", "car": "2"},
        "255",
    )


@pytest.mark.parametrize("names", [("road", "sky", "car"), ("sky", "car", "road")])
def test_classes_in_another_order_are_refused_and_moved_by_fine_tuning(train, script, first, tmp_path, names):
    done = train(first)
    assert done.status == 0, done.err
    ckpt = tmp_path / "run" / "checkpoints" / "last.ckpt"
    other = write_folder(tmp_path / "other", names)
    number = 0 if names[0] == "road" else 1
    change = f"class {number} was {NAMES[number]}, is {names[number]}"
    resumed = train(other, f"resume={ckpt}", "trainer.max_epochs=2", name="resumed")
    assert resumed.status == 2
    assert f"has other classes than the data: {change}; use model.weights={ckpt}" in resumed.error
    scored = script("eval", f"ckpt={ckpt}", f"data.root={other}", *EVAL, f"hydra.run.dir={tmp_path / 'eval'}")
    assert scored.status == 2
    assert f"has the class {NAMES[number]} where the data have {names[number]}" in scored.error


def test_evaluation_says_when_the_data_are_not_those_of_the_training(train, script, first, second, tmp_path):
    done = train(first)
    assert done.status == 0, done.err
    ckpt = tmp_path / "run" / "checkpoints" / "best.ckpt"

    def evaluate(root, name):
        return script("eval", f"ckpt={ckpt}", f"data.root={root}", *EVAL, f"hydra.run.dir={tmp_path / name}")

    same = evaluate(first, "same")
    assert same.status == 0, same.err
    assert "not the data" not in (tmp_path / "same" / "eval_0.log").read_text()
    assert results(tmp_path / "same")["fingerprint"]["train"] is None
    other = evaluate(second, "other")
    assert other.status == 0, other.err
    log = (tmp_path / "other" / "eval_0.log").read_text()
    assert f"not the data that {ckpt} was validated on in training: val had 2 samples, has 3" in log
    over = evaluate(second, "same")
    assert over.status == 2
    assert "holds an evaluation on other data (val had 2 samples, has 3), which would be lost" in over.error
    assert results(tmp_path / "same")["val_images"] == 2
    assert evaluate(first, "same").status == 0  # the same once more


def test_file_that_names_no_classes_is_scored_with_a_warning(script, train, first, to_reference, tmp_path):
    from icnet.models import build_network

    net = build_network("icnet", 3, backbone="resnet18")
    torch.save(to_reference(net.state_dict()), tmp_path / "published.pth")
    done = script(
        "eval", f"ckpt={tmp_path / 'published.pth'}", "data=folder", f"data.root={first}", *EVAL,
        f"hydra.run.dir={tmp_path / 'eval'}",
    )  # fmt: skip
    assert done.status == 0, done.err
    log = (tmp_path / "eval" / "eval_0.log").read_text()
    assert (
        "does not name its classes: they are taken for those of the data, in their order (0 is sky, not class_0)" in log
    )


def test_table_begun_again_on_other_data_refuses_each_row(script, first, second, tmp_path):
    words = (*QUICK, "skip_finished=true", "resume=here", "seed=1,2", f"hydra.sweep.dir={tmp_path / 'table'}")
    done = script("train", "-m", f"data.root={first}", *words)
    assert done.status == 0, done.err
    before = [(tmp_path / "table" / str(n) / "results.json").read_bytes() for n in range(2)]
    again = script("train", "-m", f"data.root={first}", *words)
    assert again.out.count("is done already") == 2
    other = script("train", "-m", f"data.root={second}", *words)
    assert other.status == 2
    assert other.err.count(f"holds a run on other data ({OTHER})") == 2
    assert [(tmp_path / "table" / str(n) / "results.json").read_bytes() for n in range(2)] == before


def test_two_processes_record_the_data_once(first, process, tmp_path):
    words = [word for word in QUICK if word not in {"model.name=small", "trainer=cpu_1p"}]
    done = process(
        "train", *words, "model=icnet_resnet18", "trainer=cpu_2p", "trainer.batch_size=1", f"data.root={first}",
        f"hydra.run.dir={tmp_path / 'two'}",
    )  # fmt: skip
    assert done.status == 0, done.err
    told = load_file(tmp_path / "two" / "checkpoints" / "last.ckpt")["icnet"]["fingerprint"]
    assert told == results(tmp_path / "two")["fingerprint"]
    assert told["train"]["samples"] == 4


def start(*words: object, cwd: Path) -> ScriptProcess:
    return ScriptProcess("train", *words, cwd=cwd)


def test_folder_of_a_living_run_is_refused_and_that_of_a_killed_one_is_not(first, tmp_path):
    words = [word for word in QUICK if word not in {"model.name=small", "trainer.max_epochs=1"}]
    words += ["model=icnet_resnet18", f"data.root={first}", f"hydra.run.dir={tmp_path / 'run'}"]
    long = start(*words, "trainer.max_epochs=1000", cwd=tmp_path)
    try:
        last = tmp_path / "run" / "checkpoints" / "last.ckpt"
        while not last.exists():
            assert long.poll() is None, long.stderr.read()
            time.sleep(0.05)
        files = set((tmp_path / "run").rglob("*"))
        other = start(*words, "resume=here", "trainer.max_epochs=2", cwd=tmp_path)
        _, error = other.communicate(timeout=100)
        assert other.returncode == 2
        assert f"error: {tmp_path / 'run'} is in use by a run that has not ended (process {long.pid} on " in error
        assert (tmp_path / "run" / ".hydra" / "overrides.yaml").read_text().count("max_epochs=1000") == 1
        assert not {path for path in set((tmp_path / "run").rglob("*")) - files if path.suffix == ".yaml"}
    finally:
        long.kill()
        long.communicate()
    done = load_file(last)["epoch"] + 1
    on = start(*words, "resume=here", f"trainer.max_epochs={done + 1}", cwd=tmp_path)
    _, error = on.communicate(timeout=100)
    assert on.returncode == 0, error
    assert not (tmp_path / "run" / ".lock").exists()


def test_config_is_compared_before_the_data(train, first, second):
    done = train(first)
    assert done.status == 0, done.err
    other = train(second, "skip_finished=true", "seed=7")
    assert "of another configuration (seed was 1, is 7)" in other.error


def test_results_written_before_data_were_recorded_are_taken_with_a_warning(train, first, second, tmp_path):
    done = train(first)
    assert done.status == 0, done.err
    content = load_file(tmp_path / "run" / "checkpoints" / "last.ckpt")
    del content["icnet"]["fingerprint"]
    torch.save(content, tmp_path / "old.ckpt")
    on = train(second, f"resume={tmp_path / 'old.ckpt'}", "trainer.max_epochs=2", name="on")
    assert on.status == 0, on.err
    log = (tmp_path / "on" / "train_0.log").read_text()
    assert "old.ckpt was written before data were recorded: whether these are its data is not known" in log
    assert f"not known; data.root was {first}, is {second}" in log
