"""Pages: complete, self-contained, harmless whatever names come in."""

import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from icnet.errors import UserError
from icnet.report import write_report
from icnet.report.sweep_page import write_table
from icnet.report.table import tabulate
from icnet.run.differences import changed
from icnet.run.paths import RunPaths
from icnet.run.reader import read_run

VOID = {"meta", "link", "img", "br", "wbr"}
NASTY = "<script>alert(1)</script>\"'&$x^2$"


class Page(HTMLParser):
    """Tags with their attributes, ids, text, and whether each tag was closed."""

    def __init__(self, path):
        super().__init__()
        self.found, self.open, self.text, self.data = [], [], [], {}
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open and "script" not in self.open:
            self.text.append(data)

    def tags(self, name):
        return [attrs for tag, attrs in self.found if tag == name]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def check(path):
    """Hold a page to what all pages are; returns it."""
    page = Page(path)
    assert path.stat().st_size < 5_000_000
    for tag, attrs in page.found:
        for name in ("src", "href", "srcset", "data", "action"):
            if name in attrs and tag != "a":
                assert attrs[name].startswith(("data:", "#")), (tag, attrs[name])
    assert "@import" not in path.read_text()
    assert len(page.tags("script")) == 1
    ids = [attrs["id"] for _, attrs in page.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert all(attrs["href"][1:] in ids for tag, attrs in page.found if tag == "use")
    assert [len(page.tags(tag)) for tag in ("h1", "main", "title")][:2] == [1, 1]
    assert all(attrs.get("alt") for attrs in page.tags("img"))
    assert all(attrs.get("aria-label") for attrs in page.tags("svg"))
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.tags("meta")
    return page


def curves():
    return [
        {"step": step, "epoch": step // 23, "train/loss": 5 / (step + 1), "perf/images_per_s": 140.0,
         "amp/loss_scale": 32.0, "amp/skipped_steps": 0.0}
        for step in range(9, 4600, 10)
    ] + [{"step": 23 * epoch, "lr-SGD/backbone": 0.1, "lr-SGD/head": 0.1} for epoch in range(200)]  # fmt: skip


def test_training_has_a_page(run, tmp_path):
    folder = run(tmp_path / "run", overrides=["trainer=npu_8p", "optim.lr=0.1"], curves={"csv": curves()})
    path = write_report(folder)
    assert path == folder / "report.html"
    page = check(path)
    for text in ("70.0 %", "72.0 %", "epoch 100", "147.2", "8 x Ascend910B3", "4600 steps in 10 h 0 min", "95.0 %",
                 "68.3 %", "68.1 %", "difference +0.2 / +0.8", "python train.py trainer=npu_8p optim.lr=0.1",
                 "torch 2.13.0", "0123456789abcdef"):  # fmt: skip
        assert text in page.words, text
    labels = [attrs["aria-label"].split(" of ")[0] for attrs in page.tags("svg")]
    assert labels == ["mIoU %", "Loss", "Learning rate", "Images/s", "Loss scale"]
    assert "no results" not in page.words
    assert [attrs["style"] for attrs in page.tags("span") if attrs.get("class") == "bar"] == [
        "width: 90.0%", "width: 50.0%",
    ]  # fmt: skip


def test_training_without_curves_and_overrides_has_a_page(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"final_miou": None, "history": [], "data": "camvid"}))
    assert "camvid" in check(write_report(tmp_path)).words


def test_synthetic_training_says_so_first(run, tmp_path):
    page = check(write_report(run(tmp_path / "run", data="street (synthetic)")))
    assert "Numbers from synthetic data are no results." in page.words
    assert "banner" in [attrs.get("class") for attrs in page.tags("p")]


def test_evaluation_has_a_page_with_its_confusion_in_percent_of_labels(evaluation, tmp_path):
    page = check(write_report(evaluation(tmp_path / "run", palette=[[128, 64, 128], [1, 2, 3], [0, 80, 100]])))
    swatches = [attrs.get("style") for attrs in page.tags("span") if attrs.get("class") == "swatch"]
    assert swatches == [f"background: rgb({color})" for color in ("128, 64, 128", "1, 2, 3", "0, 80, 100")]
    titles = [attrs["title"] for attrs in page.tags("td") if "title" in attrs]
    assert titles[:5] == [
        "road taken for road: 75.00 %", "road taken for pole: 25.00 %", "road taken for train: 0.00 %",
        "pole taken for road: 0.00 %", "pole taken for pole: 100.00 %",
    ]  # fmt: skip
    assert titles[-1] == "train taken for train: 0.00 %"
    for text in ("60.0 %", "absent", "object 40.0", "ckpt=best.ckpt", "ab" * 32):
        assert text in page.words, text


def test_page_shows_what_int8_cost_of_files_in_the_folder_and_of_the_one_that_was_evaluated(run, evaluation, tmp_path):
    scores = {
        "precision": "int8", "data": "camvid", "split": "val", "images": 101, "calibration_images": 300,
        "calibration_folder": "data/camvid/train", "max_drop": 0.5, "label_agreement": 0.985,
        "in_float": ["/stem/Conv"], "tried": [{"in_float": [], "miou": 0.5}],
        "before": {"miou": 0.6, "iou": {"road": 0.8, "train": None}, "bytes": 4_000_000, "latency_ms": 40.0},
        "after": {"miou": 0.598, "iou": {"road": 0.79, "train": None}, "bytes": 1_000_000, "latency_ms": 10.0},
    }  # fmt: skip
    folder = run(tmp_path / "run")
    (folder / "net.onnx").write_bytes(b"int8")
    files = {"net.onnx": {"bytes": 4, "sha256": hashlib.sha256(b"int8").hexdigest()}}
    (folder / "net.onnx.json").write_text(json.dumps({"target": "onnx", "scores": scores, "files": files}))
    (folder / "plain.onnx.json").write_text(json.dumps({"target": "onnx"}))
    (folder / "another.program.json").write_text("[")
    elsewhere = evaluation(tmp_path / "eval", ckpt=str(folder / "net.onnx"))
    for page in (check(write_report(folder)), check(write_report(elsewhere))):
        assert "Lower precision: net.onnx int8 against float32 on camvid, val, 101 images." in page.words
        for text in ("MB 4.0 1.0 x 0.25", "ms 40.0 10.0 x 0.25", "mIoU % 60.0 59.8 -0.2", "road % 80.0 79.0 -1.0",
                     "train % - -", "98.5 % of the labels", "300 images of data/camvid/train",
                     "In float32: /stem/Conv.", "mIoU 50.0 % with no layer in float32"):  # fmt: skip
            assert text in page.words, text
        assert page.words.count("Lower precision") == 1


def test_best_and_worst_images_come_in_order_with_their_miou(run, picture, tmp_path):
    folder = run(tmp_path / "run")
    for name in ("worst_1_c.jpg", "best_2_b.jpg", "best_1_a.jpg"):
        picture(RunPaths(folder).extremes / name)
    picture(folder / "pictures" / "other_epoch001.jpg")
    (RunPaths(folder).extremes / "extremes.json").write_text(json.dumps({"best_1_a.jpg": 0.9, "worst_1_c.jpg": None}))
    page = check(write_report(folder))
    assert [attrs["alt"].split(":")[0] for attrs in page.tags("img")] == ["a", "b", "c"]
    assert "best 1 a, mIoU 90.0 % best 2 b worst 1 c" in page.words


def test_pictures_of_the_last_validation_stand_in_for_extremes(run, picture, tmp_path):
    folder = run(tmp_path / "run")
    for name in ("a_epoch002.jpg", "a_epoch010.jpg", "b_epoch010.jpg"):
        picture(folder / "pictures" / name)
    (folder / "pictures" / "broken_epoch010.jpg").write_bytes(b"no picture")
    page = check(write_report(folder))
    assert [attrs["alt"].split(":")[0] for attrs in page.tags("img")] == ["a_epoch010", "b_epoch010"]


def test_large_pictures_are_shrunk_until_the_page_is_small(run, picture, tmp_path):
    folder = run(tmp_path / "run")
    for number in range(8):
        picture(folder / "pictures" / f"{number}_epoch001.jpg", (1500, 2000))  # noise: megabytes each
    assert len(check(write_report(folder)).tags("img")) == 6


def test_names_cannot_break_a_page(run, picture, tmp_path):
    folder = run(tmp_path / "run", iou={NASTY: 0.5, "pole": 0.2}, overrides=[f"+note={NASTY}"], device=NASTY,
                 config={"data.root": NASTY}, curves={"csv": [*curves(), {"step": 0, f"lr-{NASTY}": 0.2}]})  # fmt: skip
    picture(folder / "pictures" / "<b>&'x_epoch001.jpg")
    page = check(write_report(folder))
    assert NASTY in page.words
    other = run(tmp_path / "<i>", iou={NASTY: 0.4, "pole": 0.3}, overrides=["+note=1"])
    table = tabulate([read_run(folder), read_run(other, NASTY)], NASTY)
    page = check(write_table(table, tmp_path / "out"))
    assert not page.tags("i")
    assert NASTY in page.words
    assert page.tags("a") == [{"href": "../run/report.html"}]


def test_sweep_has_a_page_with_curves_of_all_runs(run, tmp_path):
    runs = [read_run(run(tmp_path / str(number), overrides=[f"optim.lr={number}"], curves={"csv": curves()}))
            for number in range(10)]  # fmt: skip
    page = check(write_table(tabulate(runs, "Sweep"), tmp_path))
    assert [attrs["aria-label"].split(" of ")[0] for attrs in page.tags("svg")] == ["mIoU %", "Training loss"]
    legend = [attrs["style"] for attrs in page.tags("span") if attrs.get("class") == "key"]
    assert len(set(legend)) == 10


def test_comparison_warns_of_different_data(run, tmp_path):
    runs = [read_run(run(tmp_path / name, data=name)) for name in ("cityscapes", "camvid")]
    assert "scored on different data" in check(write_table(tabulate(runs, "Comparison"), tmp_path)).words


def test_configuration_is_compared_with_the_defaults(run, tmp_path):
    folder = run(
        tmp_path / "run",
        config={
            "trainer.batch_size": 9,
            "data.batch_size": 9,
            "old.key": True,
            "data.workers": 1,
            "logger.wandb": True,
        },
    )
    found = {key: (value, default) for key, value, default in changed(read_run(folder))}
    assert found["trainer.batch_size"] == ("9", "7")
    assert not found.keys() & {"data.workers", "logger.wandb"}  # no result depends on them
    assert found["optim.lr"] == ("0.1", "0.01")
    assert found["old.key"] == ("true", "")
    assert found["data.name"] == ("cityscapes", "")
    assert not found.keys() & {"data.batch_size", "data.crop_size", "model.backbone", "trainer.max_epochs"}


def test_folder_without_results_has_no_page(run, tmp_path):
    with pytest.raises(UserError, match=r"holds no results\.json"):
        write_report(run(tmp_path / "run", failure="failed: no data"))


def test_page_that_cannot_be_written_is_named(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(run(tmp_path / "run"), tmp_path / "file")


def test_page_shows_as_many_worst_images_as_best(run, picture, tmp_path):
    folder = run(tmp_path / "0")
    (RunPaths(folder).extremes).mkdir(parents=True)
    for kind in ("best", "worst"):
        for number in range(1, 7):
            picture(RunPaths(folder).extremes / f"{kind}_{number}_x.jpg")
    text = write_report(folder).read_text()
    kinds = re.findall(r"<b>((?:best|worst) \d)</b>", text)
    assert kinds == [f"{kind} {number}" for kind in ("best", "worst") for number in (1, 2, 3)]


def test_throughput_names_what_was_measured_once(run, tmp_path):
    measured = {
        "steps": 40, "peak_memory_mb": 1503.07, "images_per_s": 147.2, "step_ms_mean": 869.57, "step_ms_p10": 860.0,
        "step_ms_median": 868.0, "step_ms_p90": 881.0, "data_wait_share": 0.123,
    }  # fmt: skip
    text = write_report(run(tmp_path / "0", performance=measured)).read_text()
    table = text.split("<h2>Throughput</h2>")[1].split("</table>")[0]
    rows = re.findall(r'<th scope="row">(.*?)</th><td class="n">(.*?)</td>', table)
    assert rows == [
        ("images/s", "147.20"), ("devices", "8"), ("images per device and step", "16"), ("steps", "4600"),
        ("seconds", "36000.00"), ("steps that were timed", "40"), ("step, mean ms", "869.57"),
        ("step, median ms", "868.00"), ("step, 10th percentile ms", "860.00"), ("step, 90th percentile ms", "881.00"),
        ("peak memory MB", "1503.07"), ("waiting for data", "12.3 %"),
    ]  # fmt: skip
