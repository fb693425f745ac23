import numpy as np
import onnx
import pytest

from icnet.deploy.export import GraphSpec, describe, export_onnx
from icnet.deploy.export.verify import sample_images, verify
from icnet.deploy.runtimes.heads import HEADS
from icnet.deploy.runtimes.onnx_seal import CONTENT_SHA256
from icnet.deploy.runtimes.onnx_segmenter import OnnxSegmenter
from icnet.deploy.trained_network import read_network
from icnet.errors import UserError


@pytest.mark.parametrize("head", HEADS)
def test_tampered_weights_fail_the_verification(net, normalizer, checkpoint, tmp_path, head):
    path = tmp_path / "net.onnx"
    export_onnx(net, normalizer, path, GraphSpec(64, 128, head=head), describe(read_network(checkpoint)))
    pictures = sample_images(None, None, 1)
    verify(OnnxSegmenter(path), net, normalizer, pictures, [(64, 128)])
    model = onnx.load(path)
    weight = next(w for w in model.graph.initializer if "classifier" in w.name)
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0] += 0.1
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    kept = [entry for entry in model.metadata_props if entry.key != CONTENT_SHA256]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, path)

    with pytest.raises(UserError, match=r"differs from the network by .* more than 0\.001, and was not kept"):
        verify(OnnxSegmenter(path), net, normalizer, pictures, [(64, 128)])


def test_rounding_of_large_logits_is_no_difference(make_net, normalizer, checkpoint, tmp_path):
    net = make_net()
    net.classifier.weight.mul_(1e5)
    export_onnx(net, normalizer, tmp_path / "net.onnx", GraphSpec(64, 64), describe(read_network(checkpoint)))
    agreement = verify(OnnxSegmenter(tmp_path / "net.onnx"), net, normalizer, [], [(64, 64)])
    assert agreement.max_difference > 0.001
    net.classifier.weight[3].mul_(1.01)
    with pytest.raises(UserError, match="differs from the network by"):
        verify(OnnxSegmenter(tmp_path / "net.onnx"), net, normalizer, [], [(64, 64)])


def test_a_network_that_yields_nan_fails_the_verification(make_net, normalizer, checkpoint, tmp_path):
    net = make_net()
    net.classifier.weight[3] = float("nan")
    export_onnx(net, normalizer, tmp_path / "net.onnx", GraphSpec(64, 64), describe(read_network(checkpoint)))
    with pytest.raises(UserError, match="differs from the network by nan"):
        verify(OnnxSegmenter(tmp_path / "net.onnx"), net, normalizer, [], [(64, 64)])


def test_verification_images_come_from_the_best_source(tmp_path):
    import cv2

    picture = np.full((20, 30, 3), (10, 20, 30), np.uint8)
    for name in ("leftImg8bit/val/a.png", "gtFine/val/a.png", "other.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        if path.suffix == ".png":
            cv2.imwrite(str(path), picture[..., ::-1] if "left" in name else 0 * picture)

    (tmp_path / "leftImg8bit/val/._a.png").write_bytes(b"what macOS leaves beside a.png")
    (found,) = sample_images(None, str(tmp_path))
    assert np.array_equal(found, picture)
    (found,) = sample_images(str(tmp_path / "leftImg8bit"), None)
    assert np.array_equal(found, picture)
    assert np.array_equal(sample_images(str(tmp_path / "left*/**/*.png"), None)[0], picture)
    assert [p.shape for p in sample_images(None, str(tmp_path / "nowhere"))] == [(512, 1024, 3)] * 2
    with pytest.raises(UserError, match=r"export\.images=.*nothing.* matches no image"):
        sample_images(str(tmp_path / "nothing*"), None)
    with pytest.raises(UserError, match=r"other\.txt cannot be decoded as an image"):
        sample_images(str(tmp_path / "other.txt"), None)


def test_truncated_verification_images_are_refused_where_they_were_named(tmp_path):
    import cv2

    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    content = cv2.imencode(".jpg", pixels)[1].tobytes()
    (tmp_path / "a_half.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "b_whole.jpg").write_bytes(content)

    for given in ("", "*.jpg", "a_half.jpg"):
        with pytest.raises(UserError, match=r"a_half\.jpg is truncated"):
            sample_images(str(tmp_path / given), None)
    (found,) = sample_images(None, str(tmp_path))  # of the data set's images the next one will do
    assert np.array_equal(found, cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB))
