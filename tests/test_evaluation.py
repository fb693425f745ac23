"""eval.py from the outside: the official metric, whatever the runtime and however many processes."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official

from icnet.data import DATASETS
from icnet.data.labels import CAMVID_CLASSES, CITYSCAPES_CLASSES, ClassTable
from icnet.deploy.inference import Inference
from icnet.deploy.scoring import EvaluationTask
from icnet.errors import UserError
from icnet.launch import processes
from icnet.models.checkpoints import read_checkpoint

CKPT = "checkpoints/best.ckpt"


@pytest.fixture(scope="module")
def evaluate(tmp_path_factory):
    """Run eval.py without a progress bar and return its results."""

    def run(script, *overrides: object) -> tuple[dict, Path]:
        folder = tmp_path_factory.mktemp("eval")
        done = script("eval", *overrides, "trainer=cpu_1p", "trainer.progress_bar=false", f"hydra.run.dir={folder}")
        assert done.status == 0, done.err
        return json.loads((folder / "results.json").read_text()), folder

    return run


def test_scores_equal_the_official_evaluation_of_the_same_predictions(script, evaluate, trained, street_root):
    results, folder = evaluate(script, f"ckpt={trained / CKPT}", "save_label_ids=true", "save_pictures=true")
    label_files = sorted(street_root.glob("gtFine/val/*/*_labelIds.png"))
    preds = [folder / "label_ids" / path.name.replace("_gtFine_labelIds", "_pred_labelIds") for path in label_files]
    official.args.quiet = True
    official.args.JSONOutput = False
    official.args.evalInstLevelScore = False
    reference = official.evaluateImgLists([str(p) for p in preds], [str(p) for p in label_files], official.args)
    assert results["miou"] == pytest.approx(reference["averageScoreClasses"], abs=1e-6)
    assert results["category_miou"] == pytest.approx(reference["averageScoreCategories"], abs=1e-6)
    for name, iou in results["iou"].items():
        assert (np.nan if iou is None else iou) == pytest.approx(reference["classScores"][name], abs=1e-6, nan_ok=True)
    assert len(list((folder / "pictures").glob("*.jpg"))) == len(label_files)


def test_table_csv_and_json_tell_the_same(script, evaluate, trained):
    results, folder = evaluate(script, f"ckpt={trained / CKPT}")
    with (folder / "iou.csv").open() as file:
        rows = {row["class"]: row["iou"] for row in csv.DictReader(file)}
    assert float(rows["miou"]) == pytest.approx(results["miou"], abs=1e-6)
    assert float(rows["road"]) == pytest.approx(results["iou"]["road"], abs=1e-6)
    confusion = np.array(results["confusion"])
    assert results["pixel_acc"] == pytest.approx(np.trace(confusion) / confusion.sum(), abs=1e-12)
    assert cv2.imread(str(folder / "confusion.png")) is not None
    assert results["data"] == "street (synthetic)"
    (log,) = folder.glob("*.log")
    assert f"evaluating on 1 x {results['device']}" in log.read_text()


def test_validation_while_training_equals_evaluation_afterwards(script, evaluate, trained, count_alike):
    results, _ = evaluate(script, f"ckpt={trained / 'checkpoints/last.ckpt'}")
    assert count_alike(results, json.loads((trained / "results.json").read_text()))


def test_two_processes_count_every_image_once(script, evaluate, process, trained, tmp_path):
    one, _ = evaluate(script, f"ckpt={trained / CKPT}")  # three images: one process gets two, the other one
    done = process(
        "eval", f"ckpt={trained / CKPT}", "trainer=cpu_2p", "trainer.progress_bar=false",
        f"hydra.run.dir={tmp_path / 'two'}",
    )  # fmt: skip
    assert done.status == 0, done.err
    two = json.loads((tmp_path / "two" / "results.json").read_text())
    for key in ("confusion", "miou", "pixel_acc", "miou_running_mean", "iou"):
        assert two[key] == one[key], key


@pytest.mark.parametrize(
    ("target", "suffix", "runtime"),
    [("onnx", "onnx", "onnxruntime"), ("pt2", "pt2", "torch.export"), ("openvino", "xml", "openvino")],
)
def test_exported_file_scores_like_the_checkpoint_it_came_from(
    script, evaluate, trained, street_root, tmp_path, count_alike, target, suffix, runtime
):
    if target == "openvino":
        pytest.importorskip("openvino")
    file = tmp_path / f"ICNet.{suffix}"
    done = script(
        "export", f"ckpt={trained / CKPT}", "export.height=64", "export.width=128", f"output={file}",
        f"export.target={target}",
    )  # fmt: skip
    assert done.status == 0, done.err
    torch_results, _ = evaluate(script, f"ckpt={trained / CKPT}")
    drawn = {path: path.stat().st_mtime_ns for path in street_root.rglob("*.png")}
    results, _ = evaluate(script, f"ckpt={file}", f"data.root={street_root}", "data.workers=0")
    assert {path: path.stat().st_mtime_ns for path in street_root.rglob("*.png")} == drawn  # the file knows its scenes
    assert results["data"] == "street (synthetic)"
    assert results["runtime"] == runtime
    assert count_alike(results, torch_results)


def test_several_scales_flip_and_windows_change_the_prediction_but_not_the_count(script, evaluate, trained):
    plain, _ = evaluate(script, f"ckpt={trained / CKPT}")
    more, _ = evaluate(script, f"ckpt={trained / CKPT}", "eval.scales=[1.0,1.5]", "eval.flip=true")
    windows, _ = evaluate(script, f"ckpt={trained / CKPT}", "eval.sliding_window=[64,64]")
    for other in (more, windows):
        assert np.sum(other["confusion"]) == np.sum(plain["confusion"])
        assert other["confusion"] != plain["confusion"]


def test_left_out_checkpoint_is_the_newest_best_one(script, evaluate, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("older", "newer"):
        folder = tmp_path / "outputs" / name / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "best.ckpt").write_bytes((trained / CKPT).read_bytes())
    results, folder = evaluate(script)
    assert results["ckpt"].endswith("outputs/newer/checkpoints/best.ckpt")
    assert "newer" in (folder / "eval_0.log").read_text()


def test_synthetic_scenes_read_as_cityscapes_are_still_called_synthetic(script, evaluate, trained, street_root):
    other = ("data=cityscapes", f"data.root={street_root}", "data.workers=0")
    results, _ = evaluate(script, f"ckpt={trained / CKPT}", *other)
    assert results["config"]["data"]["name"] == "cityscapes"
    assert (results["data"], results["synthetic"]) == ("street (synthetic)", True)


def test_other_scenes_can_be_drawn_for_an_evaluation(script, evaluate, trained, tmp_path):
    results, _ = evaluate(script, f"ckpt={trained / CKPT}", "data.street.seed=7", f"data.root={tmp_path / 'seven'}")
    assert results["config"]["data"]["street"] == {"train": 6, "val": 3, "height": 64, "width": 128, "seed": 7}
    first, _ = evaluate(script, f"ckpt={trained / CKPT}")
    assert results["confusion"] != first["confusion"]


def test_results_of_a_training_run_are_not_overwritten(script, trained):
    before = (trained / "results.json").read_bytes()
    done = script("eval", f"ckpt={trained / CKPT}", f"hydra.run.dir={trained}")
    assert done.status == 2
    assert "holds a training run" in done.error
    assert (trained / "results.json").read_bytes() == before


def test_model_is_opened_and_data_are_prepared_before_processes_start(script, trained, tmp_path, monkeypatch):
    order, prepare, run = [], DATASETS["street"].prepare, processes.run
    monkeypatch.setattr(DATASETS["street"], "prepare", lambda self: order.append("prepare") or prepare(self))
    monkeypatch.setattr(processes, "run", lambda *given: order.append(given[1].data.name) or run(*given))
    load = torch.load
    monkeypatch.setattr("torch.load", lambda *given, **options: order.append("open") or load(*given, **options))
    done = script("eval", f"ckpt={trained / CKPT}", "trainer=cpu_1p", f"hydra.run.dir={tmp_path}")
    assert done.status == 0, done.err
    assert order == ["open", "prepare", "street"]


def test_classes_of_other_names_are_refused(script, trained, street_root, tmp_path):
    content = torch.load(trained / CKPT, weights_only=True)
    content["icnet"]["classes"]["names"][:2] = ["lane", "kerb"]
    torch.save(content, tmp_path / "lanes.ckpt")
    done = script("eval", f"ckpt={tmp_path / 'lanes.ckpt'}", "trainer=cpu_1p", f"hydra.run.dir={tmp_path / 'eval'}")
    assert done.status == 2
    assert "lanes.ckpt has the class lane where the data have road; choose the data it was trained on" in done.error


def test_other_class_count_is_refused(script, trained, camvid_like, tmp_path):
    done = script(
        "eval", f"ckpt={trained / CKPT}", "data=camvid", f"data.root={camvid_like}", f"hydra.run.dir={tmp_path}"
    )
    assert done.status == 2
    assert "19 classes and the data 11" in done.error


def test_onnx_file_does_not_know_where_its_data_lies_and_says_so(script, trained, tmp_path, monkeypatch):
    import onnx

    monkeypatch.delenv("CITYSCAPES_DATASET", raising=False)
    file = tmp_path / "ICNet.onnx"
    done = script("export", f"ckpt={trained / CKPT}", "export.height=64", "export.width=64", f"output={file}")
    assert done.status == 0, done.err
    model = onnx.load(file)
    (seal,) = (entry for entry in model.metadata_props if entry.key == "content_sha256")
    model.metadata_props.remove(seal)  # of what is changed below
    (data,) = (entry for entry in model.metadata_props if entry.key == "data")
    assert str(trained.parent) not in data.value
    assert "root" not in json.loads(data.value)
    for name in (json.loads(data.value)["name"], "cityscapes", "camvid", "folder"):
        data.value = json.dumps({"name": name})
        onnx.save(model, file)
        done = script("eval", f"ckpt={file}", "trainer=cpu_1p", f"hydra.run.dir={tmp_path / name}")
        assert done.status == 2
        assert "data.root" in done.error
        assert not (tmp_path / name / "results.json").exists()


def test_reference_checkpoint_scores_like_ours_of_the_same_weights(
    script, evaluate, trained, street_root, to_reference, tmp_path
):
    path = tmp_path / "icnet_resnet18.pth"
    torch.save(to_reference(read_checkpoint(trained / CKPT).state_dict), path)
    assert {key.split(".")[0] for key in torch.load(path)} == {"pretrained", "conv_sub1", "head"}
    data = ("data=cityscapes", f"data.root={street_root}", "data.workers=0")
    ours, _ = evaluate(script, f"ckpt={trained / CKPT}", *data)
    theirs, _ = evaluate(script, f"ckpt={path}", *data)
    for key in ("confusion", "miou", "pixel_acc", "miou_running_mean", "category_miou", "iou", "iou_category"):
        assert theirs[key] == ours[key], key
    assert theirs["model"] == ours["model"] == "icnet_resnet18"
    assert np.sum(theirs["confusion"]) > 0


@pytest.mark.parametrize(
    "classes", [CAMVID_CLASSES, ClassTable(tuple(f"kind {i}" for i in range(19)), CITYSCAPES_CLASSES.palette)]
)
def test_label_ids_of_other_classes_than_those_of_cityscapes_are_refused(tmp_path, classes):
    with pytest.raises(UserError, match=rf"save_label_ids=true .* has {len(classes)} of its own; use save_pictures"):
        EvaluationTask(torch.nn.Identity(), Inference(), classes, label_ids=tmp_path / "label_ids")
    assert not (tmp_path / "label_ids").exists()
    EvaluationTask(torch.nn.Identity(), Inference(), classes)
