"""A person's own data set, from its folder to pictures: names, colours and class count follow through every script."""

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import yaml

NAMES = ("meadow", "barn", "pond")
COLOURS = ((10, 200, 30), (200, 40, 20), (20, 60, 220))
IGNORED = 254

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def farm(tmp_path_factory) -> Path:
    """Images whose colours tell the class, some as JPEG, with a stripe that does not count."""
    root = tmp_path_factory.mktemp("farm")
    rows = [{"name": name, "color": list(colour)} for name, colour in zip(NAMES, COLOURS, strict=True)]
    (root / "classes.yaml").write_text(yaml.safe_dump({"classes": rows, "ignore": [IGNORED]}))
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for folder in ("images", "masks"):
            (root / folder / split).mkdir(parents=True)
        for number in range(count):
            mask = np.repeat(np.repeat(rng.integers(0, len(NAMES), (2, 3), np.uint8), 40, 0), 40, 1)
            image = np.array(COLOURS, np.uint8)[mask][..., ::-1] + rng.integers(0, 20, (80, 120, 3), np.uint8)
            mask[:, :4] = IGNORED
            cv2.imwrite(str(root / "images" / split / f"{number}.{('png', 'jpg')[number % 2]}"), image)
            cv2.imwrite(str(root / "masks" / split / f"{number}.png"), mask)
    return root


def colours(path: Path) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in cv2.imread(str(path))[..., ::-1].reshape(-1, 3).tolist()}


def test_own_classes_follow_from_training_to_the_demo(script, farm, tmp_path):
    run, checkpoint, file = tmp_path / "run", tmp_path / "run/checkpoints/best.ckpt", tmp_path / "farm.onnx"
    quick = ("trainer=cpu_1p", "trainer.progress_bar=false")

    done = script(
        "train", "data=folder", f"data.root={farm}", "data.crop_size=[64,64]", "data.scale_range=[64,96]",
        "data.workers=0", "model=icnet_resnet18", "trainer.batch_size=2", "trainer.max_epochs=1", "optim.lr=0.01",
        "callbacks.pictures=1", "logger.tensorboard=false", *quick, f"hydra.run.dir={run}",
    )  # fmt: skip
    assert done.status == 0, done.err
    results = json.loads((run / "results.json").read_text())
    assert tuple(results["iou"]) == NAMES
    assert results["data"] == "folder"

    done = script("eval", f"ckpt={checkpoint}", "save_pictures=true", *quick, f"hydra.run.dir={tmp_path / 'eval'}")
    assert done.status == 0, done.err
    scores = json.loads((tmp_path / "eval/results.json").read_text())
    assert tuple(scores["iou"]) == NAMES
    assert np.shape(scores["confusion"]) == (3, 3)
    assert np.sum(scores["confusion"]) == 2 * 80 * (120 - 4)  # what is ignored does not count
    assert scores["category_miou"] is None

    done = script("eval", f"ckpt={checkpoint}", "save_label_ids=true", *quick, f"hydra.run.dir={tmp_path / 'ids'}")
    assert done.status == 2
    assert "save_label_ids=true writes ids of the 19 Cityscapes classes, and this data has 3" in done.error

    done = script("export", f"ckpt={checkpoint}", "export.height=64", "export.width=64", f"output={file}")
    assert done.status == 0, done.err
    assert "image float32 (1, 3, 64, 64)" in done.out
    model = onnx.load(file)
    assert [side.dim_value for side in model.graph.output[0].type.tensor_type.shape.dim] == [1, len(NAMES), 64, 64]
    meta = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(meta["names"]) == list(NAMES)
    assert json.loads(meta["palette"]) == [list(colour) for colour in COLOURS]
    assert meta["data_title"] == "folder"
    assert str(farm) not in "".join(meta.values())

    own = ("data.workers=0", *quick)
    done = script("eval", f"ckpt={file}", f"data.root={farm}", *own, f"hydra.run.dir={tmp_path / 'onnx'}")
    assert done.status == 0, done.err
    assert tuple(json.loads((tmp_path / "onnx/results.json").read_text())["iou"]) == NAMES

    for model in (checkpoint, file):
        shown = tmp_path / f"shown_{model.suffix}"
        done = script("demo", f"ckpt={model}", f"input={farm / 'images/val'}", f"output={shown}", "device=cpu")
        assert done.status == 0, done.err
        assert "2 images" in done.out
        assert "trained on folder" in done.out
        present: set[int] = set()
        for number in range(2):
            ids = cv2.imread(str(shown / f"{number}_ids.png"), cv2.IMREAD_UNCHANGED)
            present |= set(np.unique(ids).tolist())
            assert colours(shown / f"{number}_labels.png") == {COLOURS[i] for i in np.unique(ids)}
        assert present <= {0, 1, 2}
        assert colours(shown / "legend.png") & set(COLOURS) == {COLOURS[i] for i in present}
