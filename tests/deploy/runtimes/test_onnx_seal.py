"""Exported files that were changed: refused, or what they give is what was written."""

import hashlib
import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from icnet.deploy.export import GraphSpec, export_onnx
from icnet.deploy.runtimes.onnx_seal import CONTENT_SHA256, refuse_changed
from icnet.deploy.runtimes.onnx_segmenter import OnnxSegmenter
from icnet.errors import UserError
from icnet.models import SegmentationNetwork
from icnet.models.modules import ImageNormalizer


class Tiny(SegmentationNetwork):
    """A graph of a few kilobytes."""

    loss_weights = {"main": 1.0}

    def __init__(self) -> None:
        super().__init__(3)
        self.main = nn.Sequential(nn.Conv2d(3, 9, 3, padding=1), nn.ReLU(), nn.Conv2d(9, 3, 1))

    def forward(self, image):
        return self.main(image)


@pytest.fixture(scope="module", params=[11, 17, 21])
def exported(request, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    about = {
        "names": ["road", "sky", "tree"], "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]], "mean": [0.5] * 3,
        "std": [0.25] * 3, "min_side": 1,
    }  # fmt: skip
    metadata = {key: json.dumps(value) for key, value in about.items()}
    export_onnx(Tiny(), ImageNormalizer(), path, GraphSpec(8, 8, opset=request.param), metadata)
    return path


def test_hash_is_that_of_the_file_with_zeros_in_its_place(exported):
    told = {entry.key: entry.value for entry in onnx.load(exported).metadata_props}[CONTENT_SHA256]
    content = exported.read_bytes()
    assert content.count(told.encode()) == 1
    assert hashlib.sha256(content.replace(told.encode(), b"0" * 64)).hexdigest() == told
    onnx.checker.check_model(str(exported), full_check=True)
    refuse_changed(exported)


def test_changed_file_is_refused_or_the_same(exported, tmp_path):
    from tests.models.test_integrity import damage

    image = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    whole, content, path = OnnxSegmenter(exported), exported.read_bytes(), tmp_path / "damaged.onnx"
    rng, refused = np.random.default_rng(5), 0
    for _ in range(60):
        path.write_bytes(damage(content, rng))
        try:
            found = OnnxSegmenter(path)
        except UserError:
            refused += 1
            continue
        assert torch.equal(found(image), whole(image))
        assert found.classes == whole.classes
        assert {**found.meta, CONTENT_SHA256: ""} == {**whole.meta, CONTENT_SHA256: ""}
    assert refused > 50


def test_flipped_weight_is_refused_in_one_line(exported, tmp_path):
    (weight,) = (w for w in onnx.load(exported).graph.initializer if list(w.dims) == [3, 9, 1, 1])
    content = bytearray(exported.read_bytes())
    content[content.index(weight.raw_data) + 2] ^= 1
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"net\.onnx is not as export\.py wrote it: its SHA-256 .*; copy it or export"):
        OnnxSegmenter(tmp_path / "net.onnx")


def test_file_that_another_program_saved_again_runs_without_the_entry(exported, tmp_path):
    model, path = onnx.load(exported), tmp_path / "net.onnx"
    model.doc_string = "simplified"
    onnx.save(model, path)
    with pytest.raises(UserError, match=f"remove the entry {CONTENT_SHA256}"):
        OnnxSegmenter(path)
    kept = [entry for entry in model.metadata_props if entry.key != CONTENT_SHA256]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, path)
    assert OnnxSegmenter(path).classes.names == ("road", "sky", "tree")
