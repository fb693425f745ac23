import os

import pytest
import torch

from icnet.deploy.locate import choose_device, find_checkpoint
from icnet.errors import UserError


def test_find_checkpoint_takes_the_newest_best_one(tmp_path, caplog):
    outputs = tmp_path / "outputs"
    runs = ["outputs/2026-01-01/10-00-00", "outputs/2026-01-02/10-00-00", "multirun/2026-01-01/10-00-00/0"]
    for age, run in zip((200, 300, 100), runs, strict=True):
        for name, newer in (("best.ckpt", 0), ("last.ckpt", 50)):
            path = tmp_path / run / "checkpoints" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            os.utime(path, (1e9 - age + newer, 1e9 - age + newer))

    with caplog.at_level("INFO"):
        found = find_checkpoint(None, outputs)
    assert found == tmp_path / "multirun/2026-01-01/10-00-00/0/checkpoints/best.ckpt"
    assert str(found) in caplog.text
    assert find_checkpoint(str(path), outputs) == path


def test_find_checkpoint_without_any_says_what_to_do(tmp_path):
    message = r"no best checkpoint below .*outputs/ or .*multirun/, nor a last one; train first .* or give ckpt=PATH"
    with pytest.raises(UserError, match=message):
        find_checkpoint(None, tmp_path / "outputs")
    with pytest.raises(UserError, match=r"ckpt=absent\.ckpt does not exist"):
        find_checkpoint("absent.ckpt", tmp_path)
    with pytest.raises(UserError, match=r"ckpt= does not exist"):
        find_checkpoint("", tmp_path)


def test_find_checkpoint_takes_the_newest_last_one_where_no_run_has_a_best(tmp_path, caplog):
    for age, run in ((20, "outputs/a"), (10, "multirun/b/0")):
        path = tmp_path / run / "checkpoints" / "last.ckpt"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))

    with caplog.at_level("INFO"):
        assert find_checkpoint(None, tmp_path / "outputs") == path
    assert "using the newest last.ckpt, as there is no best.ckpt" in caplog.text
    best = tmp_path / "outputs/a/checkpoints/best.ckpt"
    best.touch()
    os.utime(best, (1, 1))
    assert find_checkpoint(None, tmp_path / "outputs") == best


def test_folder_as_checkpoint_is_refused_with_the_file_in_it(tmp_path):
    run = tmp_path / "run"
    folder = run / "checkpoints"
    folder.mkdir(parents=True)
    for content, given, named in (
        ((), run, folder / "best.ckpt"),
        (("last.ckpt",), run, folder / "last.ckpt"),
        (("last.ckpt", "best.ckpt"), run, folder / "best.ckpt"),
        (("last.ckpt", "best.ckpt"), folder, folder / "best.ckpt"),
    ):
        for name in content:
            (folder / name).touch()
        with pytest.raises(UserError) as refused:
            find_checkpoint(str(given))
        assert str(refused.value) == f"ckpt={given} is a folder; give a file, such as ckpt={named}"


def test_choose_device_refuses_what_is_not_there():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "npu")
    for name in ("abacus", "cuda:99", "cpu:x"):
        with pytest.raises(UserError, match=rf"device={name} is not available here; give one of auto"):
            choose_device(name)
