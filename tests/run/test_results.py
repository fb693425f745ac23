"""The schema of results.json: complete, documented, read and written whole."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from icnet.errors import UserError
from icnet.run.results import (
    SECTIONS,
    DataFingerprint,
    EvaluationRecord,
    Performance,
    SplitFingerprint,
    TrainingRecord,
    Validation,
    read_results,
    write_results,
)
from icnet.run.schema import tables

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results.md"
OLD = ROOT / "tests" / "old_checkpoints" / "v0.1_results.json"


def keys(schema: type) -> set[str]:
    return {one.name for one in fields(schema)}


def test_page_describes_exactly_the_schema():
    page = PAGE.read_text(encoding="utf-8")
    assert page.endswith(tables(SECTIONS).rstrip() + "\n"), (
        "copy the output of 'python -m icnet.run.results' into the page"
    )
    parts = re.split(r"^## ", page, flags=re.M)[1:]
    described = [set(re.findall(r"^\| `(\w+)` \|", part, flags=re.M)) for part in parts]
    common, training, evaluation, validation, performance, fingerprint, split = described
    assert common | training == keys(TrainingRecord)
    assert common | evaluation == keys(EvaluationRecord)
    assert (validation, performance) == (keys(Validation), keys(Performance))
    assert (fingerprint, split) == (keys(DataFingerprint), keys(SplitFingerprint))
    assert len(parts) == len(SECTIONS)


def test_every_key_has_a_meaning():
    assert all(one.metadata["meaning"] for _, schema in SECTIONS for one in fields(schema))


def test_training_writes_exactly_the_keys_of_the_schema(trained):
    found = json.loads((trained / "results.json").read_text())
    assert found.keys() == keys(TrainingRecord)
    assert found["performance"].keys() == keys(Performance)
    assert found["fingerprint"].keys() == keys(DataFingerprint)
    assert (found["fingerprint"]["train"]["samples"], found["fingerprint"]["val"]["samples"]) == (6, 3)
    assert [entry.keys() for entry in found["history"]] == [keys(Validation)] * 2
    assert found["palette"][0] == [128, 64, 128]  # of the road
    assert len(found["palette"]) == len(found["iou"]) == len(found["confusion"]) == 19


def test_evaluation_writes_exactly_the_keys_of_the_schema(script, trained, tmp_path):
    words = ("trainer=cpu_1p", "trainer.progress_bar=false", "extremes=0", f"hydra.run.dir={tmp_path}")
    done = script("eval", f"ckpt={trained / 'checkpoints' / 'best.ckpt'}", *words)
    assert done.status == 0, done.err
    found = json.loads((tmp_path / "results.json").read_text())
    assert found.keys() == keys(EvaluationRecord)
    assert len(found["palette"]) == len(found["iou"]) == 19


def test_results_of_version_0_1_are_read():
    before = json.loads(OLD.read_text())
    found = read_results(OLD)
    assert isinstance(found, TrainingRecord)
    for key, value in before.items():
        if key not in {"performance", "history"}:
            assert getattr(found, key) == value, key
    assert found.palette is None
    assert (found.performance.steps, found.performance.step_ms_mean) == (0, None)
    assert [entry.miou for entry in found.history] == [entry["miou"] for entry in before["history"]]


def test_every_key_of_version_0_1_is_still_written(trained):
    before, now = json.loads(OLD.read_text()), json.loads((trained / "results.json").read_text())
    assert before.keys() <= now.keys()
    for key, value in before.items():
        assert type(now[key]) is type(value), key
    assert before["history"][0].keys() <= now["history"][0].keys()
    assert before["performance"].keys() <= now["performance"].keys()


def test_what_is_written_is_read_again(tmp_path):
    validation = Validation(epoch=1, step=3, miou=0.5, iou={"road": 0.5, "pole": None})
    training = TrainingRecord(data="camvid", status="done", history=[validation], performance=Performance(steps=2))
    evaluation = EvaluationRecord(data="camvid", ckpt="best.ckpt", miou=0.5, confusion=[[1, 0], [2, 3]])
    data = DataFingerprint(classes=["road"], labels={"road": "7"}, val=SplitFingerprint(samples=3, sha256="ab"))
    for results in (training, evaluation, TrainingRecord(data="camvid", fingerprint=data)):
        write_results(tmp_path / "new" / "results.json", results)
        assert read_results(tmp_path / "new" / "results.json") == results


def test_what_is_no_number_is_null(tmp_path):
    write_results(tmp_path / "results.json", TrainingRecord(train_loss=float("nan"), iou={"road": float("inf")}))
    found = json.loads((tmp_path / "results.json").read_text())
    assert (found["train_loss"], found["iou"]) == (None, {"road": None})


def test_figures_come_before_tables(tmp_path):
    write_results(tmp_path / "results.json", TrainingRecord(config={"seed": 1}, iou={"road": 0.5}, seconds=1.5))
    assert list(json.loads((tmp_path / "results.json").read_text()))[-3:] == ["iou", "config", "history"]


def test_key_of_a_newer_version_is_left_out(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"seed": 3, "new": 1, "history": [{"epoch": 1, "new": 1}]}))
    assert read_results(tmp_path / "results.json") == TrainingRecord(seed=3, history=[Validation(epoch=1)])


@pytest.mark.parametrize("text", ['{"history": [1]}', '{"iou": [1]}', '{"epochs": "two"}', '{"performance": 3}'])
def test_value_of_another_type_is_named(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match=rf"{tmp_path} holds no results .*\({re.findall(r'[a-z]+', text)[0]} is a"):
        read_results(tmp_path / "results.json")


def test_folder_without_results_has_none(tmp_path):
    assert read_results(tmp_path / "results.json") is None


def test_run_without_validation_tells_its_speed():
    speed = Performance(
        steps=3, peak_memory_mb=1500.4, images_per_s=12.345, step_ms_mean=150.04, step_ms_median=149.96,
        step_ms_p10=140, step_ms_p90=161.25, data_wait_share=0.026,
    )  # fmt: skip
    told = "street: nothing was validated; 12.35 images/s; a step of 150.0 ms (median 150.0, p10 140.0, p90 161.2), "
    assert TrainingRecord(data="street", performance=speed).summary() == f"{told}3 % of it waiting for data; 1500 MiB"
    for unmeasured in (None, Performance(steps=0, peak_memory_mb=1.0)):
        assert TrainingRecord(data="street", performance=unmeasured).summary() == "street: nothing was validated"
