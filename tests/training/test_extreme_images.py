"""Best and worst images: the right ones, drawn from their own pixels, in one process and in several."""

import json
import random
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official

from icnet.data.labels import ClassTable
from icnet.training.callbacks.extreme_images import ExtremeImages

CLASSES = ClassTable(("ground", "sky"), ((128, 64, 128), (70, 130, 180)))
TRAINER = SimpleNamespace(is_global_zero=True)


def watch(callback: ExtremeImages, scores: list[float], batch_size: int) -> None:
    """Show the callback images whose grey is their index, with these scores."""
    callback.on_validation_epoch_start(TRAINER, None)
    for start in range(0, len(scores), batch_size):
        part = scores[start : start + batch_size]
        index = torch.arange(start, start + len(part))
        batch = {
            "image": index.to(torch.uint8)[:, None, None, None].expand(-1, 3, 16, 16).contiguous(),
            "mask": torch.zeros(len(part), 16, 16, dtype=torch.uint8),
            "index": index,
            "name": [f"image{i}" for i in index.tolist()],
        }
        module = SimpleNamespace(running_mean=SimpleNamespace(miou_of_latest=lambda count, part=part: part[-count:]))
        callback.on_validation_batch_end(TRAINER, module, torch.ones(len(part), 16, 16, dtype=torch.long), batch, 0)
    callback.on_validation_epoch_end(TRAINER, None)


def expected(scores: list[float], count: int) -> dict[str, int]:
    """The plain way: sort all of them, split them in the middle, take what is wanted."""
    order = sorted((i for i in range(len(scores)) if scores[i] == scores[i]), key=lambda i: (-scores[i], i))
    middle = (len(order) + 1) // 2
    places = {f"best_{number}": i for number, i in enumerate(order[:middle][:count], 1)}
    return places | {f"worst_{number}": i for number, i in enumerate(order[middle:][::-1][:count], 1)}


@pytest.mark.parametrize("seed", range(40))
def test_the_best_and_the_worst_of_a_stream_are_drawn(tmp_path, seed):
    rng = random.Random(seed)
    count, images, batch_size = rng.randint(1, 4), rng.randint(0, 40), rng.randint(1, 5)
    scores = [rng.choice([float("nan"), *(step / 8 for step in range(9))]) for _ in range(images)]  # with equals
    watch(ExtremeImages(tmp_path, count, CLASSES), scores, batch_size)
    places = expected(scores, count)
    files = {f"{place}_image{i}.jpg": i for place, i in places.items()}
    assert {path.name for path in tmp_path.glob("*.jpg")} == set(files)
    assert json.loads((tmp_path / "extremes.json").read_text()) == {name: scores[i] for name, i in files.items()}
    for name, i in files.items():
        assert cv2.imread(str(tmp_path / name))[40, 8].mean() == pytest.approx(i, abs=3)  # below the title's line


def test_images_of_an_earlier_validation_make_room(tmp_path):
    callback = ExtremeImages(tmp_path, 1, CLASSES)
    watch(callback, [0.5, 0.9, 0.1], 1)
    assert {path.name for path in tmp_path.glob("*.jpg")} == {"best_1_image1.jpg", "worst_1_image2.jpg"}
    watch(callback, [0.2, 0.6, 0.7], 1)
    assert {path.name for path in tmp_path.glob("*.jpg")} == {"best_1_image2.jpg", "worst_1_image0.jpg"}
    watch(callback, [0.2], 1)
    assert {path.name for path in tmp_path.glob("*.jpg")} == {"best_1_image0.jpg"}


def test_pictures_that_cannot_be_written_cost_a_warning_and_nothing_else(tmp_path, caplog):
    (tmp_path / "file").touch()
    watch(ExtremeImages(tmp_path / "file" / "extremes", 1, CLASSES), [0.5, 0.9], 1)
    assert "the best and worst images are not drawn" in caplog.text


def test_evaluation_draws_the_extremes_of_the_official_metric_in_one_process_and_in_two(
    process, trained, street_root, tmp_path
):
    found = {}
    for devices in ("cpu_1p", "cpu_2p"):
        folder = tmp_path / devices
        done = process(
            "eval", f"ckpt={trained / 'checkpoints' / 'last.ckpt'}", f"trainer={devices}", "save_label_ids=true",
            "trainer.progress_bar=false", "extremes=1", f"hydra.run.dir={folder}",
        )  # fmt: skip
        assert done.status == 0, done.err
        extremes = folder / "pictures" / "extremes"
        found[devices] = json.loads((extremes / "extremes.json").read_text())
        assert {path.name for path in extremes.glob("*.jpg")} == set(found[devices])
        assert "Best and worst images" in (folder / "report.html").read_text()
    assert found["cpu_1p"] == found["cpu_2p"]

    official.args.quiet, official.args.JSONOutput, official.args.evalInstLevelScore = True, False, False
    alone = {}
    for label_file in sorted(street_root.glob("gtFine/val/*/*_labelIds.png")):
        name = label_file.name.replace("_gtFine_labelIds.png", "")
        pred = tmp_path / "cpu_1p" / "label_ids" / f"{name}_pred_labelIds.png"
        alone[name] = official.evaluateImgLists([str(pred)], [str(label_file)], official.args)["averageScoreClasses"]
    assert len(set(alone.values())) == len(alone) == 3
    best, worst = max(alone, key=alone.get), min(alone, key=alone.get)
    assert found["cpu_1p"] == pytest.approx(
        {f"best_1_{best}.jpg": alone[best], f"worst_1_{worst}.jpg": alone[worst]}, abs=1e-6
    )


def test_training_leaves_the_extremes_of_its_last_validation(script, trained, tmp_path):
    done = script(
        "eval", f"ckpt={trained / 'checkpoints' / 'last.ckpt'}", "trainer=cpu_1p", "trainer.progress_bar=false",
        f"hydra.run.dir={tmp_path}",
    )  # fmt: skip
    assert done.status == 0, done.err
    training, evaluation = (
        json.loads((run / "pictures" / "extremes" / "extremes.json").read_text()) for run in (trained, tmp_path)
    )
    assert len(training) == 3  # of three images two are the better half
    assert list(training.values()) == pytest.approx(list(evaluation.values()), abs=0.02)  # folded BatchNorm rounds
    strips = [np.mean(cv2.imread(str(trained / "pictures" / "extremes" / name))) for name in training]
    assert len(set(strips)) == 3
