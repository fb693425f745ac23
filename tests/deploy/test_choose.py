import os

import pytest
import torch

from icnet.deploy.choose import choose_device, find_checkpoint
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
    with pytest.raises(UserError, match=r"no best checkpoint below .*outputs/; train first .* or give ckpt=PATH"):
        find_checkpoint(None, tmp_path / "outputs")
    with pytest.raises(UserError, match=r"ckpt=absent\.ckpt does not exist"):
        find_checkpoint("absent.ckpt", tmp_path)


def test_choose_device_refuses_what_is_not_there():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "npu")
    for name in ("abacus", "cuda:99", "cpu:x"):
        with pytest.raises(UserError, match=rf"device={name} is not available here; give one of auto"):
            choose_device(name)
