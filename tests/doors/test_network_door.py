"""A network that exists in this file alone, taken through everything that a network of the project goes through."""

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from icnet.models import NETWORKS, Option, SegmentationNetwork, build_network
from tests.models.network_tester import check_network

COLOURS = {"meadow": (10, 200, 30), "barn": (200, 40, 20), "pond": (20, 60, 220)}
IMAGES = 2  # of validation

pytestmark = pytest.mark.slow


class Toy(SegmentationNetwork):
    """Two scales, one pair of convolution and norm that is folded and a norm that cannot be."""

    options = {"width": Option(4), "pooling": Option("max", ("max", "mean"))}
    min_side = 16
    divisor = 8
    loss_weights = {"fine": 1.0, "coarse": 0.5}
    classifiers = ("to_fine.", "to_coarse.")
    mean = (0.5, 0.4, 0.3)
    std = (0.25, 0.2, 0.5)

    def __init__(self, num_classes: int, width: int, pooling: str) -> None:
        super().__init__(num_classes)
        self.norm = nn.BatchNorm2d(3)
        self.trunk = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.pool = nn.MaxPool2d(8) if pooling == "max" else nn.AvgPool2d(8)
        self.to_fine = nn.Conv2d(width, num_classes, 1)
        self.to_coarse = nn.Conv2d(width, num_classes, 1)
        self.traced_with: bool | None = None

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        self.check_size(image)
        features = self.trunk(self.norm(image))
        fine, coarse = self.to_fine(features), self.to_coarse(self.pool(features))
        if self.training:
            return {"fine": fine, "coarse": coarse}
        return fine + F.interpolate(coarse, scale_factor=8.0, mode="nearest")

    def prepare_export(self, *, dynamic_size: bool) -> None:
        self.traced_with = dynamic_size


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(NETWORKS, "toy", Toy)


@pytest.fixture(scope="module")
def farm(tmp_path_factory) -> Path:
    """Images of three classes whose colours tell them, in the layout of data=folder."""
    root = tmp_path_factory.mktemp("farm")
    rows = [{"name": name, "color": list(colour)} for name, colour in COLOURS.items()]
    (root / "classes.yaml").write_text(yaml.safe_dump({"classes": rows}))
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", IMAGES)):
        for number in range(count):
            mask = np.repeat(np.repeat(rng.integers(0, 3, (2, 3), np.uint8), 24, 0), 24, 1)
            image = np.array(list(COLOURS.values()), np.uint8)[mask][..., ::-1]
            for folder, pixels in (("images", image), ("masks", mask)):
                (root / folder / split).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / folder / split / f"{number}.png"), pixels)
    return root


@pytest.fixture
def train(script, farm, tmp_path):
    def run(*words: str):
        return script(
            "train", "data=folder", f"data.root={farm}", "data.crop_size=[32,32]", "data.scale_range=[32,48]",
            "data.workers=0", "model.name=toy", "trainer=cpu_1p", "trainer.progress_bar=false", "trainer.batch_size=2",
            "trainer.max_epochs=1", "optim.lr=0.01", "callbacks.pictures=1", "logger.tensorboard=false",
            f"hydra.run.dir={tmp_path / 'run'}", *words,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("options", [{}, {"width": 8, "pooling": "mean"}])
def test_toy_passes_what_every_network_passes(options):
    check_network("toy", **options)


def test_toy_goes_from_training_to_the_demo(train, script, farm, tmp_path, monkeypatch):
    run, quick = tmp_path / "run", ("trainer=cpu_1p", "trainer.progress_bar=false")
    chosen = ("+model.options.width=8", "+loss.weights.coarse=0.25")

    done = train(*chosen, "callbacks.result_files=acc")
    assert done.status == 0, done.err
    assert "Network = toy\n" in (run / "toy_bs2_1p_acc.log").read_text()
    results = json.loads((run / "results.json").read_text())
    assert results["model"] == "toy"
    assert tuple(results["iou"]) == tuple(COLOURS)
    assert "toy" in (run / "report.html").read_text()
    header = (run / "csv" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/loss", "train/loss_fine", "train/loss_coarse"} <= set(header)
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    described = {"name": "toy", "options": {"width": 8, "pooling": "max"}, "num_classes": 3}
    assert content["icnet"]["model"] == described
    assert content["icnet"]["loss"]["weights"] == {"fine": 1.0, "coarse": 0.25}

    again = ("resume=auto", "trainer.max_epochs=2")
    assert "choose model=" in train(*again).error  # of another width
    done = train(*chosen, *again)
    assert done.status == 0, done.err
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["epoch"] == 1
    checkpoint = run / "checkpoints" / "last.ckpt"

    done = script("eval", f"ckpt={checkpoint}", *quick, f"hydra.run.dir={tmp_path / 'eval'}")
    assert done.status == 0, done.err
    scores = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert (scores["model"], np.shape(scores["confusion"])) == ("toy", (3, 3))
    assert "toy" in (tmp_path / "eval" / "report.html").read_text()

    # What eval.py counted is what the tensors of the file give, with the toy's own normalisation.
    net = build_network("toy", 3, width=8).eval()
    net.load_state_dict(
        {key.removeprefix("net."): value for key, value in content["state_dict"].items() if key.startswith("net.")}
    )
    confusion = torch.zeros(3, 3, dtype=torch.int64)
    for number in range(IMAGES):
        image = torch.from_numpy(cv2.imread(str(farm / f"images/val/{number}.png"))[..., ::-1].copy()).float() / 255
        mask = torch.from_numpy(cv2.imread(str(farm / f"masks/val/{number}.png"), cv2.IMREAD_UNCHANGED)).long()
        with torch.no_grad():
            preds = net(((image - torch.tensor(Toy.mean)) / torch.tensor(Toy.std)).permute(2, 0, 1)[None])[0].argmax(0)
        confusion += torch.bincount(3 * mask.flatten() + preds.flatten(), minlength=9).view(3, 3)
    assert scores["confusion"] == confusion.tolist()

    file = tmp_path / "toy.onnx"
    for key, words in (("height", "too small; give at least 16 pixels"), ("width", "does not suit the network")):
        side = 8 if key == "height" else 44
        done = script("export", f"ckpt={checkpoint}", "export.height=32", "export.width=48", f"export.{key}={side}")
        assert done.status == 2
        assert f"export.{key}={side} " in done.error
        assert words in done.error
    monkeypatch.chdir(tmp_path)
    done = script("export", f"ckpt={checkpoint}", "export.height=16", "export.width=16")
    assert done.status == 0, done.err
    assert file.exists()  # the toy's own name, where no output is given
    file.unlink()
    done = script(
        "export", f"ckpt={checkpoint}", "export.height=48", "export.width=72", "export.dynamic_size=true",
        f"output={file}",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert "largest difference" in done.out
    meta = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert json.loads(meta["model"]) == described
    assert json.loads(meta["mean"]) == pytest.approx(Toy.mean)

    done = script(
        "eval", f"ckpt={file}", f"data.root={farm}", "data.workers=0", *quick, f"hydra.run.dir={tmp_path / 'onnx'}"
    )
    assert done.status == 0, done.err
    exported = json.loads((tmp_path / "onnx" / "results.json").read_text())
    assert (exported["model"], exported["confusion"]) == ("toy", scores["confusion"])

    small = tmp_path / "small.png"
    cv2.imwrite(str(small), np.full((9, 20, 3), 90, np.uint8))  # no side that the toy takes
    for model in (checkpoint, file):
        shown = tmp_path / f"shown_{model.suffix}"
        for given in (farm / "images" / "val", small):
            done = script("demo", f"ckpt={model}", f"input={given}", f"output={shown}", "device=cpu")
            assert done.status == 0, done.err
        ids = cv2.imread(str(shown / "0_ids.png"), cv2.IMREAD_UNCHANGED)
        colours = cv2.imread(str(shown / "0_labels.png"))[..., ::-1]
        assert np.array_equal(colours, np.array(list(COLOURS.values()), np.uint8)[ids])
        assert cv2.imread(str(shown / "small_ids.png"), cv2.IMREAD_UNCHANGED).shape == (9, 20)


def test_search_finds_something_for_the_toy_and_weighs_its_outputs_if_asked(train, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs hydra-optuna-sweeper")
    sweep = tmp_path / "search"
    words = (
        "hydra.mode=MULTIRUN",
        "hparams=optuna",
        "hydra.sweeper.n_trials=2",
        "+loss.weights.coarse=interval(0.1,0.6)",
    )
    done = train(*words, f"hydra.sweep.dir={sweep}", "callbacks.pictures=0", "callbacks.extremes=0")
    assert done.status == 0, done.err
    configs = [json.loads((sweep / job / "results.json").read_text())["config"] for job in "01"]
    weights = [config["loss"]["weights"]["coarse"] for config in configs]
    decays = [config["optim"]["weight_decay"] for config in configs]
    assert all(0.1 <= weight <= 0.6 for weight in weights)
    assert len(set(weights)) == len(set(decays)) == 2


def test_toy_starts_from_weights_of_other_classes(train, tmp_path):
    net = build_network("toy", 5)
    model = {"name": "toy", "options": {"width": 4, "pooling": "max"}, "num_classes": 5}
    state_dict = {f"net.{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": state_dict, "icnet": {"model": model}}, tmp_path / "five.ckpt")
    done = train(f"model.weights={tmp_path / 'five.ckpt'}")
    assert done.status == 0, done.err
    log = (tmp_path / "run" / "train_0.log").read_text()
    assert "has 5 classes, which it does not name, and this run 3" in log
    assert "(to_fine.weight, to_fine.bias, to_coarse.weight, to_coarse.bias), which start anew" in log


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("model.backbone=resnet18",), ("model.backbone=resnet18 is no option of toy", "it has width, pooling")),
        (("model.backbone=resnet50",), ("model.backbone=resnet50 is no option of toy", "it has width, pooling")),
        (("+model.options.depth=3",), ("model.options.depth=3 is no option of toy", "it has width, pooling")),
        (("+model.options.pooling=min",), ("model.options.pooling=min is unknown", "choose one of max, mean")),
        (("+model.options.width=wide",), ("model.options.width=wide is of the type str", "int, such as 4")),
        (("+model.options.backbone=x",), ("model.options.backbone", "use model.backbone")),
        (("model.backbone_weights=x.pth",), ("model.backbone_weights=x.pth cannot be used: toy has no part",)),
        (("loss.sub4_weight=0.3",), ("loss.sub4_weight=0.3 is for no output of Toy", "it has fine, coarse")),
        (("+loss.weights.rough=1",), ("loss.weights.rough=1.0 is for no output of Toy", "it has fine, coarse")),
        (("+loss.weights.fine=-1",), ("loss.weights.fine=-1.0", "from 0")),
        (("+loss.weights.fine=0", "+loss.weights.coarse=0"), ("weights of fine, coarse are all 0",)),
        (
            ("data.crop_size=[8,32]",),
            ("data.crop_size=8 is too small for toy", "at least 16 pixels, a multiple of 8"),
        ),
        (
            ("data.crop_size=[32,36]",),
            ("data.crop_size=36 does not suit toy", "a multiple of 8, such as 40"),
        ),
        (("model.name=nonet",), ("model.name=nonet is unknown", "choose one of icnet", "toy")),
    ],
)
def test_what_does_not_suit_the_toy_is_one_line(train, tmp_path, words, expected):
    done = train(*words)
    assert done.status == 2
    for word in expected:
        assert word in done.error
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_checkpoint_of_a_network_that_is_not_registered_is_one_line(script, tmp_path, monkeypatch):
    monkeypatch.delitem(NETWORKS, "toy")
    model = {"name": "toy", "options": {}, "num_classes": 3}
    torch.save({"state_dict": {}, "icnet": {"model": model}}, tmp_path / "toy.ckpt")
    done = script("export", f"ckpt={tmp_path / 'toy.ckpt'}", f"output={tmp_path / 'toy.onnx'}")
    assert done.status == 2
    assert "toy.ckpt holds the network toy, and known here are icnet" in done.error


def test_weights_of_icnet_have_two_spellings(script, small, tmp_path):
    done = script(
        "train", *small, "loss.sub4_weight=0.3", "+loss.weights.sub4=0.2", f"hydra.run.dir={tmp_path / 'run'}"
    )
    assert done.status == 2
    assert "loss.sub4_weight and loss.weights.sub4 are the same; give only one of them" in done.error
