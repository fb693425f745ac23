"""OpenVINO's models: written, opened and run where openvino is installed; what needs none of it is tested anywhere."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import icnet
from icnet.deploy import open_segmenter
from icnet.deploy.export import GraphSpec, export_verified
from icnet.deploy.runtimes.heads import HEADS
from icnet.deploy.runtimes.onnx_seal import CONTENT_SHA256, UNSEALED
from icnet.deploy.runtimes.openvino_segmenter import OpenVINOSegmenter, refuse_changed, seal
from icnet.deploy.trained_network import read_network
from icnet.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def pair(tmp_path) -> Path:
    """What lies on the disk, without a model in it."""
    path = tmp_path / "net.xml"
    path.write_text(f'<net><icnet><a value="1" /><{CONTENT_SHA256} value="{UNSEALED}" /><b value="2" /></icnet></net>')
    path.with_suffix(".bin").write_bytes(bytes(range(256)) * 5000)
    seal(path)
    return path


def test_whole_pair_passes_and_every_change_of_either_file_is_refused(pair):
    refuse_changed(pair)
    for file in (pair, pair.with_suffix(".bin")):
        content = file.read_bytes()
        for changed in (content[:-1], content + b" ", content.replace(b"1", b"3", 1), content[:9] + content[10:]):
            file.write_bytes(changed)
            with pytest.raises(UserError, match=r"net\.xml and its \.bin are not as export\.py wrote them"):
                refuse_changed(pair)
        file.write_bytes(content)
    refuse_changed(pair)


def test_pair_that_another_program_wrote_passes(tmp_path):
    path = tmp_path / "net.xml"
    path.write_text("<net></net>")
    path.with_suffix(".bin").write_bytes(b"weights")
    refuse_changed(path)


def test_missing_half_is_named(pair):
    pair.with_suffix(".bin").unlink()
    with pytest.raises(UserError, match=r"there is no file .*net\.bin; give the path of an \.xml file with its \.bin"):
        open_segmenter(pair, CPU)
    with pytest.raises(UserError, match=r"there is no file .*absent\.xml"):
        open_segmenter(pair.with_name("absent.xml"), CPU)


def test_missing_openvino_is_named_with_what_to_install(pair, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"takes openvino; run 'pip install openvino'"):
        open_segmenter(pair, CPU)
    with pytest.raises(UserError, match=r"takes openvino; run 'pip install openvino'"):
        export_verified(read_network(checkpoint), tmp_path / "out" / "net.xml", GraphSpec(64, 64), target="openvino")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory) -> Path:
    pytest.importorskip("openvino")
    path = tmp_path_factory.mktemp("openvino") / "net.xml"
    export_verified(read_network(checkpoint), path, GraphSpec(96, 160, 2), target="openvino")
    return path


def test_model_gives_the_networks_logits_for_any_number_of_images(exported, checkpoint):
    images = torch.randint(0, 256, (5, 3, 96, 160), dtype=torch.uint8)
    opened = open_segmenter(exported, CPU)
    assert (opened.runtime, opened.batch) == ("openvino", 2)
    torch.testing.assert_close(opened(images), open_segmenter(checkpoint, CPU)(images), atol=1e-4, rtol=0)


def test_results_are_not_written_over_by_the_next(exported):
    images = torch.randint(0, 256, (2, 2, 3, 96, 160), dtype=torch.uint8)
    opened = open_segmenter(exported, CPU)
    first = opened(images[0])
    kept = first.clone()
    assert not torch.equal(opened(images[1]), kept)
    assert torch.equal(first, kept)


def test_facts_lie_beside_the_pair(exported):
    assert sorted(file.name for file in exported.parent.iterdir()) == ["net.bin", "net.xml", "net.xml.json"]
    told = json.loads(exported.with_name("net.xml.json").read_text())
    assert sorted(told["files"]) == ["net.bin", "net.xml"]
    assert told["checked"]["runtime"] == "openvino"
    assert "graph.onnx" not in exported.read_text()  # nothing of where it was made


@pytest.mark.parametrize("head", HEADS)
def test_every_head_and_open_sides_agree(checkpoint, image, tmp_path, head):
    pytest.importorskip("openvino")
    path = tmp_path / "net.xml"
    export_verified(
        read_network(checkpoint), path, GraphSpec(96, 160, None, dynamic_size=True, head=head, normalize=True),
        target="openvino",
    )  # fmt: skip
    opened, pixels = icnet.load(path, "cpu"), image[0, :, :70, :101].permute(1, 2, 0).numpy()
    assert (opened(pixels) == icnet.load(checkpoint, "cpu")(pixels)).mean() > 0.999


@pytest.mark.parametrize("head", ["argmax", "argmax_u8"])
def test_labels_at_borders_agree_and_the_pair_is_sealed_once(checkpoint, image, tmp_path, head):
    pytest.importorskip("openvino")
    path = tmp_path / "net.xml"
    export_verified(read_network(checkpoint), path, GraphSpec(96, 160, 2, head=head, profile="cpu"), target="openvino")
    assert path.read_text().count(CONTENT_SHA256) == 1  # the branches of an If have information of their own
    assert 'type="If"' in path.read_text()
    pixels = image[0, :, :96, :160].permute(1, 2, 0).numpy()
    assert pixels.shape == (96, 160, 3)
    assert (icnet.load(path, "cpu")(pixels) == icnet.load(checkpoint, "cpu")(pixels)).mean() > 0.999


def test_flipped_bits_of_the_pair_are_refused(exported, tmp_path):
    rng = np.random.default_rng(3)
    for name in ("net.xml", "net.bin"):
        for other in ("net.xml", "net.bin"):
            (tmp_path / other).write_bytes((exported.parent / other).read_bytes())
        content = bytearray((tmp_path / name).read_bytes())
        content[rng.integers(len(content))] ^= 1
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError):
            OpenVINOSegmenter(tmp_path / "net.xml")
