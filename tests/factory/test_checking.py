"""What is looked at in the data before a training, and by ``python -m icnet.data``, through the scripts."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from icnet import factory
from icnet.config import DataConfig, LossConfig, ModelConfig, TrainConfig, TrainerConfig
from icnet.data import known
from icnet.errors import UserError
from icnet.factory import checking
from tests.report.test_pages import check as check_page

NAMES = ("road", "car", "tree")
QUICK = (
    "data.crop_size=[64,64]", "data.scale_range=[64,96]", "data.workers=0", "model=icnet_resnet18",
    "trainer=cpu_1p", "trainer.batch_size=2", "trainer.max_epochs=1", "trainer.progress_bar=false", "optim.lr=0.01",
    "callbacks.pictures=0", "logger.tensorboard=false",
)  # fmt: skip


def write_sample(root: Path, split: str, number: int, mask: np.ndarray) -> tuple[Path, Path]:
    """Write an image of noise and its mask; returns where."""
    paths = root / "images" / split / f"{number}.png", root / "masks" / split / f"{number}.png"
    pixels = np.random.default_rng([number, len(split)]).integers(0, 256, (*mask.shape, 3), np.uint8)
    for path, content in zip(paths, (pixels, mask), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), content)
    return paths


def columns(*values: int) -> np.ndarray:
    """A mask of 64x96 pixels with a column for each value, all of the same width."""
    return np.repeat(np.repeat(np.array([values], np.uint8), 96 // len(values), 1), 64, 0)


@pytest.fixture
def make(tmp_path):
    """A person's own data with masks that are given for each split."""

    def made(train: list[np.ndarray], val: list[np.ndarray], names: tuple[str, ...] = NAMES) -> Path:
        root = tmp_path / "own"
        for split, masks in (("train", train), ("val", val)):
            for number, mask in enumerate(masks):
                write_sample(root, split, number, mask)
        rows = [{"name": name, "color": [40 * number, 90, 0]} for number, name in enumerate(names)]
        (root / "classes.yaml").write_text(yaml.safe_dump({"classes": rows}))
        return root

    return made


@pytest.fixture
def configure(tmp_path):
    """The configuration of a training on a folder."""

    def configured(root: Path, loss: object = None, **trainer: object) -> TrainConfig:
        data = DataConfig(name="folder", root=str(root), crop_size=[64, 64], scale_range=[64, 96], workers=0)
        keys = {"accelerator": "cpu", "batch_size": 2, "progress_bar": False, **trainer}
        model = ModelConfig(backbone="resnet18")
        output = str(tmp_path / "run")
        config = TrainConfig(data=data, loss=LossConfig(class_weights=loss), model=model, output_dir=output)
        return replace(config, trainer=TrainerConfig(**keys))

    return configured


GOOD = columns(0, 1, 2)


# ---------------------------------------------------------------- before the first step


def cut(path: Path) -> None:
    """Leave out the middle: the end is where it should be."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + data[-100:])


def small(path: Path) -> None:
    assert cv2.imwrite(str(path), GOOD[:32])


def strange(path: Path) -> None:
    assert cv2.imwrite(str(path), GOOD + 5)


@pytest.mark.parametrize(
    ("split", "which", "damage", "words"),
    [
        ("val", 0, cut, "copy or download it again"),
        ("val", 1, small, "is 96x64 (width x height) but its label mask"),
        ("val", 1, strange, "holds label ids 5-7"),
        ("train", 1, small, "is 96x64 (width x height) but its label mask"),
        ("train", 1, strange, "holds label ids 5-7"),
    ],
)
def test_file_that_a_training_would_end_at_is_named_before_the_first_step(make, configure, split, which, damage, words):
    root = make([GOOD] * 2, [GOOD] * 2)
    config = configure(root)
    factory.check_data(config)
    files = write_sample(root, split, 1, GOOD)
    damage(files[which])
    with pytest.raises(UserError) as refused:
        factory.check_data(config)
    assert str(files[which]) in str(refused.value)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    factory.check_data(replace(config, data=replace(config.data, check=False)))


def test_several_problems_are_counted_and_listed(make, configure, caplog):
    root = make([GOOD] * 2, [GOOD] * 3)
    for number in range(3):
        small(root / "masks" / "val" / f"{number}.png")
    with pytest.raises(UserError, match=r"0\.png .* \(2 more problems with these data: see the log"):
        factory.check_data(configure(root))
    listed = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [f"{number}.png" in line for number, line in enumerate(listed)] == [True] * 3


def test_training_labels_that_are_all_ignored_are_refused(make, configure):
    root = make([columns(255, 255)] * 2, [GOOD])
    with pytest.raises(UserError, match=r"folder, train: no pixel is labelled, in the 2 label masks"):
        factory.check_data(configure(root))


def test_validation_that_is_left_out_is_not_looked_at(make, configure):
    root = make([GOOD] * 2, [GOOD] * 3)
    small(root / "masks" / "val" / "2.png")
    factory.check_data(configure(root, limit_val_batches=0))
    factory.check_data(configure(root, limit_val_batches=2))  # batches of one image
    with pytest.raises(UserError, match=r"2\.png"):
        factory.check_data(configure(root))


def test_validation_batches_of_images_of_other_sizes_are_refused(make, configure):
    root = make([GOOD] * 2, [GOOD, GOOD[:32]])
    config = configure(root)
    factory.check_data(config)
    with pytest.raises(UserError, match="0 is 96x64 and 1 is 96x32; set data.eval_batch_size=1"):
        factory.check_data(replace(config, data=replace(config.data, eval_batch_size=2)))


def test_second_start_decodes_nothing(make, configure, monkeypatch):
    config = configure(make([GOOD] * 2, [GOOD]), loss="median")
    factory.check_data(config)
    data = factory.data_module(config.data, 1, batch_size=2)
    weights = factory.class_weights(config, data.train)

    def refuse(*arguments: object) -> None:
        raise AssertionError("a file was decoded")

    for name in ("image_size", "verify_image"):
        monkeypatch.setattr(checking.check, name, refuse)
    monkeypatch.setattr("icnet.data.dataset.SegmentationDataset.read_labels", refuse)
    factory.check_data(config)
    assert factory.class_weights(config, data.train) == weights
    crop = replace(config.data, crop_size=[64, 96])
    factory.check_data(replace(config, data=crop))  # says nothing of how files are read
    monkeypatch.setattr(known, "VERSION", 0)
    with pytest.raises(AssertionError, match="a file was decoded"):
        factory.check_data(config)


# ---------------------------------------------------------------- classes that are not there


def test_binary_masks_of_0_and_255_are_told_in_log_terminal_results_and_page(script, make, tmp_path):
    binary = columns(0, 255)
    root, run = make([binary] * 2, [binary], names=("nothing", "crack")), tmp_path / "run"
    done = script("train", "data=folder", f"data.root={root}", *QUICK, f"hydra.run.dir={run}")
    assert done.status == 0, done.err
    log = (run / "train_0.log").read_text()
    said = (
        "nothing is the only class in the 2 label masks, so that any network comes to a mIoU of 1 (crack never occurs)"
    )
    assert said in log.partition("training icnet_resnet18")[0]  # before the first step
    note = "only nothing is in the labels: the mIoU is over "
    assert note in log
    assert note in done.out.splitlines()[-1]
    results = json.loads((run / "results.json").read_text())
    assert said in results["data_warnings"][0]
    assert results["miou_note"].startswith(note)
    words = check_page(run / "report.html").words
    assert said in words
    assert note in words

    done = script("eval", f"ckpt={run / 'checkpoints/best.ckpt'}", "trainer=cpu_1p", "trainer.progress_bar=false",
                  f"hydra.run.dir={tmp_path / 'eval'}")  # fmt: skip
    assert done.status == 0, done.err
    assert note in (tmp_path / "eval" / "eval_0.log").read_text()
    assert json.loads((tmp_path / "eval" / "results.json").read_text())["miou_note"].startswith(note)
    assert note in check_page(tmp_path / "eval" / "report.html").words


def test_class_that_never_occurs_is_told_by_its_name(make, configure, caplog):
    root = make([columns(0, 2)] * 2, [GOOD])
    factory.check_data(configure(root))
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 1
    assert "folder, train: 1 of 3 classes never occurs in the 2 label masks: car" in warned[0]


# ---------------------------------------------------------------- class weights


def test_class_weights_are_those_of_the_training_labels(make, configure, caplog):
    # Road: half of a mask and a third; car and tree: a third of one mask and half of the other.
    root = make([columns(0, 1), GOOD], [columns(0)], names=(*NAMES, "sky"))
    config = configure(root, loss="median")
    data = factory.data_module(config.data, 1, batch_size=2)
    # freq: road 5/12, car 5/12, tree 1/3; their median is 5/12.
    weights = factory.class_weights(config, data.train)
    assert weights == pytest.approx([1, 1, 1.25, 0])
    caplog.set_level(logging.INFO)
    task = factory.task(config, data.classes, class_weights=weights)
    assert task.criterion.class_weights.tolist() == pytest.approx(weights)
    assert task.meta["class_weights"] == dict(zip(data.classes.names, weights, strict=True))
    assert "loss.class_weights=median: road 1, car 1, tree 1.25, sky 0" in caplog.text


def test_class_weights_that_are_given_stay(make, configure):
    config = configure(make([GOOD] * 2, [GOOD]), loss=[1, 2, 3.5])
    data = factory.data_module(config.data, 1, batch_size=2)
    assert factory.class_weights(config, data.train) == [1, 2, 3.5]
    task = factory.task(config, data.classes, class_weights=factory.class_weights(config, data.train))
    assert task.criterion.class_weights.tolist() == [1, 2, 3.5]
    assert factory.class_weights(replace(config, loss=LossConfig()), data.train) is None


def test_mask_that_cannot_be_counted_is_named(make, configure):
    root = make([GOOD] * 2, [GOOD])
    strange(root / "masks" / "train" / "1.png")
    config = configure(root, loss="enet")
    config = replace(config, data=replace(config.data, check=False))
    with pytest.raises(UserError, match=r"1\.png holds label ids 5-7"):
        factory.check_data(config)


@pytest.mark.slow
def test_resumed_training_has_the_same_class_weights(script, make, tmp_path):
    root, run = make([columns(0, 1), GOOD], [GOOD]), tmp_path / "run"
    words = ("data=folder", f"data.root={root}", *QUICK, "loss.class_weights=median", f"hydra.run.dir={run}")
    assert script("train", *words).status == 0
    first = json.loads((run / "results.json").read_text())
    assert first["class_weights"] == pytest.approx({"road": 1, "car": 1, "tree": 1.25})
    assert first["config"]["loss"]["class_weights"] == "median"
    done = script("train", *words, "trainer.max_epochs=2", "resume=auto")
    assert done.status == 0, done.err
    again = json.loads((run / "results.json").read_text())
    assert (again["epochs"], again["class_weights"]) == (2, first["class_weights"])
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["icnet"]["class_weights"] == first["class_weights"]


# ---------------------------------------------------------------- python -m icnet.data

COMMAND = "icnet/data/__main__"


def test_data_set_has_a_page_and_a_file(script, make, tmp_path):
    root, output = make([columns(0, 1), GOOD], [GOOD, columns(0)]), tmp_path / "check"
    done = script(COMMAND, "data=folder", f"data.root={root}", f"output={output}", "progress_bar=false")
    assert done.status == 0, done.err
    found = json.loads((output / "data.json").read_text())
    train, val = found["splits"]
    assert (train["name"], train["samples"], train["sizes"]) == ("train", 2, {"96x64": 2})
    assert [one["pixel_share"] for one in train["classes"]] == pytest.approx([5 / 12, 5 / 12, 1 / 6])
    assert [one["image_share"] for one in val["classes"]] == [1, 0.5, 0.5]
    assert found["problems"] == []
    by_rule = {one["rule"]: one["weights"] for one in found["class_weights"]}
    assert by_rule["median"] == [1, 1, 1.25]
    assert found["suspicious"] == [{"split": "val", "mask": str(root / "masks/val/1.png"), "reason": "holds road only"}]
    page = check_page(output / "data.html")
    assert "loss.class_weights=[1,1,1.25]" in page.words
    assert len(page.tags("img")) == 4
    assert "loss.class_weights=median comes to loss.class_weights=[1,1,1.25]" in done.out
    assert str(output) in done.out


def test_all_problems_of_a_data_set_are_listed(script, make, tmp_path):
    root, output = make([GOOD] * 30, [GOOD] * 2), tmp_path / "check"
    for number in range(25):
        strange(root / "masks" / "train" / f"{number}.png")
    cut(root / "images" / "val" / "1.png")
    done = script(COMMAND, "data=folder", f"data.root={root}", f"output={output}", "progress_bar=false")
    assert done.status == 2
    assert "folder has 26 problems" in done.error
    listed = [line for line in done.out.splitlines() if line.startswith("problem: ")]
    assert (len(listed), listed[-1]) == (21, "problem: 6 more")
    problems = json.loads((output / "data.json").read_text())["problems"]
    assert len(problems) == 26
    assert "images/val/1.png" in problems[-1]
    assert "holds label ids 5-7" in check_page(output / "data.html").words


def test_folder_that_cannot_be_made_is_told_before_the_data_are_looked_at(script, tmp_path):
    (tmp_path / "file").touch()
    done = script(COMMAND, "data=folder", f"data.root={tmp_path / 'nowhere'}", f"output={tmp_path / 'file' / 'x'}")
    assert done.status == 2
    assert done.error == f"output={tmp_path}/file/x is no folder (Not a directory); choose another with output=PATH"


def test_split_that_is_missing_is_a_problem_and_the_other_is_looked_at(script, make, tmp_path):
    root = make([GOOD] * 2, [])
    words = ("data=folder", f"data.root={root}", f"output={tmp_path / 'check'}", "progress_bar=false")
    done = script(COMMAND, *words)
    assert done.status == 2
    assert "problem: split val is unknown" in done.out
    assert [one["name"] for one in json.loads((tmp_path / "check" / "data.json").read_text())["splits"]] == ["train"]


def test_what_the_check_counted_need_not_be_counted_for_the_weights(script, make, configure, tmp_path, monkeypatch):
    root = make([columns(0, 1), GOOD], [GOOD])
    words = ("data=folder", f"data.root={root}", f"output={tmp_path / 'check'}", "progress_bar=false")
    assert script(COMMAND, *words).status == 0
    config = configure(root, loss="median")
    data = factory.data_module(config.data, 1, batch_size=2)
    monkeypatch.setattr("icnet.data.dataset.SegmentationDataset.read_labels", None)
    assert factory.class_weights(config, data.train) == pytest.approx([1, 1, 1.25])


def test_help_says_how_the_check_is_started(script):
    text = script(COMMAND, "--help").out
    assert text.startswith("python -m icnet.data key=value")
    assert "check.sample=null" in text
