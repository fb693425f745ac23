"""The guard of int8, with a quantizer that only pretends: what it measures, keeps and refuses."""

import json
import re
import zlib
from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest

from icnet.deploy.export import GraphSpec, Labelled, ProvingGround, export_verified, guard
from icnet.deploy.export.guard import agreement
from icnet.deploy.trained_network import read_network
from icnet.errors import UserError
from icnet.run.exports import facts_file, read_scores, scores_in
from icnet.run.results import EvaluationRecord

SPEC = GraphSpec(64, 64, precision="int8")


def packed(*labels: int) -> bytes:
    return zlib.compress(np.array(labels, np.uint8).tobytes())


def test_agreement_counts_pixels_of_images_of_any_size():
    assert agreement([packed(1, 2, 3, 4), packed(5)], [packed(1, 2, 0, 4), packed(0)]) == 3 / 5


@pytest.fixture
def ground(tmp_path, monkeypatch):
    """Two images to calibrate on, and scores by what the graph says of itself; what was scored is in the second."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(guard, "quantize", lambda model, *_, **__: named(model, "int8"))
    monkeypatch.setattr("icnet.deploy.export.run.import_nncf", lambda: None)
    images = [tmp_path / "train" / name for name in ("a.png", "b.png")]
    images[0].parent.mkdir()
    for image in images:
        cv2.imwrite(str(image), np.zeros((64, 64, 3), np.uint8))
    scored = []

    def make(max_drop: float, **miou: float) -> tuple[ProvingGround, list]:
        def score(path, positions):
            kind = onnx.load(path).graph.doc_string or "float32"
            scored.append((kind, positions))
            iou = {} if miou[kind] is None else {"road": miou[kind], "pole": miou[kind] / 2}
            label = 0 if kind == "float32" else 1
            labels = [packed(0, 0, 0, label), packed(0, 0, 0, 0)]
            picked = labels if positions is None else [labels[position] for position in positions]
            return Labelled(EvaluationRecord(miou=miou[kind], iou=iou), picked)

        return ProvingGround(images, None, score, "some", "val", max_drop), scored

    return make


def named(model, name):
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    copied.graph.doc_string = name
    return copied


@pytest.mark.parametrize("miou", [{"float32": None, "int8": None}, {"float32": 0.5, "int8": None}])
def test_data_in_which_nothing_is_labelled_prove_nothing(ground, checkpoint, tmp_path, miou):
    there, _ = ground(100, **miou)
    with pytest.raises(UserError, match="takes mIoU from .* to absent %, .* and was not kept"):
        export_verified(read_network(checkpoint), tmp_path / "out" / "net.onnx", SPEC, ground=there)
    assert not list((tmp_path / "out").iterdir())


def test_file_that_keeps_its_miou_is_written_with_its_scores(ground, checkpoint, tmp_path):
    there, scored = ground(0.5, float32=0.7, int8=0.696)
    path = tmp_path / "out" / "net.onnx"
    export_verified(read_network(checkpoint), path, SPEC, ground=there)
    assert scored == [("float32", None), ("int8", None)]
    assert onnx.load(path).graph.doc_string == "int8"
    scores = read_scores(path)
    assert (scores.before.miou, scores.after.miou, scores.label_agreement) == (0.7, 0.696, 7 / 8)
    assert scores.rows() == [("mIoU", 0.7, 0.696), ("road", 0.7, 0.696), ("pole", 0.35, 0.348)]
    assert scores.after.bytes == path.stat().st_size
    assert scores.before.latency_ms > 0
    assert (scores.calibration_images, scores.calibration_folder) == (2, str(tmp_path / "train"))
    facts = json.loads((tmp_path / "out" / "net.onnx.json").read_text())
    assert facts["graph"]["precision"] == facts["metadata"]["precision"] == "int8"
    assert sorted(file.name for file in path.parent.iterdir()) == ["net.onnx", "net.onnx.json"]


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"another"), lambda path: path.unlink()])
def test_scores_are_not_told_of_a_file_that_took_the_place_of_the_one_scored(ground, checkpoint, tmp_path, change):
    there, _ = ground(0.5, float32=0.7, int8=0.696)
    path = tmp_path / "net.onnx"
    export_verified(read_network(checkpoint), path, SPEC, ground=there)
    facts = facts_file(path)
    path = path.rename(tmp_path / "other.onnx")
    facts.rename(facts_file(path))
    assert [name for name, _ in scores_in(tmp_path)] == ["other.onnx"]  # both were renamed
    change(path)
    assert read_scores(path) is None
    assert list(scores_in(tmp_path)) == []


def test_layers_that_cost_too_much_are_looked_for_and_named(ground, checkpoint, tmp_path, monkeypatch):
    there, scored = ground(0.5, float32=0.7, int8=0.6, mixed=0.698)
    asked = []

    def within(model, images, prepare, validation, validate, max_drop, *, symmetric):
        asked.append((validation, max_drop, prepare(images[0]).shape))
        asked.append(validate(model, [0, 1]))  # the float graph, known already
        asked.append(validate(named(model, "int8"), [0]))
        return named(model, "mixed")

    monkeypatch.setattr(guard, "quantize_within", within)
    monkeypatch.setattr(
        guard, "layers_in_float", lambda model: {"": ["a", "b"], "int8": [], "mixed": ["b"]}[model.graph.doc_string]
    )
    path = tmp_path / "net.onnx"
    export_verified(read_network(checkpoint), path, SPEC, ground=there)
    assert asked == [(2, 0.005, (1, 3, 64, 64)), (0.7, [1.0, 1.0]), (0.6, [0.75])]
    assert scored == [("float32", None), ("int8", None), ("int8", [0]), ("mixed", None)]
    assert (read_scores(path).in_float, read_scores(path).after.miou) == (["b"], 0.698)


def test_graph_that_is_tried_stays_as_it_is(ground, checkpoint, tmp_path, monkeypatch):
    there, _ = ground(0.5, float32=0.7, int8=0.6, mixed=0.7)

    def within(model, images, prepare, validation, validate, max_drop, *, symmetric):
        tried = named(model, "int8")
        before = tried.SerializeToString()
        validate(tried, [0])
        assert tried.SerializeToString() == before
        return named(model, "mixed")

    monkeypatch.setattr(guard, "quantize_within", within)
    spec = replace(SPEC, profile="cpu", head="argmax")
    export_verified(read_network(checkpoint), tmp_path / "net.onnx", spec, ground=there)
    assert "If" in {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}


def test_drop_out_of_reach_is_refused_with_the_table_and_an_older_file_stays(ground, checkpoint, tmp_path, monkeypatch):
    there, _ = ground(0.5, float32=0.7, int8=0.6)

    def within(model, images, prepare, validation, validate, max_drop, *, symmetric):
        validate(named(model, "int8"), [0, 1])
        return named(model, "int8")

    monkeypatch.setattr(guard, "quantize_within", within)
    monkeypatch.setattr(guard, "layers_in_float", lambda model: ["a"] * (model.graph.doc_string == ""))
    path = tmp_path / "out" / "net.onnx"
    path.parent.mkdir()
    path.write_bytes(b"older")
    told = (
        "int8 takes mIoU from 70.00 to 60.00 %, by more than export.max_drop=0.5 points, and was not kept (most lost: "
        "road 70.00 to 60.00, pole 35.00 to 30.00; tried: 60.00 with every layer in int8); allow more"
    )
    with pytest.raises(UserError, match=re.escape(told)):
        export_verified(read_network(checkpoint), path, SPEC, ground=there)
    assert [(file.name, file.read_bytes()) for file in path.parent.iterdir()] == [("net.onnx", b"older")]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize(
    ("target", "suffix", "advice"), [("pt2", "pt2", "give export.target=onnx or openvino"), ("om", "om", "AMCT")]
)
def test_other_targets_refuse_other_precisions(checkpoint, tmp_path, precision, target, suffix, advice):
    with pytest.raises(
        UserError, match=rf"export\.precision={precision} is not for export\.target={target}; .*{advice}"
    ):
        export_verified(
            read_network(checkpoint), tmp_path / f"net.{suffix}", GraphSpec(64, 64, precision=precision), target=target
        )


def test_older_opset_is_refused():
    with pytest.raises(UserError, match=r"export\.opset=12 has no scale for each channel, .* give 13 or more"):
        GraphSpec(64, 64, opset=12, precision="int8")


@pytest.mark.parametrize("head", ["logits", "argmax"])
def test_float16_keeps_labels_and_is_half_as_large(checkpoint, tmp_path, head):
    network = read_network(checkpoint)
    sizes = []
    for precision in ("fp32", "fp16"):
        path = tmp_path / f"{precision}.onnx"
        found = export_verified(network, path, GraphSpec(96, 160, head=head, precision=precision))
        assert found.label_agreement > 0.98
        sizes.append(path.stat().st_size)
    assert 0.5 < sizes[1] / sizes[0] < 0.52
    kinds = {weight.data_type for weight in onnx.load(path).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert onnx.load(path).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_weights_beside_a_file_are_openvinos_alone(tmp_path):
    for name, count in (("net.xml", 10), ("net.bin", 300), ("net.onnx", 7000)):
        (tmp_path / name).write_bytes(bytes(count))
    assert guard.size(tmp_path / "net.xml") == 310
    assert guard.size(tmp_path / "net.onnx") == 7000
