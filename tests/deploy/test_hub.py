"""Folders of the Hugging Face Hub; nothing is downloaded."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import icnet
from icnet.data.labels import ClassTable
from icnet.deploy import hub
from icnet.deploy.convert import convert
from icnet.errors import UserError
from icnet.models import NETWORKS, Option, SegmentationNetwork
from icnet.models.checkpoints import read_checkpoint
from icnet.models.integrity import sha256
from icnet.run.results import EvaluationRecord, TrainingRecord, Validation, read_results, write_results

FILES = ["README.md", "config.json", "model.safetensors"]
LICENCE = "CC BY-NC-SA 3.0"
ROADS = ClassTable(("road", "a|b", "sky"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)))
OLD = Path(__file__).parents[1] / "old_checkpoints"


def scores(record: type, **values):
    """A record with nothing but what is given."""
    return record(**{name: None for name in record.__dataclass_fields__ if name != "history"} | values)


class Toy(SegmentationNetwork):
    """One convolution, so that files are small."""

    options: ClassVar = {"reach": Option(1)}
    loss_weights: ClassVar = {"main": 1.0}
    classifiers: ClassVar = ("conv.",)

    def __init__(self, num_classes: int, reach: int) -> None:
        super().__init__(num_classes)
        self.conv = nn.Conv2d(3, num_classes, 2 * reach + 1, padding=reach)

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        logits = self.conv(image)
        return {"main": logits} if self.training else logits


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    monkeypatch.setitem(NETWORKS, "toy", Toy)


@pytest.fixture
def run(tmp_path) -> Path:
    """The folder of a training whose second of three validations was the best."""
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    torch.manual_seed(0)
    tensors = {f"net.{key}": value for key, value in Toy(3, reach=2).state_dict().items()}
    meta = {
        "version": "0.2.0", "model": {"name": "toy", "options": {"reach": 2}, "num_classes": 3},
        "classes": {"names": list(ROADS.names), "palette": [list(c) for c in ROADS.palette], "categories": []},
        "data": {"name": "lanes", "root": "/home/me/lanes", "images": "images/{stem}", "options": {"more": ["/mine"]}},
    }  # fmt: skip
    torch.save({"state_dict": tensors, "icnet": meta}, path)
    shutil.copy(path, path.with_name("last.ckpt"))
    history = [
        scores(
            Validation, epoch=epoch, miou=miou, pixel_acc=0.9, iou={"road": miou + 0.1, "a|b": miou - 0.1, "sky": None}
        )
        for epoch, miou in ((1, 0.25), (2, 0.5), (3, 0.375))
    ]
    record = scores(
        TrainingRecord, data="lanes", model="toy", best_miou=0.5, best_epoch=2, final_miou=0.375, epochs=3,
        pixel_acc=0.8125, iou=history[-1].iou, history=history, val_images=12, seed=7, device="CPU",
        git_revision="abc1", config={"data": {"root": "/home/me/lanes"}},
    )  # fmt: skip
    write_results(tmp_path / "run" / "results.json", record)
    return tmp_path / "run"


@pytest.fixture
def opened(run):
    return icnet.PretrainedModel.from_pretrained(run / "checkpoints" / "best.ckpt", device="cpu")


def split_card(folder: Path) -> tuple[dict, str]:
    """What a card says to the Hub, and to people."""
    _, head, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), text


# ---------------------------------------------------------------- there and back


def test_folder_opens_as_what_was_saved(opened, run, tmp_path):
    opened.save_pretrained(tmp_path / "hub", data_license=LICENCE)
    assert sorted(path.name for path in (tmp_path / "hub").iterdir()) == FILES
    again = icnet.PretrainedModel.from_pretrained(str(tmp_path / "hub"), device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    assert np.array_equal(again(image, logits=True), opened(image, logits=True))
    assert again.classes == opened.classes == ROADS
    assert again.trained_on == "lanes"
    before, after = (
        read_checkpoint(path) for path in (run / "checkpoints" / "best.ckpt", tmp_path / "hub" / "model.safetensors")
    )
    assert after.network == before.network
    assert before.state_dict.keys() == after.state_dict.keys()
    assert all(torch.equal(after.state_dict[key], value) for key, value in before.state_dict.items())


def test_options_of_loading_are_handed_on(opened, tmp_path):
    opened.save_pretrained(tmp_path / "hub", data_license=LICENCE)
    again = icnet.PretrainedModel.from_pretrained(tmp_path / "hub", device="cpu", flip=True, scales=(0.5, 1.0))
    assert (again.inference.flip, tuple(again.inference.scales)) == (True, (0.5, 1.0))


def test_saved_folder_tells_no_path_of_this_machine(opened, tmp_path):
    opened.save_pretrained(tmp_path / "hub", data_license=LICENCE)
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert config == read_checkpoint(tmp_path / "hub" / "model.safetensors").meta
    assert config["data"] == {"name": "lanes", "root": None, "images": "images/{stem}", "options": {"more": [None]}}
    for path in (tmp_path / "hub").iterdir():
        assert b"/home/me" not in path.read_bytes()
        assert str(tmp_path).encode() not in path.read_bytes()


def test_checkpoint_of_version_0_1_is_saved_and_its_drawn_data_have_no_score(tmp_path):
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    shutil.copy(OLD / "v0.1_resnet18.ckpt", path)
    shutil.copy(OLD / "v0.1_results.json", tmp_path / "run" / "results.json")
    icnet.PretrainedModel.from_pretrained(path, device="cpu").save_pretrained(tmp_path / "hub", data_license=LICENCE)
    head, text = split_card(tmp_path / "hub")
    assert "model-index" not in head
    assert "The images are drawn, so these numbers are no results." in text
    assert icnet.PretrainedModel.from_pretrained(tmp_path / "hub", device="cpu").trained_on == "street (synthetic)"


# ---------------------------------------------------------------- the card


def test_card_of_the_best_checkpoint_shows_the_best_validation(opened, tmp_path):
    opened.save_pretrained(tmp_path / "hub", data_license=" CC BY-NC-SA\n3.0 ")
    head, text = split_card(tmp_path / "hub")
    assert head["data_license"] == LICENCE
    assert (head["library_name"], head["pipeline_tag"]) == ("icnet", "image-segmentation")
    (index,) = head["model-index"]
    assert index["name"] == "toy"
    assert index["results"][0]["dataset"] == {"name": "lanes", "type": "lanes", "split": "val"}
    assert index["results"][0]["metrics"] == [{"type": "mean_iou", "name": "mIoU", "value": 0.5}]
    assert f"Trained on lanes. Licence of these data: {LICENCE}\n" in text
    assert "# toy, trained on lanes\n" in text
    assert "into 3 classes: road, a|b, sky." in text
    wanted = "Best validation of the training, after epoch 2, 12 images of lanes: mIoU 50.00 %, 90.00 % of the pixels"
    assert wanted in text
    assert "| road | 60.00 % |\n| a\\|b | 40.00 % |\n| sky | unknown |" in text
    for line in ("version of icnet: 0.2.0", "commit: abc1", "device: CPU", "seed: 7", "epochs: 3"):
        assert f"- {line}\n" in text


def test_card_of_the_last_checkpoint_shows_the_last_validation(run, tmp_path):
    last = icnet.PretrainedModel.from_pretrained(run / "checkpoints" / "last.ckpt", device="cpu")
    last.save_pretrained(tmp_path / "hub", data_license=LICENCE, results=run)
    assert (
        "Last validation of the training, 12 images of lanes: mIoU 37.50 %, 81.25 %" in split_card(tmp_path / "hub")[1]
    )


def test_evaluation_of_the_very_file_is_shown_and_of_no_other(run, tmp_path):
    path = tmp_path / "net.safetensors"
    convert(run / "checkpoints" / "best.ckpt", "safetensors", path)
    evaluated = scores(
        EvaluationRecord, ckpt=str(path), ckpt_sha256=sha256(path), miou=0.125, split="test", data="lanes",
        val_images=5, iou={"road": 0.25, "a|b": 0.0, "sky": None},
    )  # fmt: skip
    write_results(tmp_path / "results.json", evaluated)
    net = icnet.PretrainedModel.from_pretrained(path, device="cpu")
    net.save_pretrained(tmp_path / "hub", data_license=LICENCE, results=tmp_path / "results.json")
    head, text = split_card(tmp_path / "hub")
    assert "Evaluation on the split test, 5 images of lanes: mIoU 12.50 %" in text
    assert head["model-index"][0]["results"][0]["dataset"]["split"] == "test"
    evaluated.ckpt_sha256 = "0" * 64
    write_results(tmp_path / "results.json", evaluated)
    with pytest.raises(UserError, match=r"results\.json holds no results of .*net\.safetensors; evaluate it with"):
        net.save_pretrained(tmp_path / "other", data_license=LICENCE, results=tmp_path / "results.json")
    with pytest.raises(UserError, match="holds no results of"):  # a training's, in whose folder the file does not lie
        net.save_pretrained(tmp_path / "other", data_license=LICENCE, results=run / "results.json")
    with pytest.raises(UserError, match="lies in no run with results"):
        net.save_pretrained(tmp_path / "other", data_license=LICENCE)
    with pytest.raises(UserError, match="there are no results in"):
        net.save_pretrained(tmp_path / "other", data_license=LICENCE, results=tmp_path / "none.json")
    assert not (tmp_path / "other").exists()


def test_results_of_other_classes_are_refused(opened, run, tmp_path):
    record = read_results(run / "results.json")
    record.history[1].iou = {"road": 0.5, "sky": 0.5, "a|b": 0.5}
    write_results(run / "results.json", record)
    with pytest.raises(UserError, match="other classes"):
        opened.save_pretrained(tmp_path / "hub", data_license=LICENCE)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("licence", ["", "  \n", None])
def test_licence_of_the_data_is_required(opened, tmp_path, licence):
    with pytest.raises(UserError, match=r"the licence of the data \(lanes\) is missing.*give data_license=") as caught:
        opened.save_pretrained(tmp_path / "hub", data_license=licence)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="licence"):
        opened.push_to_hub("me/lanes", data_license=licence)
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_overwritten(opened, tmp_path, name):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / name).write_text("precious")
    with pytest.raises(UserError, match=rf"hub has {name} already"):
        opened.save_pretrained(tmp_path / "hub", data_license=LICENCE)
    assert [path.name for path in (tmp_path / "hub").iterdir()] == [name]
    assert (tmp_path / "hub" / name).read_text() == "precious"


def test_file_that_changed_since_it_was_opened_is_refused(opened, run, tmp_path):
    path = run / "checkpoints" / "best.ckpt"
    content = torch.load(path, weights_only=True)
    content["state_dict"]["net.conv.weight"] += 1
    torch.save(content, path)
    with pytest.raises(UserError, match="is not what it was when it was opened"):
        opened.save_pretrained(tmp_path / "hub", data_license=LICENCE)


def test_folder_that_lacks_or_contradicts_itself_is_refused(opened, tmp_path):
    folder = tmp_path / "hub"
    opened.save_pretrained(folder, data_license=LICENCE)
    text = (folder / "config.json").read_text()
    for changed, words in (
        (text.replace("sky", "sea"), "and the metadata of model.safetensors differ"),
        ("{", "config.json cannot be read"),
    ):
        (folder / "config.json").write_text(changed)
        with pytest.raises(UserError, match=words):
            icnet.PretrainedModel.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        icnet.PretrainedModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"there is no checkpoint at .*model\.safetensors"):
        icnet.PretrainedModel.from_pretrained(folder)


@pytest.mark.parametrize("name", ["nowhere", "./a/b", "/nowhere/at/all", "~/x", "a/b/c"])
def test_what_is_neither_folder_nor_id_is_refused(name):
    with pytest.raises(UserError, match=f"there is no folder or file {name}; give one, or an id of the Hub"):
        icnet.PretrainedModel.from_pretrained(name)


# ---------------------------------------------------------------- the Hub


def test_id_is_downloaded(opened, tmp_path, monkeypatch):
    opened.save_pretrained(tmp_path / "hub", data_license=LICENCE)
    asked = []

    def download(source, name, **options):
        asked.append((source, name, options["revision"]))
        return str(tmp_path / "hub" / name)

    module = ModuleType("huggingface_hub")
    module.hf_hub_download = download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    again = icnet.PretrainedModel.from_pretrained("me/lanes", revision="v1", device="cpu")
    assert again.classes == ROADS
    assert asked == [("me/lanes", "model.safetensors", "v1"), ("me/lanes", "config.json", "v1")]


def test_id_without_network_or_package_is_one_line(monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("several\nlines")

    module = ModuleType("huggingface_hub")
    module.hf_hub_download = fail
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    with pytest.raises(
        UserError, match=r"me/lanes is no folder or file and could not be downloaded .*ConnectionError"
    ) as caught:
        icnet.PretrainedModel.from_pretrained("me/lanes")
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"pip install huggingface_hub"):
        icnet.PretrainedModel.from_pretrained("me/lanes")
    with pytest.raises(UserError, match=r"push_to_hub needs huggingface_hub"):
        hub._hub_mixin()().push_to_hub("me/lanes")


def test_it_is_a_model_of_the_hub_and_uploads_what_it_saves(opened, monkeypatch):
    package = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
    assert isinstance(opened, package.ModelHubMixin)
    uploaded = {}

    class Api:
        def __init__(self, **_):
            pass

        def create_repo(self, repo_id, **_):
            uploaded["repo"] = repo_id
            return self

        repo_id = "me/lanes"

        def upload_folder(self, folder_path, **_):
            uploaded["files"] = sorted(path.name for path in Path(folder_path).iterdir())
            uploaded["card"] = package.ModelCard.load(Path(folder_path) / "README.md")
            return "https://address"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    with pytest.raises(UserError, match="licence"):
        opened.push_to_hub("me/lanes")
    assert uploaded == {}
    assert opened.push_to_hub("me/lanes", data_license=LICENCE) == "https://address"
    assert (uploaded["repo"], uploaded["files"]) == ("me/lanes", FILES)
    assert uploaded["card"].data.library_name == "icnet"
    assert uploaded["card"].data.eval_results[0].metric_value == 0.5
    assert uploaded["card"].data.to_dict()["data_license"] == LICENCE
