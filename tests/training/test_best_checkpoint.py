"""The best checkpoint follows a run into another folder, whole or not at all."""

import shutil

import pytest

from icnet.training.callbacks.best_checkpoint import copy_best_checkpoint


def test_copy_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    old = tmp_path / "old" / "checkpoints"
    old.mkdir(parents=True)
    (old / "best.ckpt").write_bytes(b"best" * 1000)
    target = tmp_path / "new" / "checkpoints" / "best.ckpt"

    def break_off(source, copy):
        copy.write(source.read(1000))
        raise OSError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(shutil, "copyfileobj", break_off)
        with pytest.raises(OSError, match="disk full"):
            copy_best_checkpoint(old / "last.ckpt", tmp_path / "new")
    assert not target.exists()
    copy_best_checkpoint(old / "last.ckpt", tmp_path / "new")
    assert target.read_bytes() == (old / "best.ckpt").read_bytes()
    target.write_bytes(b"newer")
    copy_best_checkpoint(old / "last.ckpt", tmp_path / "new")
    assert target.read_bytes() == b"newer"
