"""Where a training goes on from, and what it refuses."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from icnet.errors import UserError
from icnet.run.paths import RunPaths
from icnet.run.resume import check_checkpoint, choose_checkpoint


def unread(path):
    raise AssertionError(f"{path} should not be opened")


def touch(path: Path, age: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    stat = path.stat()
    os.utime(path, (stat.st_atime - age, stat.st_mtime - age))
    return path


def test_new_run_starts_anew_but_not_over_an_older_one(small_config):
    assert choose_checkpoint(small_config, unread) is None
    touch(RunPaths(Path(small_config.output_dir)).last)
    with pytest.raises(UserError, match="already holds a run; go on with it by resume=auto"):
        choose_checkpoint(small_config, unread)


def test_given_checkpoint_is_taken(small_config):
    assert choose_checkpoint(replace(small_config, resume="a/b.ckpt"), unread) == Path("a/b.ckpt")


@pytest.mark.parametrize("resume", ["here", "auto"])
def test_own_checkpoint_comes_first(small_config, resume):
    own = touch(RunPaths(Path(small_config.output_dir)).last)
    assert choose_checkpoint(replace(small_config, resume=resume), unread) == own


def test_here_never_looks_elsewhere(small_config):
    assert choose_checkpoint(replace(small_config, resume="here"), unread) is None


def test_auto_takes_the_newest_of_the_same_configuration(small_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = replace(small_config, resume="auto")
    for age, name in enumerate(("other", "newer", "older")):
        touch(RunPaths(Path("outputs", name)).last, age)
    assert choose_checkpoint(config, lambda path: path.parts[1] != "other") == Path(
        "outputs/newer/checkpoints/last.ckpt"
    )
    assert choose_checkpoint(config, lambda path: False) is None


def check(config, **options):
    names = ["sky", "road"]
    same = {"resumable": True, "classes": (names, names), "optimizer": "sgd", "changed": [], "data": []}
    check_checkpoint(Path("last.ckpt"), config, **same | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resumable": False}, "holds weights but no run's state; use model.weights=last.ckpt"),
        ({"optimizer": "adamw"}, "was made with optim=adamw and this run uses optim=sgd; choose the same"),
        ({"classes": ([""] * 19, [""] * 11)}, "has 19 classes and the data 11; use model.weights=last.ckpt"),
        (
            {"classes": (["sky", "road"], ["road", "sky"])},
            "has other classes than the data: class 0 was sky, is road; use model.weights=last.ckpt to start a new run",
        ),
        (
            {"data": ["train had 3 samples, has 4"]},
            r"was made on other data \(train had 3 samples, has 4\), and data.root=scenes; give the same data, use",
        ),
    ],
)
def test_checkpoint_of_another_kind_is_refused(small_config, options, message):
    with pytest.raises(UserError, match=message):
        check(small_config, **options)


def test_changed_configuration_is_said_and_of_the_own_folder_refused(small_config, caplog):
    caplog.set_level("INFO")
    check(replace(small_config, resume="here"))
    assert caplog.messages == ["going on from last.ckpt"]
    changed = ["seed was 1, is 7"]
    check(replace(small_config, resume="auto"), changed=changed)
    assert "not what the run was begun with: seed was 1, is 7; weights and the optimizer's state" in caplog.text
    with pytest.raises(UserError, match=r"of another configuration \(seed was 1, is 7\)"):
        check(replace(small_config, resume="here"), changed=changed)


@pytest.mark.parametrize("resume", ["here", "auto"])
def test_own_checkpoint_of_other_data_is_refused_as_the_folder_is(small_config, resume):
    own = RunPaths(Path(small_config.output_dir)).last
    names = ["sky"]
    with pytest.raises(
        UserError, match=r"run holds a run on other data \(train had 6 samples, has 12\), and data.root"
    ):
        check_checkpoint(
            own, replace(small_config, resume=resume), resumable=True, classes=(names, names), optimizer="sgd",
            changed=[], data=["train had 6 samples, has 12"],
        )  # fmt: skip


def test_data_that_were_repaired_are_gone_on_with_where_that_is_asked_for(small_config, tmp_path, caplog):
    path, data = tmp_path / "last.ckpt", ["val has files of other sizes, 3 bytes in all before and 4 now"]
    names = ["sky"]

    def check(config, data):
        check_checkpoint(
            path, config, resumable=True, classes=(names, names), optimizer="sgd", changed=[], data=data
        )  # fmt: skip

    check(small_config, data)  # nothing was scored yet
    assert "going on with other data than the run was begun with: val has files of other sizes" in caplog.text
    assert "scores from before" not in caplog.text
    touch(path.with_name("best.ckpt"))
    with pytest.raises(UserError, match="was made on other data .* or resume_changed_data=true to go on all the same"):
        check(small_config, data)
    for change in (data, ["train had 6 samples, has 5"]):
        caplog.clear()
        check(replace(small_config, resume_changed_data=True), change)
        assert f"{change[0]}; scores from before are of the data as they were, the best one too" in caplog.text
