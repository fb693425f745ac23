"""The Python API: what goes in, what comes out, the same whatever runs it."""

import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import icnet
from icnet.data.images import read_image
from icnet.data.labels import CITYSCAPES_CLASSES
from icnet.deploy import RUNTIMES, Segmenter
from icnet.deploy.api import to_rgb
from icnet.deploy.demo import Demo
from icnet.deploy.export import GraphSpec, describe, export_onnx
from icnet.deploy.inference import Inference
from icnet.deploy.trained_network import read_network
from icnet.errors import UserError


def export(checkpoint: Path, path: Path, **options) -> Path:
    model = read_network(checkpoint)
    export_onnx(model.net, model.normalizer, path, GraphSpec(height=64, width=96, **options), describe(model))
    return path


@pytest.fixture(scope="module")
def model(checkpoint) -> icnet.Model:
    return icnet.load(checkpoint, "cpu")


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    assert cv2.imwrite(str(path), np.random.default_rng(3).integers(0, 256, (64, 96, 3), np.uint8))
    return path


@pytest.fixture(scope="module")
def pixels(photo) -> np.ndarray:
    return read_image(photo)


def test_labels_are_the_networks(model, net, normalizer, pixels):
    with torch.inference_mode():
        expected = net(normalizer(torch.from_numpy(pixels).permute(2, 0, 1)[None]))[0]
    labels = model(pixels)
    assert (labels.shape, labels.dtype) == ((64, 96), np.uint8)
    assert (labels == expected.argmax(0).numpy()).mean() > 0.999
    logits = model(pixels, logits=True)
    assert (logits.shape, logits.dtype) == ((19, 64, 96), np.float32)
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)
    probabilities = model(pixels, probabilities=True)
    np.testing.assert_allclose(probabilities, expected.softmax(0).numpy(), atol=1e-4)
    assert np.array_equal(logits.argmax(0), labels)
    assert np.array_equal(probabilities.argmax(0), labels)


def test_every_kind_of_image_gives_the_same_labels(model, photo, pixels):
    expected = model(pixels)
    opened = Image.open(photo)
    rgba = opened.copy()
    rgba.putalpha(7)
    frozen = pixels.view()
    frozen.flags.writeable = False
    for given in (photo, str(photo), opened, rgba, frozen, np.asfortranarray(pixels), pixels[:, ::-1][:, ::-1]):
        assert np.array_equal(model(given), expected)
    gray = Image.fromarray(pixels[..., 0])
    assert np.array_equal(model(gray), model(np.repeat(pixels[..., :1], 3, 2)))


def test_turned_photo_is_the_same_from_its_path_and_as_a_pil_image(model, tmp_path):
    path, exif = tmp_path / "turned.jpg", Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by a quarter
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (64, 96, 3), np.uint8)).save(path, exif=exif)
    assert model(path).shape == (96, 64)
    assert model(Image.open(path)).shape == (96, 64)
    assert np.abs(to_rgb(path).astype(int) - to_rgb(Image.open(path))).max() <= 8  # two decoders
    assert model.overlay(Image.open(path), model(path)).shape == (96, 64, 3)


@pytest.mark.filterwarnings("error")  # torch warns of arrays that it may not write to
def test_list_gives_a_list_of_any_sizes(model, photo, pixels):
    pixels = np.frombuffer(pixels.tobytes(), np.uint8).reshape(pixels.shape)
    found = model([pixels, photo, pixels[:9, :21]])
    assert isinstance(found, list)
    assert [labels.shape for labels in found] == [(64, 96), (64, 96), (9, 21)]
    assert np.array_equal(found[0], found[1])
    assert [one.shape for one in model((photo,), probabilities=True)] == [(19, 64, 96)]
    assert model([]) == []


def test_demo_writes_the_same_labels_and_pictures(model, photo, pixels, tmp_path):
    Demo(model, tmp_path, alpha=0.3).run([photo])
    labels = model(pixels)
    assert np.array_equal(cv2.imread(str(tmp_path / "photo_ids.png"), cv2.IMREAD_UNCHANGED), labels)
    assert np.array_equal(read_image(tmp_path / "photo_labels.png"), model.colorize(labels))
    assert np.array_equal(read_image(tmp_path / "photo_overlay.png"), model.overlay(photo, labels, 0.3))


def test_exported_file_has_the_same_face_and_answers(model, checkpoint, pixels, tmp_path):
    file = export(checkpoint, tmp_path / "net.onnx")
    exported = icnet.load(file, "cpu")
    np.testing.assert_allclose(exported(pixels, logits=True), model(pixels, logits=True), atol=1e-3)
    assert (exported(pixels) == model(pixels)).mean() > 0.999
    assert exported.classes == model.classes
    assert (model.classes.names, model.classes.palette) == (CITYSCAPES_CLASSES.names, CITYSCAPES_CLASSES.palette)
    assert (exported.runtime, model.runtime) == ("onnxruntime", "torch")
    assert np.array_equal(icnet.load(io.BytesIO(file.read_bytes()), "cpu")(pixels), exported(pixels))
    labels = icnet.load(export(checkpoint, tmp_path / "labels.onnx", head="argmax"), "cpu")
    assert (labels(pixels) == model(pixels)).mean() > 0.999
    for wanted in ("logits", "probabilities"):
        with pytest.raises(UserError, match=r"labels\.onnx knows labels only; export it with export\.head=logits"):
            labels(pixels, **{wanted: True})


def test_file_objects_open_like_their_files(model, net, checkpoint, save_reference, pixels, tmp_path):
    from safetensors.torch import save_file

    reference = save_reference(net, tmp_path / "icnet.pth")
    save_file(torch.load(reference), tmp_path / "icnet.safetensors")
    expected = model(pixels)
    for path in (checkpoint, reference, tmp_path / "icnet.safetensors"):
        assert np.array_equal(icnet.load(io.BytesIO(path.read_bytes()), "cpu")(pixels), expected)
        with path.open("rb") as file:
            assert np.array_equal(icnet.load(file, "cpu")(pixels), expected)


class Zipped(Segmenter):
    """A runtime whose files are zip archives, as those of torch are."""

    runtime = "zipped"

    @classmethod
    def open(cls, path, device):
        assert zipfile.ZipFile(path).namelist() == ["toy.json"]
        return cls(CITYSCAPES_CLASSES, {}, path)

    @classmethod
    def suffix_of(cls, head):
        return ".zipped" if head.startswith(b"PK") and head[30:38] == b"toy.json" else ""

    def forward(self, image):
        return torch.zeros(len(image), 19, *image.shape[2:])


def test_file_object_is_offered_to_the_latest_runtime_first(monkeypatch, checkpoint):
    monkeypatch.setitem(RUNTIMES, ".zipped", Zipped)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("toy.json", "{}")
    file.seek(0)
    assert icnet.load(file, "cpu").runtime == "zipped"
    assert icnet.load(io.BytesIO(checkpoint.read_bytes()), "cpu").runtime == "torch"


def test_safetensors_of_any_header_length_is_no_onnx(net, save_reference, tmp_path):
    """The length comes first, and one of 8 more than a multiple of 256 begins like an .onnx file."""
    from safetensors.torch import save_file

    tensors = torch.load(save_reference(net, tmp_path / "icnet.pth"))
    path = tmp_path / "icnet.safetensors"
    for padding in range(0, 256, 4):
        save_file(tensors, path, {"padding": "x" * padding})
        with path.open("rb") as file:
            if file.read(1) == b"\x08":
                break
    assert path.read_bytes()[:1] == b"\x08"
    assert icnet.load(io.BytesIO(path.read_bytes()), "cpu").runtime == "torch"


def test_file_without_a_path_has_no_name(checkpoint):
    with tempfile.TemporaryFile() as file:
        file.write(checkpoint.read_bytes())
        file.seek(0)
        assert icnet.load(file, "cpu").segmenter.path is None
    with tempfile.TemporaryFile() as file, pytest.raises(UserError, match="^the file object holds nothing to read"):
        icnet.load(file, "cpu")


def test_file_objects_that_hold_no_model_are_refused(checkpoint, tmp_path):
    with pytest.raises(UserError, match=r"^the file object \(1000 bytes\) is truncated or not a checkpoint"):
        icnet.load(io.BytesIO(checkpoint.read_bytes()[:1000]), "cpu")
    with pytest.raises(UserError, match="^the file object is no model; give a file that ends in"):
        icnet.load(io.BytesIO(b"a text and no model at all"), "cpu")
    with pytest.raises(UserError, match="holds nothing to read; give one at its beginning"):
        icnet.load(io.BytesIO(), "cpu")
    with pytest.raises(UserError, match="holds text; give one"):
        icnet.load(io.StringIO("text"), "cpu")
    with pytest.raises(UserError, match="a int is no model; give a path"):
        icnet.load(3, "cpu")


def test_scales_flip_and_windows_average_probabilities(model, checkpoint, pixels):
    averaged = icnet.load(checkpoint, "cpu", scales=(1.0, 1.5), flip=True)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    expected = Inference((1.0, 1.5), flip=True)(model.segmenter, image)[0].numpy()
    np.testing.assert_allclose(averaged(pixels, probabilities=True), expected, atol=1e-6)
    np.testing.assert_allclose(np.exp(averaged(pixels, logits=True)), expected, atol=1e-6)
    assert np.array_equal(averaged(pixels), expected.argmax(0))
    for given, said in (
        ({"scales": [0]}, r"^scales=\[0\] is out"), ({"scales": np.ones(2)}, r"^scales=\[1\. 1\.\] is out"),
        ({"scales": 1.5}, r"^scales=1\.5 is out"), ({"sliding_window": 64}, "^sliding_window=64 is no window"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            icnet.load(checkpoint, "cpu", **given)
    with pytest.raises(UserError, match=r"^sliding_window=\[32, 64\] is no window; .* at least 64 pixels"):
        icnet.load(checkpoint, "cpu", sliding_window=(32, 64))(pixels)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((64, 64, 3), np.float32), r"float32 and shape \(64, 64, 3\) is no image; give uint8 RGB"),
        (np.zeros((64, 64), np.uint8), r"uint8 and shape \(64, 64\) is no image"),
        (np.zeros((3, 64, 64), np.uint8), r"shape \(3, 64, 64\) is no image; give uint8 RGB of shape \(H, W, 3\)"),
        (np.zeros((0, 64, 3), np.uint8), r"shape \(0, 64, 3\) is no image"),
        (Image.new("I;16", (64, 64)), "mode I;16 has more than 8 bits"),
        (Image.new("F", (64, 64)), "mode F has more than 8 bits"),
        (Image.new("La", (64, 64)), "a PIL image of mode La becomes no RGB .*; give one of mode RGB"),
        ("absent.png", r"absent\.png cannot be read \(.*\); give the path of an image that is there$"),
        (None, "a NoneType is no image; give uint8 RGB"),
    ],
)
def test_what_is_no_image_is_refused(model, given, said):
    with pytest.raises(UserError, match=said) as refused:
        model([given])
    assert "\n" not in str(refused.value)


def test_what_cannot_be_asked_is_refused(model, pixels, tmp_path):
    with pytest.raises(UserError, match="exclude each other"):
        model(pixels, logits=True, probabilities=True)
    with pytest.raises(UserError, match=r"the image is \(64, 96\) and its labels are \(9, 9\)"):
        model.overlay(pixels, np.zeros((9, 9), np.uint8))
    for labels in (np.zeros((9, 9)), np.zeros((9, 9, 3), np.uint8), [[0]]):
        with pytest.raises(UserError, match=r"labels are .*; give an integer array of shape \(H, W\)"):
            model.colorize(labels)
    with pytest.raises(UserError, match="device=abacus is not available here"):
        icnet.load(tmp_path / "x.ckpt", "abacus")
    with pytest.raises(UserError, match="there is no checkpoint at"):
        icnet.load(tmp_path / "x.ckpt", "cpu")


def test_labels_of_other_integers_are_painted(model):
    labels = np.array([[0, 13, 255]])
    assert model.colorize(labels).tolist() == [[[128, 64, 128], [0, 0, 142], [0, 0, 0]]]


def test_importing_icnet_loads_no_heavy_package():
    """The promise of 0.3 s, held by what is loaded: nothing beyond the standard library and three small modules."""
    words = (
        "import sys; before = set(sys.modules); import icnet; dir(icnet)\n"
        "new = set(sys.modules) - before\n"
        "print(sorted({name.split('.')[0] for name in new} - sys.stdlib_module_names))\n"
        "print(sorted(name for name in new if name.startswith('icnet')), icnet.load.__module__)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.splitlines() == ["['icnet']", "['icnet', 'icnet.errors', 'icnet.version'] icnet.deploy.api"]
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        icnet.lode  # noqa: B018


def test_opening_a_model_loads_no_lightning(checkpoint, tmp_path):
    """Lightning takes seconds to import, and neither runtime needs it."""
    words = (
        "import sys, icnet\n"
        "for path in sys.argv[1:]: icnet.load(path)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'lightning', 'torchmetrics', 'hydra'}))"
    )
    files = [checkpoint, export(checkpoint, tmp_path / "net.onnx")]
    command = [sys.executable, "-c", words, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.splitlines() == ["[]"]
