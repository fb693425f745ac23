"""The weights that come with the project: found by name, used where there is nothing else, as their card says."""

import re
from pathlib import Path

import numpy as np
import pytest

import icnet
from icnet.data.images import read_image
from icnet.deploy import shipped
from icnet.deploy.export import GraphSpec, export_verified
from icnet.deploy.locate import find_checkpoint
from icnet.deploy.shipped import SHIPPED, usual_side
from icnet.deploy.trained_network import read_network
from icnet.errors import UserError

ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "docs" / "photo.jpg"


def test_name_stands_for_its_file(tmp_path):
    path = SHIPPED["camvid"].path
    assert path.is_relative_to(ROOT / "weights")
    assert find_checkpoint("camvid", tmp_path) == path
    assert usual_side(path) == 360
    assert usual_side(tmp_path / path.name) is None


def test_weights_serve_where_nothing_was_trained_and_only_where_they_may(tmp_path, caplog):
    caplog.set_level("INFO", "icnet")
    assert find_checkpoint(None, tmp_path / "outputs", or_shipped=True) == SHIPPED["camvid"].path
    assert "using camvid, a small network for street scenes in 11 classes, for non-commercial use" in caplog.text
    with pytest.raises(UserError, match="such as ckpt=camvid"):
        find_checkpoint(None, tmp_path / "outputs")
    best = tmp_path / "outputs" / "run" / "checkpoints" / "best.ckpt"
    best.parent.mkdir(parents=True)
    best.touch()
    assert find_checkpoint(None, tmp_path / "outputs", or_shipped=True) == best


def test_missing_file_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    with pytest.raises(UserError, match=r"there is no .*icnet_lite0_camvid\.safetensors, which comes with a clone"):
        icnet.load("camvid")


def test_photo_of_any_size_gets_the_labels_of_one_that_is_360_pixels_high():
    net = icnet.load("camvid", "cpu")
    assert net.trained_on == "camvid"
    assert len(net.classes) == 11
    assert SHIPPED["camvid"].path.stat().st_size < 9e6
    image = read_image(PHOTO)
    labels = net(image)
    assert labels.shape == image.shape[:2]
    # What anybody sees on it: a road below, sky above.
    names = np.array(net.classes.names)
    height, width = labels.shape
    assert (names[labels[-height // 8 :, width // 3 : -width // 3]] == "road").mean() > 0.8


def test_demo_without_checkpoint_shows_a_photo_and_says_what_it_used(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = script("demo", f"input={PHOTO}", f"output={tmp_path / 'shown'}")
    assert done.status == 0, done.err
    assert "using camvid" in done.out + done.err
    assert "model trained on camvid" in done.out
    assert (tmp_path / "shown" / "photo_overlay.png").is_file()


def test_card_names_classes_scores_and_terms():
    card = (ROOT / "weights" / "README.md").read_text(encoding="utf-8")
    scores = dict(re.findall(r"^\| (\w+) \| ([\d.]+) \|$", card, re.MULTILINE))
    assert tuple(scores) == icnet.load("camvid", "cpu").classes.names
    (mean,) = re.findall(r"^\| \*\*mean\*\* \| \*\*([\d.]+)\*\* \|$", card, re.MULTILINE)
    assert float(mean) == pytest.approx(sum(map(float, scores.values())) / len(scores), abs=0.01)
    assert "non-commercial" in card


@pytest.mark.slow
def test_exported_network_gives_its_labels(tmp_path):
    network, path = read_network(SHIPPED["camvid"].path), tmp_path / "camvid.onnx"
    agreement = export_verified(network, path, GraphSpec(360, 640, head="argmax", normalize=True), str(PHOTO))
    assert agreement.label_agreement > 0.9999
    assert (icnet.load(path)(PHOTO) == icnet.load("camvid", "cpu")(PHOTO)).mean() > 0.98  # resized in other ways
