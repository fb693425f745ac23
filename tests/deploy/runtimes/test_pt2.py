"""Programs of torch.export: written, opened, run, refused where they are damaged or hold code."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import icnet
from icnet.deploy import open_segmenter
from icnet.deploy.export import GraphSpec, describe, export_verified
from icnet.deploy.export.pt2_export import export_pt2
from icnet.deploy.runtimes.heads import HEADS
from icnet.deploy.runtimes.pt2_segmenter import METADATA_FILE, Pt2Segmenter
from icnet.deploy.trained_network import read_network
from icnet.errors import UserError
from icnet.models import NETWORKS, SegmentationNetwork
from icnet.models.modules import ImageNormalizer
from tests.models.test_integrity import damage

CPU = torch.device("cpu")
ABOUT = {
    "names": ["road", "sky", "tree"], "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]], "mean": [0.5] * 3,
    "std": [0.25] * 3, "min_side": 1,
}  # fmt: skip


class Tiny(SegmentationNetwork):
    """A program of a few kilobytes, which makes a tensor on its device."""

    loss_weights = {"main": 1.0}

    def __init__(self) -> None:
        super().__init__(3)
        self.main = nn.Sequential(nn.Conv2d(3, 9, 3, padding=1), nn.ReLU(), nn.Conv2d(9, 3, 1))

    def forward(self, image):
        return self.main(image) + torch.arange(3, device=image.device).view(1, 3, 1, 1)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return Tiny().eval()


def write(net, path, **options):
    export_pt2(net, ImageNormalizer(ABOUT["mean"], ABOUT["std"]), path, GraphSpec(8, 12, **options), {
        key: json.dumps(value) for key, value in ABOUT.items()
    })  # fmt: skip
    return path


@pytest.fixture(scope="module")
def file(tiny, tmp_path_factory):
    return write(tiny, tmp_path_factory.mktemp("pt2") / "net.pt2")


@pytest.fixture
def tiny_image():
    return torch.randint(0, 256, (3, 3, 8, 12), dtype=torch.uint8)


def logits_of(net, image):
    with torch.inference_mode():
        return net((image.float() / 255 - 0.5) / 0.25)


@pytest.mark.parametrize("batch", [None, 1, 2])
@pytest.mark.parametrize("normalize", [False, True])
def test_program_gives_the_networks_logits_for_any_number_of_images(tiny, tiny_image, tmp_path, batch, normalize):
    opened = open_segmenter(write(tiny, tmp_path / "net.pt2", batch=batch, normalize=normalize), CPU)
    assert (opened.runtime, opened.batch, opened.normalizes) == ("torch.export", batch, normalize)
    torch.testing.assert_close(opened(tiny_image), logits_of(tiny, tiny_image), atol=1e-5, rtol=0)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_tells_the_networks_labels(tiny, tiny_image, tmp_path, head):
    opened = open_segmenter(write(tiny, tmp_path / "net.pt2", head=head), CPU)
    expected = logits_of(tiny, tiny_image)
    assert opened.labels_only == (head != "logits")
    assert torch.equal(opened(tiny_image).argmax(1), expected.argmax(1))
    assert opened.knows_confidence == (head in ("logits", "confidence"))
    if head == "confidence":
        torch.testing.assert_close(opened(tiny_image).softmax(1).amax(1), expected.softmax(1).amax(1))


def test_image_of_another_size_is_resized_and_its_scores_are_resized_back(file, tiny):
    image = torch.full((1, 3, 16, 24), 200, dtype=torch.uint8)
    opened = open_segmenter(file, CPU)(image)
    assert opened.shape == (1, 3, 16, 24)
    inner = logits_of(tiny, image[..., :8, :12])[..., 4, 6]
    torch.testing.assert_close(opened[..., 8, 12], inner, atol=1e-5, rtol=0)


def test_program_moves_with_the_images_and_what_it_makes_too(file):
    opened = open_segmenter(file, CPU)
    opened.follow(torch.device("meta"))
    assert [output.device.type for output in opened.outputs(torch.zeros(1, 3, 8, 12, device="meta"))] == ["meta"]


def test_checkpoint_becomes_a_verified_program_with_its_facts(checkpoint, image, tmp_path):
    path, model = tmp_path / "ICNet.pt2", read_network(checkpoint)
    agreement = export_verified(model, path, GraphSpec(96, 160), target="pt2")
    assert 0 < agreement.max_difference < 1e-4
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ICNet.pt2", "ICNet.pt2.json"]
    assert path.stat().st_size < 1.1 * checkpoint.stat().st_size  # no example image in it
    opened = icnet.load(path, "cpu")
    expected = icnet.load(checkpoint, "cpu")
    pixels = image[0].permute(1, 2, 0).numpy()
    assert (opened(pixels) == expected(pixels)).mean() > 0.999
    assert opened.classes == expected.classes
    assert opened.segmenter.network == expected.segmenter.network
    assert opened.segmenter.meta == describe(model) | {"head": "logits", "normalize": "false", "precision": "fp32"}
    with path.open("rb") as stream:
        assert icnet.load(io.BytesIO(stream.read()), "cpu").runtime == "torch.export"


def test_open_sizes_take_images_as_they_are(tiny, tmp_path):
    opened = open_segmenter(write(tiny, tmp_path / "net.pt2", batch=None, dynamic_size=True), CPU, resize=False)
    for count, height, width in ((1, 8, 12), (3, 9, 31), (2, 40, 5)):
        image = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)
        torch.testing.assert_close(opened(image), logits_of(tiny, image), atol=1e-5, rtol=0)


OPEN = {  # to why not
    "icnet": "", "icnet_lite0": "", "icnet_zh320": "", "icnet_paper": r"windows for features of \(33, 65\) alone",
    "icnet_mmseg": "Constraints violated",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_sizes_that_were_never_traced_are_exact_or_refused(make_net, tmp_path, name):
    net, path = make_net(name=name), tmp_path / "net.pt2"
    about = {key: json.dumps(value) for key, value in {**ABOUT, "min_side": 64}.items()}
    spec = GraphSpec(96, 160, dynamic_size=True, normalize=True)
    if OPEN[name]:
        with pytest.raises(UserError, match=rf"cannot leave this network's sizes open \(.*{OPEN[name]}.*target=onnx"):
            export_pt2(net, net.normalizer(), path, spec, about)
        return
    export_pt2(net, net.normalizer(), path, spec, about)
    opened = open_segmenter(path, CPU, resize=False)
    # 1/32 of these: even, odd, below the six bins, and above them without being divisible
    for height, width in ((64, 64), (127, 201), (193, 97), (224, 352)):
        image = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
        torch.testing.assert_close(opened.outputs(image)[0], net(net.normalizer()(image)), atol=1e-4, rtol=0)


def test_changed_file_is_refused_or_the_same(file, tiny_image, tmp_path):
    whole, content, path = Pt2Segmenter(file), file.read_bytes(), tmp_path / "damaged.pt2"
    rng, refused = np.random.default_rng(5), 0
    for _ in range(60):
        path.write_bytes(damage(content, rng))
        try:
            found = Pt2Segmenter(path)
        except UserError:
            refused += 1
            continue
        assert torch.equal(found(tiny_image), whole(tiny_image))
        assert (found.classes, found.meta) == (whole.classes, whole.meta)
    assert refused > 30  # the archive has gaps that nothing reads


def rewritten(file, path, **changed):
    """Copy the archive with other entries: a name's end to a function of its content."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            for end, change in changed.items():
                content = change(content) if name.endswith(end) else content
            new.writestr(name, content)
    return path


class Planted:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


def test_file_with_pickled_objects_is_refused_and_nothing_of_it_runs(file, tmp_path):
    path = tmp_path / "net.pt2"
    with pytest.raises(UserError, match=r"net\.pt2 can't be opened"):
        Pt2Segmenter(rewritten(file, path, **{"sample_inputs/model.pt": lambda content: pickle.dumps(Planted(), 2)}))

    def pickled(content):
        told = json.loads(content)
        next(iter(told["config"].values()))["use_pickle"] = True
        return json.dumps(told).encode()

    with pytest.raises(UserError, match="in it is pickled"):
        Pt2Segmenter(rewritten(file, path, **{"weights_config.json": pickled, "weight_0": lambda content: b""}))
    rewritten(file, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/aotinductor/model/run.so", b"")
    with pytest.raises(UserError, match=r"it holds archive/data/aotinductor/model/run\.so, which is no tensor"):
        Pt2Segmenter(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{}", "lacks the metadata names, palette"),
        (b"[]", "no object of texts"),
        (b'{"names": 1}', "no object of texts"),
    ],
)
def test_foreign_program_is_refused_by_what_it_lacks(file, tmp_path, content, said):
    with pytest.raises(UserError, match=said):
        Pt2Segmenter(rewritten(file, tmp_path / "net.pt2", **{METADATA_FILE: lambda _: content}))


def test_broken_or_missing_file_is_refused(tmp_path):
    (tmp_path / "broken.pt2").write_text("no archive")
    with pytest.raises(UserError, match=r"broken\.pt2 can't be opened by torch .*; export it again"):
        open_segmenter(tmp_path / "broken.pt2", CPU)
    with pytest.raises(UserError, match=r"there is no file .*absent\.pt2"):
        open_segmenter(tmp_path / "absent.pt2", CPU)
