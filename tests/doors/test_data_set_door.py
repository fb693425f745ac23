"""A data set registered from outside goes all the way: it is defined here and known nowhere else."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from icnet.data import DATASETS, ClassTable, DataSet, SamplePaths, pair_up, train_id_table
from icnet.errors import UserError
from icnet.models.checkpoints import read_checkpoint
from icnet.report.__main__ import main as report

NAMES = ("sea", "sand", "boat", "gull")
COLOURS = ((10, 20, 200), (220, 200, 90), (120, 60, 20), (250, 250, 250))
STORED = (40, 80, 120, 160)  # label ids as its masks hold them; 0 does not count

pytestmark = pytest.mark.slow


class Beach(DataSet):
    """Pictures beside their labels: root/<split>/NAME_photo.png and NAME_labels.png; it paints them itself."""

    holds = "train/ and val/ with *_photo.png and *_labels.png"
    options = ("pictures", "secret")
    private_options = ("secret",)
    title = "beach (toy)"
    classes = ClassTable(NAMES, COLOURS)
    label_table = train_id_table([*zip(STORED, range(4), strict=True), (0, 255)])

    def __init__(self, root: str | Path | None = None, pictures: int = 2, secret: str = "") -> None:
        super().__init__(root)
        self.pictures = pictures
        self.secret = secret

    def prepare(self) -> None:
        rng = np.random.default_rng(0)
        for split, count in (("train", 7), ("val", self.pictures)):
            folder = Path(str(self.root), split)
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                classes = np.repeat(np.repeat(rng.integers(0, 4, (2, 3)), 40, 0), 40, 1)
                labels = np.array(STORED, np.uint8)[classes]
                labels[:, :4] = 0
                photo = np.array(COLOURS, np.uint8)[classes][..., ::-1] // 2
                cv2.imwrite(str(folder / f"{number}_photo.png"), photo)
                cv2.imwrite(str(folder / f"{number}_labels.png"), labels)

    def list_samples(self, split: str) -> list[SamplePaths]:
        folder = self.folder() / split
        self.check_split(split)
        images, masks = (
            {path.name.removesuffix(f"_{kind}.png"): path for path in folder.glob(f"*_{kind}.png")}
            for kind in ("photo", "labels")
        )
        return pair_up(images, masks, hint="each NAME_photo.png needs a NAME_labels.png")


@pytest.fixture
def beach(monkeypatch, tmp_path) -> tuple[str, ...]:
    """Register the data set, write its conf/data file, and return the words that choose it."""
    monkeypatch.setitem(DATASETS, "beach", Beach)
    option = tmp_path / "conf/data/beach.yaml"
    option.parent.mkdir(parents=True)
    own = "options: {pictures: 2, secret: /home/me}"
    option.write_text(f"name: beach\nworkers: 0\ncrop_size: [64, 64]\nscale_range: [64, 96]\n{own}\n")
    return (f"--config-dir={option.parents[1]}", "data=beach", f"data.root={tmp_path / 'sands'}")


QUICK = ("trainer=cpu_1p", "trainer.progress_bar=false")


def test_data_set_of_ones_own_goes_from_training_to_the_report(script, beach, tmp_path, capsys):
    run, ckpt = tmp_path / "run", tmp_path / "run/checkpoints/last.ckpt"
    words = (
        *beach, "data.options.pictures=3", "model=icnet_resnet18", "trainer.batch_size=7", "optim.lr=0.01",
        "callbacks.pictures=1", "logger.tensorboard=false", *QUICK, f"hydra.run.dir={run}",
    )  # fmt: skip

    done = script("train", *words, "trainer.max_epochs=1")
    assert done.status == 0, done.err
    results = json.loads((run / "results.json").read_text())
    assert results["data"] == "beach (toy)"
    assert results["val_images"] == 3  # its own option, changed on the command line
    assert tuple(results["iou"]) == NAMES
    meta = read_checkpoint(ckpt).meta
    assert meta["data"]["options"] == {"pictures": 3, "secret": "/home/me"}
    assert tuple(map(tuple, meta["classes"]["palette"])) == COLOURS

    done = script("train", *words, "trainer.max_epochs=2", "resume=auto")
    assert done.status == 0, done.err
    assert json.loads((run / "results.json").read_text())["epochs"] == 2

    done = script("eval", f"ckpt={ckpt}", "save_pictures=true", *QUICK, f"hydra.run.dir={tmp_path / 'eval'}")
    assert done.status == 0, done.err
    scores = json.loads((tmp_path / "eval/results.json").read_text())
    assert (scores["data"], scores["val_images"], tuple(scores["iou"])) == ("beach (toy)", 3, NAMES)
    assert np.sum(scores["confusion"]) == 3 * 80 * (120 - 4)  # the stripe that does not count is left out

    file = tmp_path / "beach.onnx"
    done = script("export", f"ckpt={ckpt}", "export.height=80", "export.width=120", f"output={file}")
    assert done.status == 0, done.err
    assert b"/home/me" not in file.read_bytes()
    assert str(tmp_path).encode() not in file.read_bytes()
    own = ("data.workers=0", f"data.root={tmp_path / 'sands'}")
    done = script("eval", f"ckpt={file}", *own, *QUICK, f"hydra.run.dir={tmp_path / 'onnx'}")
    assert done.status == 0, done.err
    exported = json.loads((tmp_path / "onnx/results.json").read_text())
    assert exported["config"]["data"]["options"] == {"pictures": 3}
    assert exported["miou"] == pytest.approx(scores["miou"], abs=1e-3)

    done = script("demo", f"ckpt={ckpt}", f"input={tmp_path / 'sands/val/*_photo.png'}", f"output={tmp_path / 'shown'}")
    assert done.status == 0, done.err
    assert "trained on beach (toy)" in done.out
    painted = cv2.imread(str(tmp_path / "shown/0_photo_labels.png"))[..., ::-1]
    assert {tuple(colour) for colour in painted.reshape(-1, 3).tolist()} <= set(COLOURS)

    assert report([str(run), str(tmp_path / "eval")]) == 0
    assert "2 runs on beach (toy)" in capsys.readouterr().out
    assert "gull" in (run / "report.html").read_text()


def test_data_set_of_ones_own_is_refused_like_the_others(script, beach, monkeypatch, tmp_path):
    end = (*QUICK, f"hydra.run.dir={tmp_path / 'run'}")
    done = script("train", *beach, "+data.options.weather=rain", *end)
    assert done.status == 2
    assert done.error == "data.options.weather is no option of data=beach; known are pictures, secret"
    done = script("train", *beach, "data.val_split=nope", *end)
    assert done.status == 2
    assert done.error.startswith("split nope is unknown; set data.train_split and data.val_split to one of train, val")
    monkeypatch.delitem(DATASETS, "beach")
    done = script("train", *beach, *end)
    assert done.status == 2
    assert done.error.startswith("data=beach is unknown; choose one of cityscapes, camvid, folder, street")


def test_builtin_data_sets_have_no_options_beside_their_keys(script, tmp_path):
    done = script("train", "data=street", "+data.options.size=3", f"hydra.run.dir={tmp_path}")
    assert done.status == 2
    assert done.error == "data.options.size is no option of data=street; it has none"


def test_folder_that_is_missing_is_told_with_what_it_should_hold(tmp_path):
    with pytest.raises(UserError, match=r"data\.root is not given; set it to the folder that holds train/ and val/"):
        Beach().list_samples("train")
    with pytest.raises(UserError, match=r"data\.root=.* is not a folder; give the folder that holds train/ and val/"):
        Beach(tmp_path / "absent").list_samples("train")
