"""What a user can get wrong, from the command line: status 2 and one line that says what and what to do about it.

The messages are tested where they are made (those of the schema in test_config_values.py); here, that each kind of
them gets out of every script, from loader processes too, and that nothing is run, overwritten or lost on the way.
"""

import contextlib
import os
import re
import resource
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from icnet import factory
from icnet.config import DataConfig
from icnet.deploy.trained_network import read_network
from icnet.errors import UserError
from icnet.models.checkpoints import load_weights, read_checkpoint
from icnet.models.imagenet_weights import read_backbone
from icnet.run.results import TrainingRecord, write_results

CKPT = "checkpoints/best.ckpt"
CITY = "streetville"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run in an empty folder, on a machine without a Cityscapes folder of its own."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.delenv("CITYSCAPES_DATASET", raising=False)


@pytest.fixture
def train(script, small, tmp_path):
    """Run train.py with small settings; words on data replace all of them."""

    def run(*words: object):
        base = small
        if any(str(word).startswith("data=") for word in words):
            base = [word for word in small if not word.startswith("data")]
            words = ("data.crop_size=[64,64]", "data.scale_range=[64,96]", "data.workers=0", *words)
        return script("train", f"hydra.run.dir={tmp_path / 'run'}", *base, *words)

    return run


@pytest.fixture
def evaluate(script, trained, tmp_path):
    """Run eval.py on the trained checkpoint, or on another one that is given."""

    def run(*words: object):
        base = ("trainer=cpu_1p", "trainer.progress_bar=false", f"hydra.run.dir={tmp_path / 'eval'}")
        given = any(str(word).startswith("ckpt=") for word in words)
        return script("eval", *base, *([] if given else [f"ckpt={trained / CKPT}"]), *words)

    return run


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.full((64, 96, 3), 90, np.uint8))
    return path


def assert_refused(done, *words: str) -> None:
    assert done.status == 2, done.err
    for word in words:
        assert word in done.error


# ---------------------------------------------------------------- data sets


def write_scene(root: Path, split: str, number: int) -> tuple[Path, Path]:
    """Write one image and its labels in the layout of Cityscapes; returns where."""
    stem = f"{CITY}_{number:06d}_000019"
    image = root / "leftImg8bit" / split / CITY / f"{stem}_leftImg8bit.png"
    label = root / "gtFine" / split / CITY / f"{stem}_gtFine_labelIds.png"
    for path, pixels in ((image, np.full((64, 96, 3), 90, np.uint8)), (label, np.full((64, 96), 7, np.uint8))):
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), pixels)
    return image, label


@pytest.fixture
def scenes(tmp_path) -> Path:
    for split in ("train", "val"):
        for number in range(2):
            write_scene(tmp_path / "scenes", split, number)
    return tmp_path / "scenes"


ROOTS = {
    "cityscapes": ("which is not a folder", "leftImg8bit/ and gtFine/"),
    "camvid": ("is not a folder", "train/, trainannot/, val/ and valannot/"),
    "folder": ("is not a folder", "images/{split}/{stem}, masks/{split}/{stem} and classes.yaml"),
}


@pytest.fixture
def root(request, tmp_path) -> Path | None:
    """A ``data.root`` that holds no data set."""
    path = tmp_path / "root"
    if request.param == "a file":
        path.write_text("no folder")
    elif request.param == "empty":
        path.mkdir()
    return None if request.param == "left out" else path


@pytest.mark.parametrize("name", ROOTS)
@pytest.mark.parametrize("root", ["left out", "missing", "a file", "empty"], indirect=True)
@pytest.mark.parametrize("train", [True, False])
def test_bad_data_root_says_what_the_folder_should_hold(name, root, train):
    problem, holds = ROOTS[name]
    with pytest.raises(UserError) as refused:
        factory.data_module(DataConfig(name=name, root=root and str(root)), seed=1, batch_size=1 if train else None)
    if root is None:
        words = ("data.root", holds, "data=street")
    else:
        words = (str(root),) if root.is_dir() else (str(root), problem, holds)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize("root", ["left out", "empty"], indirect=True)
def test_bad_data_root_is_refused_by_training_and_evaluation(train, evaluate, root):
    words = ["data=cityscapes"] if root is None else ["data=cityscapes", f"data.root={root}"]
    for run in (train, evaluate):
        assert_refused(run(*words), "data.root" if root is None else str(root))


def test_street_scenes_need_a_folder_to_be_drawn_into(train, photo):
    assert_refused(train("data=street", f"data.root={photo}"), f"data.root={photo}", "give another data.root")
    assert_refused(train("data=street", "data.root=null"), "data.root is empty")


def test_street_scenes_are_not_drawn_over_another_data_set(train, scenes):
    before = {path: path.read_bytes() for path in scenes.rglob("*.png")}
    assert_refused(train("data=street", f"data.root={scenes}"), str(scenes), "give another data.root")
    assert {path: path.read_bytes() for path in scenes.rglob("*.*")} == before


def text(path: Path) -> None:
    path.write_text("no picture")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def wrong_ids(path: Path) -> None:
    cv2.imwrite(str(path), np.full((64, 96), 99, np.uint8))


def other_size(path: Path) -> None:
    cv2.imwrite(str(path), np.full((32, 48), 7, np.uint8))


def colours(path: Path) -> None:
    cv2.imwrite(str(path), np.full((64, 96, 3), 7, np.uint8))


def palette_of_another_class(path: Path) -> None:
    image = Image.fromarray(np.full((64, 96), 7, np.uint8)).convert("P")
    image.putpalette([70, 130, 180] * 256)  # the sky's
    image.save(path)


DAMAGES = [
    (0, Path.unlink, "1 label file(s) have no image"),
    (1, Path.unlink, "1 image file(s) have no label"),
    (0, truncated, "is truncated after 60 bytes"),
    (0, text, "cannot be decoded as an image"),
    (1, truncated, "is truncated after 60 bytes"),
    (1, text, "is not a PNG, BMP, TIFF or WebP file"),
    (1, wrong_ids, "holds label ids 99"),
    (1, other_size, "is 96x64 (width x height) but its label mask"),
    (1, colours, "are stored in two ways"),
    (1, palette_of_another_class, "can be read in two ways: its value 7 is road as a label id, but its colour"),
]


@pytest.mark.parametrize(("which", "damage", "words"), DAMAGES)
@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_sample_is_named(scenes, which, damage, words, split, workers):
    files = write_scene(scenes, split, 2)
    damage(files[which])
    named = files[1 - which] if damage is Path.unlink else files[which]
    data = DataConfig(name="cityscapes", root=str(scenes), workers=workers, crop_size=[64, 64])

    def load() -> None:
        module = factory.data_module(data, seed=1, batch_size=3)
        list(module.train_dataloader() if split == "train" else module.val_dataloader())

    with pytest.raises(UserError) as refused:
        load()
    assert str(named) in str(refused.value)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


SHOWN = [(1, Path.unlink, "1 image file(s) have no label"), (1, wrong_ids, "holds label ids 99")]
"""One damage that is found before anything is loaded, and one that a loader finds."""


@pytest.mark.parametrize(("which", "damage", "message"), SHOWN)
@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_training_sample_ends_the_run_in_one_line(train, scenes, which, damage, message, workers):
    files = write_scene(scenes, "train", 2)
    damage(files[which])
    words = ("data=cityscapes", f"data.root={scenes}", f"data.workers={workers}", "data.check=false")
    done = train(*words, "trainer.batch_size=3")
    assert_refused(done, str(files[1 - which] if damage is Path.unlink else files[which]), message)


@pytest.mark.parametrize(("which", "damage", "message"), SHOWN)
def test_damaged_validation_sample_ends_the_evaluation_in_one_line(evaluate, scenes, which, damage, message):
    files = write_scene(scenes, "val", 2)
    damage(files[which])
    done = evaluate("data=cityscapes", f"data.root={scenes}", "data.workers=1")
    assert_refused(done, str(files[1 - which] if damage is Path.unlink else files[which]), message)


def test_damaged_validation_sample_ends_a_training_that_can_be_resumed(train, scenes, tmp_path):
    truncated(write_scene(scenes, "val", 2)[0])
    words = (
        "data=cityscapes", f"data.root={scenes}", "trainer.batch_size=1", "trainer.max_epochs=1", "data.check=false",
        "callbacks.checkpoint_every_n_steps=1",
    )  # fmt: skip
    assert_refused(train(*words), "_000002_", "is truncated")
    write_scene(scenes, "val", 2)
    done = train(*words, "resume=auto")
    assert done.status == 0, done.err
    assert "going on from" in (tmp_path / "run" / "train_0.log").read_text()


def test_unknown_split_lists_the_known(train, evaluate, scenes):
    for run in (train, evaluate):
        done = run("data=cityscapes", f"data.root={scenes}", "data.val_split=nope")
        assert_refused(done, "split nope is unknown", "train, val, trainval, test")


def test_more_samples_per_step_than_there_are_is_refused(train):
    assert_refused(train("trainer.batch_size=7"), "has 6 samples but one step takes 7", "lower trainer.batch_size")


def test_bad_list_of_classes_is_named(train, tmp_path):
    file = tmp_path / "my_classes.yaml"
    file.write_text("classes: [")
    done = train("data=folder", f"data.root={tmp_path}", f"data.classes={file}")
    assert_refused(done, str(file), "is not valid YAML")


def test_data_with_another_number_of_classes_than_the_checkpoint_is_refused(train, camvid_like, trained):
    done = train("data=camvid", f"data.root={camvid_like}", f"resume={trained / CKPT}")
    assert_refused(done, "19 classes and the data 11", "use model.weights=")


# ---------------------------------------------------------------- checkpoints


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


BROKEN = {
    "missing": "missing.ckpt",
    "folder": "folder.ckpt",
    "empty": "(0 bytes) is truncated or not a checkpoint",
    "truncated": "is truncated or not a checkpoint",
    "text": "is truncated or not a checkpoint",
    "code": "holds pickled code",
    "foreign": "conv.weight",
    "no_tensors": "not named tensors",
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory, trained) -> Path:
    """A folder of checkpoints that are none, by the names in BROKEN."""
    folder = tmp_path_factory.mktemp("broken")
    whole = (trained / CKPT).read_bytes()
    (folder / "folder.ckpt").mkdir()
    (folder / "empty.ckpt").write_bytes(b"")
    (folder / "truncated.ckpt").write_bytes(whole[: len(whole) // 2])
    (folder / "text.ckpt").write_text("404: Not Found")
    torch.save({"state_dict": {"net.conv.weight": torch.ones(1)}, "x": Code(folder / "executed")}, folder / "code.ckpt")
    torch.save({"conv.weight": torch.ones(1)}, folder / "foreign.ckpt")
    torch.save({"icnet": {}}, folder / "no_tensors.ckpt")
    return folder


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_checkpoint_is_named(broken, kind):
    path = broken / f"{kind}.ckpt"
    for read in (read_checkpoint, read_network):
        with pytest.raises(UserError) as refused:
            read(path)
        assert str(path) in str(refused.value)
        assert BROKEN[kind] in str(refused.value)
    assert not (broken / "executed").exists()


@pytest.mark.parametrize("kind", ["folder", "truncated", "code"])
@pytest.mark.parametrize("name", ["eval", "export", "demo", "train resume", "train model.weights"])
def test_broken_checkpoint_ends_every_script_and_nothing_is_made(script, train, broken, photo, tmp_path, name, kind):
    path = broken / f"{kind}.ckpt"
    outputs = {"eval": tmp_path / "eval" / "results.json", "export": tmp_path / "x.onnx", "demo": tmp_path / "shown"}
    if name.startswith("train"):
        done = train(f"{name.split()[1]}={path}")
    else:
        words = {
            "eval": ("trainer=cpu_1p", f"hydra.run.dir={tmp_path / 'eval'}"),
            "export": (f"output={outputs['export']}",),
            "demo": (f"input={photo}", f"output={outputs['demo']}"),
        }
        done = script(name, f"ckpt={path}", *words[name])
    assert_refused(done, str(path), BROKEN[kind])
    assert not (broken / "executed").exists()
    assert not any(output.exists() for output in outputs.values())
    assert not list(tmp_path.glob("run/checkpoints/*"))


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_backbone_weights_are_named(broken, kind):
    path = broken / f"{kind}.ckpt"
    with pytest.raises(UserError, match=re.escape(str(path))):
        load_weights(torch.nn.Conv2d(1, 1, 1), read_backbone(str(path)), path)
    assert not (broken / "executed").exists()


def test_broken_backbone_weights_end_a_training(train, broken):
    path = broken / "truncated.ckpt"
    assert_refused(train(f"model.backbone_weights={path}"), str(path), BROKEN["truncated"])


@pytest.mark.parametrize("key", ["resume", "model.weights"])
def test_checkpoint_of_another_architecture_is_refused(train, trained, key):
    done = train("model=icnet_resnet34", f"{key}={trained / CKPT}")
    assert_refused(done, "was made with icnet_resnet18 and this run uses icnet_resnet34", "choose model=icnet_resnet18")


@pytest.fixture(scope="module")
def content(trained) -> dict:
    """What the trained checkpoint holds."""
    return torch.load(trained / CKPT, weights_only=True)


def test_checkpoint_that_describes_another_network_than_it_holds_is_refused(script, content, photo, tmp_path):
    path = tmp_path / "other.ckpt"
    model = {**content["icnet"]["model"], "options": {"backbone": "resnet34"}}
    torch.save({**content, "icnet": {**content["icnet"], "model": model}}, path)
    done = script("demo", f"ckpt={path}", f"input={photo}", f"output={tmp_path / 'shown'}")
    assert_refused(done, f"{path} does not fit this network", "missing")
    assert not (tmp_path / "shown").exists()


def test_resuming_without_a_runs_state_points_to_model_weights(train, content, tmp_path):
    path = tmp_path / "weights.ckpt"
    torch.save({key: content[key] for key in ("icnet", "state_dict")}, path)
    assert_refused(train(f"resume={path}"), f"resume={path} holds weights but no run's state", f"model.weights={path}")


def test_resuming_with_another_optimizer_is_refused(train, trained):
    done = train("optim=adamw", f"resume={trained / CKPT}")
    assert_refused(done, "was made with optim=sgd and this run uses optim=adamw")


@pytest.mark.parametrize("name", ["eval", "export"])
def test_checkpoint_left_out_where_there_is_none_says_what_to_do(script, name):
    assert_refused(
        script(name),
        "ckpt is not given and there is no best checkpoint below outputs/",
        "train.py",
        "ckpt=PATH, such as ckpt=camvid",
    )


def test_checkpoint_with_data_keys_of_another_version_is_refused(evaluate, content, tmp_path):
    path = tmp_path / "newer.ckpt"
    torch.save({**content, "icnet": {**content["icnet"], "data": {"name": "street", "weather": "rain"}}}, path)
    assert_refused(evaluate(f"ckpt={path}"), f"{path} describes its data by weather", "data=NAME")


@pytest.mark.parametrize(
    "classes",
    [
        {"names": ["a"] * 19},
        {"names": ["a"] * 19, "palette": [1] * 19},
        {"names": ["a"], "palette": [[0, 0, 0]]},
        {"names": ["a"] * 19, "palette": [[0, 0, 0]] * 18},
        ["road"],
    ],
)
def test_checkpoint_with_a_wrong_list_of_classes_is_refused(content, tmp_path, classes):
    path = tmp_path / "classes.ckpt"
    torch.save({**content, "icnet": {**content["icnet"], "classes": classes}}, path)
    with pytest.raises(UserError, match=re.escape(f"{path} does not name and paint its 19 classes")):
        read_network(path)


def test_checkpoint_with_a_changed_weight_is_refused_by_every_script(evaluate, train, script, trained, photo, tmp_path):
    path = tmp_path / "damaged.ckpt"
    content = bytearray((trained / CKPT).read_bytes())
    weight = read_checkpoint(trained / CKPT).state_dict["classifier.weight"].numpy().tobytes()
    content[content.index(weight) + 3] ^= 32
    path.write_bytes(content)
    words = (f"{path} is damaged: its record", "copy or download it again")
    assert_refused(evaluate(f"ckpt={path}"), *words)
    assert_refused(train(f"resume={path}"), *words)
    assert_refused(train(f"model.weights={path}"), *words)
    assert_refused(script("demo", f"ckpt={path}", f"input={photo}", f"output={tmp_path / 'shown'}"), *words)
    assert_refused(script("export", f"ckpt={path}", f"output={tmp_path / 'x.onnx'}"), *words)


@pytest.mark.parametrize("name", ["eval", "demo"])
def test_file_that_is_no_onnx_graph_is_named(script, photo, tmp_path, name):
    path = tmp_path / "x.onnx"
    path.write_text("no graph")
    done = script(name, f"ckpt={path}", *([f"input={photo}"] if name == "demo" else []))
    assert_refused(done, f"{path} can't be opened")


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("name", "word", "words"),
    [
        ("train", "nope=1", ("nope is an unknown key", "data, model, loss")),
        ("train", "optim.lrr=1", ("optim.lrr is an unknown key", "lr, momentum")),
        ("train", "+optim.lrr=1", ("optim.lrr is an unknown key", "lr, momentum")),
        ("train", "+nope=1", ("nope is an unknown key", "data, model, loss")),
        ("train", "data.street.trian=3", ("data.street.trian is an unknown key", "train, val, height")),
        ("train", "ckpt=x", ("ckpt is an unknown key", "resume")),
        (
            "train",
            "data.batch_size=4",
            ("data.batch_size is an unknown key since version 0.2; give trainer.batch_size",),
        ),
        (
            "train",
            "+data.batch_size=4",
            ("data.batch_size is an unknown key since version 0.2; give trainer.batch_size",),
        ),
        (
            "eval",
            "data.batch_size=4",
            ("data.batch_size is an unknown key since version 0.2; give trainer.batch_size",),
        ),
        ("eval", "data.nope=1", ("data.nope is an unknown key", "root")),
        (
            "train",
            "model.options.width=8",
            ("model.options.width is an", "+model.options.width=VALUE adds it"),
        ),
        ("eval", "optim.lr=1", ("optim is an unknown key", "ckpt, data")),
        ("export", "export.nope=1", ("export.nope is an unknown key", "height, width")),
        ("demo", "inptu=x", ("inptu is an unknown key", "ckpt, input")),
        ("train", "optim.lr", ("optim.lr is not read as key=value",)),
        ("train", "logger.project=a=b", ("logger.project=a=b is not read", "quote")),
        ("demo", "photo.jpg", ("photo.jpg is not read as key=value",)),
        ("train", "optim.lr=fast", ("optim.lr=fast", "could not be converted to Float")),
        ("train", "data.crop_size=64", ("data.crop_size=64", "int is not a ListConfig, list or tuple")),
        ("train", "seed=abc", ("seed=abc", "could not be converted to Integer")),
        ("export", "export.opset=new", ("export.opset=new", "could not be converted to Integer")),
        ("train", "optim.lr=${nope}", ("'nope' not found",)),
    ],
)
def test_unknown_key_or_type_is_named_beside_what_is_known(script, name, word, words):
    assert_refused(script(name, word), *words)


@pytest.mark.parametrize(
    ("name", "word", "known"),
    [
        ("train", "optim=nonsense", "adamw, npu_fused_sgd, sgd"),
        ("train", "trainer=npu_8p_nope", "auto, cpu_1p, cpu_2p, gpu_1p, gpu_8p, npu_1p, npu_8p"),
        (
            "train",
            "model=icnet_resnet19",
            "icnet_lite0, icnet_mmseg_resnet101, icnet_mmseg_resnet18, icnet_mmseg_resnet50, icnet_paper",
        ),
        ("train", "data=nope", "ade20k, bdd100k, camvid, camvid32, checkpoint, cityscapes, folder, idd, kitti, "),
        ("eval", "data=nope", "ade20k, bdd100k, camvid, camvid32, checkpoint, cityscapes, folder, idd, kitti, "),
        ("train", "loss=nope", "cascade, ohem, reference"),
        ("train", "scheduler=nope", "constant, cosine, poly"),
        (
            "train",
            "experiment=nope",
            "camvid, camvid_lite0, full, performance, quickstart, reference, table_gpu_8p, table_npu_8p",
        ),
        ("train", "hparams=nope", "npu_lr0.1_s32_o1"),
        ("train", "data=null", "ade20k, bdd100k, camvid, camvid32, checkpoint, cityscapes, folder, idd, kitti, "),
        ("train", "optim=", "adamw, npu_fused_sgd, sgd"),
        ("train", "optim=3", "adamw, npu_fused_sgd, sgd"),
        ("eval", "trainer=null", "auto, cpu_1p, cpu_2p, gpu_1p, gpu_8p, npu_1p, npu_8p"),
        ("train", "model.name=unet", "icnet"),
        ("train", "model.backbone=vgg16", "resnet18, resnet34, resnet50, resnet101, resnet152"),
        ("train", "amp=nope", "bf16, o0, o1, o2"),
        ("train", "amp.opt_level=foo", "O0, O1, O2, bf16"),
    ],
)
def test_unknown_name_lists_the_known(script, name, word, known):
    done = script(name, word)
    assert_refused(done, f"{word} is unknown; choose one of {known}" if "nope" not in word else known)
    assert word in done.error


@pytest.mark.parametrize(
    ("word", "words"),
    [
        # the schema's: one of each kind
        ("optim.lr=nan", ("optim.lr=nan", "above 0")),
        ("data.crop_size=[64]", ("data.crop_size=[64] has 1 numbers; give two",)),
        ("data.crop_size=[0,64]", ("data.crop_size=0", "from")),
        ("trainer.devices=[1,1]", ("trainer.devices=[1, 1]", "a list of indices")),
        ("seed=99999999999", ("seed=99999999999", "from 0 to 4294967295")),
        # found later, against networks, data, devices and files
        ("data.name=nope", ("cityscapes, camvid, folder, street",)),
        ("loss.sub124_weight=0 loss.sub24_weight=0 loss.sub4_weight=0", ("are all 0",)),
        ("loss.class_weights=[1.0,1.0]", ("loss.class_weights has 2 numbers and the data 19 classes",)),
        ("trainer.limit_train_batches=0.1", ("trainer.limit_train_batches=0.1 of 3 is no batch",)),
        ("trainer.limit_val_batches=0.1", ("trainer.limit_val_batches=0.1 of 3 is no batch",)),
        ("trainer.devices=[0]", ("trainer.devices=[0] picks devices, but this run is on the CPU",)),
        ("trainer.devices=9999", ("trainer.devices=9999", "give at most")),
        ("resume=nowhere.ckpt", ("nowhere.ckpt", "give the path")),
    ],
)
def test_training_with_a_value_out_of_range_is_refused(train, tmp_path, word, words):
    assert_refused(train(*word.split()), *words)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("eval.scales=[0]", ("eval.scales=0.0", "above 0")),
        ("eval.sliding_window=[64,10]", ("eval.sliding_window=[64, 10]", "at least 64 pixels")),
        ("data.eval_batch_size=0", ("data.eval_batch_size=0", "from 1")),
        ("data.crop_size=[1]", ("data.crop_size=[1]", "give two")),
        ("trainer.limit_val_batches=0", ("trainer.limit_val_batches=0", "nothing to evaluate")),
        ("trainer.limit_val_batches=0.1", ("trainer.limit_val_batches=0.1 of 3 is no batch",)),
    ],
)
def test_evaluation_with_a_value_out_of_range_is_refused(evaluate, tmp_path, word, words):
    assert_refused(evaluate(word), *words)
    assert not (tmp_path / "eval" / "results.json").exists()


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("export.opset=5", ("export.opset=5", "give 11 to")),
        ("export.height=10", ("export.height=10", "at least 64 pixels")),
        ("export.width=-64", ("export.width=-64", "at least 64 pixels")),
        ("export.batch=0", ("export.batch=0", "from 1, or dynamic")),
        ("export.images=nowhere", ("export.images=nowhere matches no image",)),
        (
            "export.precision=int8 export.target=pt2 output=x.pt2",
            ("not for export.target=pt2", "give export.target=onnx"),
        ),
        (
            "export.precision=int8 data=camvid data.root=nowhere",
            ("int8 takes images to calibrate on", "nowhere", "data.root="),
        ),
        ("export.precision=int8 data.train_split=test", ("int8 takes images to calibrate on", "test")),
        ("output=ICNet.pb", ("output=ICNet.pb", ".onnx")),
        ("output=", ("output=", ".onnx")),
    ],
)
def test_export_with_a_value_out_of_range_is_refused(script, trained, tmp_path, word, words):
    done = script("export", f"ckpt={trained / CKPT}", "export.height=64", "export.width=64", *word.split())
    assert_refused(done, *words)
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("input=null", ("input is not given", "input=photo.jpg")),
        ("input=", ("input is not given", "input=photo.jpg")),
        ("input=nowhere.png", ("input=nowhere.png does not exist",)),
        ("input=nowhere/*.png", ("input=nowhere/*.png matches no image",)),
        ("input=.", ("input=. holds no image or video",)),
        ("output=", ("output= is empty",)),
        ("device=tpu", ("device=tpu is not available here", "auto", "cpu")),
        ("alpha=2", ("alpha=2.0", "from 0 to 1")),
    ],
)
def test_demo_with_a_value_out_of_range_is_refused(script, trained, photo, word, words):
    assert_refused(script("demo", f"ckpt={trained / CKPT}", f"input={photo}", word), *words)
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("amp=o1", "amp.loss_scale=0"), ("amp.loss_scale=0 is unknown", "a number above 0, such as 128, or dynamic")),
        (("amp=o2", "callbacks.ema_decay=0.9"), ("callbacks.ema_decay averages the weights", "choose amp=o1")),
        (("optim=npu_fused_sgd",), ("optim=npu_fused_sgd needs an NPU", "choose optim=sgd")),
        (("trainer.precision=16",), ("trainer.precision is an unknown key",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_mixed_precision_and_groups_that_cannot_be_are_refused(train, given, words):
    assert_refused(train(*given), *words)


def test_devices_that_are_not_here_are_refused(train, monkeypatch):
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 0)
    done = train("trainer.accelerator=gpu")
    assert_refused(done, "trainer.accelerator=gpu, but torch finds no GPU here; choose trainer=cpu_1p")
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 2)
    assert_refused(train("trainer=auto", "trainer.devices=3"), "trainer.devices=3", "has 2 GPUs; give at most 2")
    assert_refused(train("trainer=auto", "trainer.devices=[0,2]"), "trainer.devices=[0, 2]", "2 GPUs, 0 to 1")


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_logger_without_its_package_says_what_to_install(train, monkeypatch, package):
    monkeypatch.setattr("icnet.factory.loggers.find_spec", lambda name: None)
    assert_refused(train(f"logger={package}", "logger.tensorboard=false"), f"pip install {package}")


@pytest.mark.parametrize("name", ["train", "eval"])
def test_mistake_is_the_only_line_of_a_process(process, name):
    done = process(name, "trainer.max_epochs=0", cwd=Path.cwd())
    assert done.status == 2
    assert done.err.startswith("error: trainer.max_epochs=0")
    assert done.err.count("\n") == 1
    assert done.out == ""


# ---------------------------------------------------------------- inputs of the demo


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("video.mp4", b"no video", "is not a readable video"),
        ("video.mp4", b"", "is not a readable video"),
        ("video.avi", b"RIFF", "is not a readable video"),
        ("photo.png", b"\x89PNG\r\n\x1a\n and no more", "is truncated"),
        ("photo.jpg", b"no image", "cannot be decoded as an image"),
        ("notes.txt", b"no image", "cannot be decoded as an image"),
        ("folder.mp4", None, "holds no image or video"),
        ("folder.png", None, "holds no image or video"),
    ],
)
def test_unreadable_input_is_named(script, trained, tmp_path, name, content, words):
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    done = script("demo", f"ckpt={trained / CKPT}", f"input={path}", f"output={tmp_path / 'shown'}")
    assert_refused(done, str(path), words)
    assert content is None or path.read_bytes() == content


# ---------------------------------------------------------------- places that cannot be written


@pytest.fixture(params=["below a file", "a file", "/proc"])
def unwritable(request, photo) -> Path:
    """A folder that even root cannot make."""
    return {"below a file": photo / "results", "a file": photo, "/proc": Path("/proc/nowhere")}[request.param]


def test_run_folder_that_cannot_be_made_is_named(train, evaluate, unwritable, photo):
    before = photo.read_bytes()
    for run, key in ((train, "hydra.run.dir"), (train, "output_dir"), (evaluate, "hydra.run.dir")):
        assert_refused(run(f"{key}={unwritable}"), str(unwritable), "hydra.run.dir=PATH")
    assert photo.read_bytes() == before


def test_sweep_folder_that_cannot_be_made_is_named_with_its_own_key(script, small, unwritable, photo):
    before = photo.read_bytes()
    done = script("train", "-m", *small, f"hydra.sweep.dir={unwritable}")
    assert_refused(done, str(unwritable), "choose another with hydra.sweep.dir=PATH")
    assert photo.read_bytes() == before


def test_output_folder_that_cannot_be_made_is_named(script, trained, unwritable, photo):
    before = photo.read_bytes()
    ckpt = f"ckpt={trained / CKPT}"
    assert_refused(script("demo", ckpt, f"input={photo}", f"output={unwritable}"), str(unwritable), "output=FOLDER")
    assert_refused(script("export", ckpt, f"output={unwritable}/x.onnx"), str(unwritable), "output=FILE")
    assert photo.read_bytes() == before


@contextlib.contextmanager
def full_disk(size: int):
    """Let no file grow beyond a number of bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_keeps_the_older_export(script, trained, tmp_path):
    path = tmp_path / "x.onnx"
    path.write_text("older")
    with full_disk(1 << 20):
        done = script("export", f"ckpt={trained / CKPT}", "export.height=64", "export.width=64", f"output={path}")
    assert_refused(done, "cannot be written (File too large)", "make room")
    assert path.read_text() == "older"
    assert not list(tmp_path.glob(".*"))


def test_full_disk_ends_evaluation_and_demo_in_one_line(script, evaluate, trained, photo, tmp_path):
    cv2.imwrite(str(photo), np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    with full_disk(1 << 12):
        evaluation = evaluate()
        demo = script("demo", f"ckpt={trained / CKPT}", f"input={photo}", f"output={tmp_path / 'shown'}")
    assert_refused(evaluation, "File too large", "make room")
    assert_refused(demo, "photo_overlay.png cannot be written", "output=FOLDER")


# ---------------------------------------------------------------- defects stay defects


@pytest.mark.parametrize("error", [ZeroDivisionError(), ValueError("no mistake"), FileNotFoundError(2, "gone", "x")])
def test_defect_keeps_its_traceback(train, monkeypatch, error):
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr("icnet.factory.prepare_data", fail)
    with pytest.raises(type(error)):
        train()


@pytest.mark.parametrize("number", [13, 28, 30])  # permission, full disk, read-only
def test_file_system_that_refuses_is_no_defect(train, monkeypatch, number):
    def fail(_: object) -> None:
        raise OSError(number, os.strerror(number), "/data/scenes")

    monkeypatch.setattr("icnet.factory.prepare_data", fail)
    assert_refused(train(), "/data/scenes cannot be used", os.strerror(number))


def test_run_that_cannot_begin_leaves_a_finished_one_where_it_is(train, tmp_path):
    results = tmp_path / "run" / "results.json"
    write_results(results, TrainingRecord(status="done"))
    for word in ("amp.loss_scale=64", "amp.opt_level=O7"):
        assert_refused(train("resume=here", word), word)
        assert results.exists()
