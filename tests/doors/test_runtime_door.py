"""A runtime for a suffix of its own, registered from outside: it is defined here and known nowhere else."""

import json
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import icnet
from icnet.data import ClassTable
from icnet.deploy import RUNTIMES, Segmenter
from icnet.deploy.locate import find_checkpoint
from icnet.errors import UserError
from icnet.report.__main__ import main as report

NAMES, COLOURS = ("dark", "bright"), ((40, 0, 80), (250, 220, 0))

pytestmark = pytest.mark.slow


class ToySegmenter(Segmenter):
    """Calls what is brighter than a threshold bright; its files are JSON."""

    runtime = "toy"

    @classmethod
    def open(cls, path: Path, device: torch.device) -> "ToySegmenter":
        if not path.is_file():
            raise UserError(f"there is no toy at {path}")
        opened = cls(ClassTable(NAMES, COLOURS), json.loads(path.read_text()), path)
        return opened.to(device)

    @classmethod
    def suffix_of(cls, head: bytes) -> str:
        return ".toy" if head.startswith(b'{"threshold"') else ""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        brightness = image.float().mean(1) - self.meta["threshold"]
        return torch.stack([-brightness, brightness], 1)


@pytest.fixture
def toy(monkeypatch, tmp_path) -> Path:
    """Register the runtime and write a file for it, which tells of data in the layout of a folder."""
    monkeypatch.setitem(RUNTIMES, ".toy", ToySegmenter)
    path = tmp_path / "x.toy"
    path.write_text(json.dumps({"threshold": 100, "data": {"name": "folder", "workers": 0}}))
    return path


@pytest.fixture
def lamps(tmp_path) -> Path:
    """Two images of a dark and a bright half, and masks that agree with them but for ten columns."""
    root = tmp_path / "lamps"
    for kind in ("images", "masks"):
        (root / kind / "val").mkdir(parents=True)
    for number in range(2):
        image, mask = np.full((64, 100, 3), 20, np.uint8), np.zeros((64, 100), np.uint8)
        image[:, 50:] = 200
        mask[:, 60:] = 1
        cv2.imwrite(str(root / f"images/val/{number}.png"), image)
        cv2.imwrite(str(root / f"masks/val/{number}.png"), mask)
    rows = [f"{{name: {name}, color: {list(colour)}}}" for name, colour in zip(NAMES, COLOURS, strict=True)]
    (root / "classes.yaml").write_text(f"classes: [{', '.join(rows)}]\n")
    return root


def test_runtime_of_ones_own_is_evaluated_shown_and_reported(script, toy, lamps, tmp_path):
    run = tmp_path / "eval"
    done = script(
        "eval", f"ckpt={toy}", f"data.root={lamps}", "trainer=cpu_1p", "trainer.progress_bar=false",
        f"hydra.run.dir={run}",
    )  # fmt: skip
    assert done.status == 0, done.err
    results = json.loads((run / "results.json").read_text())
    assert results["runtime"] == "toy"
    assert results["data"] == "folder"
    assert results["confusion"] == [[2 * 64 * 50, 2 * 64 * 10], [0, 2 * 64 * 40]]
    assert results["iou"] == {"dark": pytest.approx(50 / 60), "bright": pytest.approx(40 / 50)}

    done = script("demo", f"ckpt={toy}", f"input={lamps / 'images/val'}", f"output={tmp_path / 'shown'}", "device=cpu")
    assert done.status == 0, done.err
    assert "(toy)" in done.out
    assert "trained on folder" in done.out
    painted = cv2.imread(str(tmp_path / "shown/0_labels.png"))[..., ::-1]
    assert tuple(painted[0, 0]) == COLOURS[0]
    assert tuple(painted[0, 99]) == COLOURS[1]

    assert report([str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "toy" in page
    assert "bright" in page


def test_runtime_of_ones_own_opens_in_python(toy, lamps):
    image = cv2.imread(str(lamps / "images/val/0.png"))[..., ::-1].copy()
    expected = np.repeat([0, 1], 50)[None].repeat(64, 0)
    with toy.open("rb") as file:
        opened = icnet.load(file, "cpu")  # told by its name
    for model in (icnet.load(toy, "cpu"), opened, icnet.load(BytesIO(toy.read_bytes()), "cpu")):  # by its content
        assert np.array_equal(model(image), expected)
        assert model.classes.names == NAMES
        assert model.runtime == "toy"
        assert model.trained_on == "folder"
        np.testing.assert_array_equal(model(image, logits=True)[1, 0, [0, 99]], [-80, 100])


def test_messages_name_the_suffix_once_it_is_registered(toy, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"a\.txt is no model; give a file that ends in \.ckpt, .*\.onnx, .*\.toy$"):
        icnet.load(tmp_path / "a.txt", "cpu")
    with pytest.raises(UserError, match=r"absent\.toy does not exist; give the path of .* ends in .*\.toy, or camvid$"):
        find_checkpoint("absent.toy")
    with pytest.raises(UserError, match="there is no toy at"):
        icnet.load(tmp_path / "absent.toy", "cpu")
    monkeypatch.delitem(RUNTIMES, ".toy")
    with pytest.raises(UserError, match=r"x\.toy is no model; give a file that ends in \.ckpt"):
        icnet.load(toy, "cpu")


def test_export_refuses_what_is_no_checkpoint(script, toy):
    done = script("export", f"ckpt={toy}")
    assert done.status == 2
    assert "x.toy is no checkpoint" in done.error
