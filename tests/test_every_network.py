"""Every network goes from training to the demo by the scripts, at every opt level."""

import json
from pathlib import Path

import cv2
import pytest
import torch

from icnet.models import NETWORKS
from icnet.models.checkpoints import read_checkpoint
from tests.conftest import LARGEST_TIES
from tests.models.network_tester import SMALL

pytestmark = pytest.mark.slow

NAMES = [name for name in NETWORKS if name not in {"icnet_mmseg", "icnet_zh320", "icnet_paper"}]
"""All but those that go from a published file to the demo, in tests of their own in tests/models."""


@pytest.fixture
def train(script, small, tmp_path):
    """Train one of the networks for so many steps; returns its last checkpoint."""

    def run(name: str, steps: int, *overrides: str, folder: str = "run") -> Path:
        model = "_".join((name, *SMALL.get(name, {}).values()))
        done = script(
            "train", *small, f"model={model}", "trainer.max_epochs=1", f"trainer.max_steps={steps}",
            "callbacks.checkpoint_every_n_steps=1", *overrides, f"hydra.run.dir={tmp_path / folder}",
        )  # fmt: skip
        assert done.status == 0, done.err
        return tmp_path / folder / "checkpoints" / "last.ckpt"

    return run


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", ["o0", "o1", "o2", "bf16"])
def test_two_steps_resumed_equal_two_steps(name, level, train):
    words = (f"amp={level}", "trainer.limit_val_batches=0")
    whole = read_checkpoint(train(name, 2, *words, folder="whole"))
    half = train(name, 1, *words, folder="half")
    resumed = read_checkpoint(train(name, 2, *words, f"resume={half}", folder="resumed"))
    assert whole.network.name == name
    different = [key for key, value in whole.state_dict.items() if not torch.equal(value, resumed.state_dict[key])]
    assert different == []


@pytest.mark.parametrize("name", NAMES)
def test_network_goes_from_training_to_the_demo(name, train, script, street_root, tmp_path, count_alike):
    files = {"network": train(name, 2)}
    for kind in ("static", "dynamic"):
        files[kind] = tmp_path / f"{kind}.onnx"
        done = script(
            "export", f"ckpt={files['network']}", "export.height=64", "export.width=128", f"output={files[kind]}",
            f"export.dynamic_size={kind == 'dynamic'}",
        )  # fmt: skip
        assert done.status == 0, done.err
        assert "largest difference" in done.out
    photo, scores, labels = next((street_root / "leftImg8bit" / "val").rglob("*.png")), [], []
    for kind, file in files.items():
        done = script(
            "eval", f"ckpt={file}", f"data.root={street_root}", "trainer=cpu_1p", "trainer.progress_bar=false",
            f"hydra.run.dir={tmp_path / kind}",
        )  # fmt: skip
        assert done.status == 0, done.err
        scores.append(json.loads((tmp_path / kind / "results.json").read_text()))
        shown = tmp_path / f"{kind}_shown"
        done = script("demo", f"ckpt={file}", f"input={photo}", f"output={shown}", "device=cpu")
        assert done.status == 0, done.err
        (ids,) = shown.rglob("*_ids.png")
        labels.append(cv2.imread(str(ids), cv2.IMREAD_UNCHANGED))
    for other in (1, 2):
        assert count_alike(scores[0], scores[other])
        assert (labels[0] != labels[other]).sum() <= LARGEST_TIES
