import numpy as np
import pytest
import torch

from icnet.deploy import trained_network
from icnet.deploy.trained_network import distinct_palette, read_network
from icnet.errors import UserError


def test_network_of_a_file_that_lacks_it_is_not_built(tmp_path, monkeypatch):
    model = {"name": "icnet", "options": {"backbone": "resnet152"}, "num_classes": 2}  # a promise of 230 MB
    torch.save({"icnet": {"model": model}, "state_dict": {"net.x": torch.ones(1)}}, tmp_path / "x.ckpt")
    monkeypatch.setattr(trained_network, "rebuild_network", lambda *_, **__: pytest.fail("it was built"))
    with pytest.raises(UserError, match=r"x\.ckpt does not fit this network: \d+ missing .*1 unexpected \(x\)"):
        read_network(tmp_path / "x.ckpt")


def test_generated_colours_differ():
    palette = np.array(distinct_palette(60), int)
    gaps = np.abs(palette[:, None] - palette[None]).sum(-1) + 1000 * np.eye(60, dtype=int)
    assert palette.shape == (60, 3)
    assert gaps.min() >= 8
    assert palette.max(axis=1).min() > 60  # nothing near black, the colour of ignored pixels
