"""Tables: which columns, which figures beside which, and what is marked."""

import csv

import pytest

from icnet.report.formats import markdown, print_table
from icnet.report.published import ROWS
from icnet.report.sweep_page import class_rows, differences, write_table
from icnet.report.table import COLUMNS, is_synthetic, tabulate
from icnet.run.reader import read_run, read_sweep


def table_of(*folders, **options):
    return tabulate([read_run(folder) for folder in folders], "Sweep", **options)


def cells(entry):
    return {column.heading.split(" (")[0]: column.text(entry) for column in COLUMNS}


def test_difference_is_running_mean_minus_published(run, tmp_path):
    entry = table_of(run(tmp_path / "0")).entries[0]
    assert entry.differences == (pytest.approx(0.683 - 0.681), pytest.approx(0.691 - 0.683))
    assert cells(entry) == {
        "final mIoU %": "70.0", "best mIoU %": "72.0", "best epoch": "100", "running mean %": "68.3 / 69.1",
        "images/s": "147.2", "published %": "68.1 / 68.3", "difference": "+0.2 / +0.8",
    }  # fmt: skip
    assert (entry.marks, entry.badge) == ([], "")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data": "street (synthetic)", "config": {"data.name": "street"}}, "data street (synthetic)"),
        ({"data": "camvid", "config": {"data.name": "camvid"}}, "data camvid"),
        ({"epochs": 3}, "3 of 200 epochs"),
        ({"devices": 2}, "2 npu instead of 8 npu"),
        ({"config": {"trainer.batch_size": 2}}, "trainer.batch_size 2 instead of 16"),
        ({"config": {"data.crop_size": [64, 64]}}, "data.crop_size [64, 64] instead of [960, 960]"),
        ({"config": {"trainer.limit_train_batches": 2.0}}, "trainer.limit_train_batches 2.0"),
        ({"model": "icnet_resnet18"}, "icnet_resnet18 instead of icnet_resnet50"),
        ({"status": "stopped"}, "stopped"),
        ({"config": {"optim.name": "adamw"}}, "optim.name adamw instead of sgd"),
        ({"config": {"trainer.accumulate_grad_batches": 8}}, "trainer.accumulate_grad_batches 8 instead of 1"),
        ({"config": {"model.weights": "x.pth"}}, "model.weights x.pth instead of None"),
        ({"config": {"data.val_split": "train"}}, "data.val_split train instead of val"),
        ({"val_images": 2}, "2 validation images instead of 500"),
        ({"epochs": 300}, "300 epochs instead of 200"),
    ],
)
def test_reduced_run_has_published_figures_but_no_difference(run, tmp_path, change, reason):
    table = table_of(run(tmp_path / "0", **change))
    entry = table.entries[0]
    assert entry.marks == [reason]
    assert cells(entry)["published %"] == "68.1 / 68.3"
    assert cells(entry)["difference"] == "-"
    assert entry.badge == ("SYNTHETIC" if "synthetic" in reason else "REDUCED")
    assert table.warning.endswith(": all rows.")


def test_row_run_elsewhere_is_matched_by_its_name(run, tmp_path):
    words = ["trainer=cpu_2p", "hparams=npu_lr0.1_s32_o1"]
    named = run(tmp_path / "0", overrides=words, config={"trainer.accelerator": "cpu"}, devices=2, device="CPU (x, 1)")
    entry = table_of(named).entries[0]
    assert entry.published.best == 68.3
    assert entry.marks == ["2 cpu instead of 8 npu"]
    unnamed = run(tmp_path / "1", config={"trainer.accelerator": "cpu"}, devices=2, device="CPU (x, 1)")
    assert table_of(unnamed).entries[0].published is None


@pytest.mark.parametrize(("device", "final"), [("Ascend910B3", None), ("NVIDIA H200", 68.3)])
def test_auto_accelerator_is_told_by_the_device(run, tmp_path, device, final):
    config = {"trainer.accelerator": "auto", "optim.lr": 0.08, "amp.loss_scale": 128}
    published = table_of(run(tmp_path / "0", config=config, device=device)).entries[0].published
    assert (published and published.final) == final


def test_no_two_published_rows_have_the_same_settings():
    assert len({(row.kind, row.lr, row.loss_scale, row.opt_level) for row in ROWS}) == len(ROWS) == 10
    assert all(row.best >= row.final for row in ROWS)


def test_sweep_has_the_varied_keys_as_columns(run, tmp_path):
    for number, (lr, loss) in enumerate((("0.1", "ohem"), ("0.2", "ohem"), ("0.1", "cascade"))):
        run(tmp_path / str(number), overrides=["data=camvid", f"optim.lr={lr}", f"loss={loss}"])
    table = tabulate(read_sweep(tmp_path), "Sweep")
    assert table.settings == ["optim.lr", "loss"]
    assert [list(entry.settings.values()) for entry in table.entries] == [
        ["0.1", "ohem"], ["0.2", "ohem"], ["0.1", "cascade"],
    ]  # fmt: skip


def test_rows_of_the_tables_show_what_was_in_force(run, tmp_path):
    run(tmp_path / "0", overrides=["hparams=npu_lr0.1_s32_o1", "seed=1"])
    config = {"optim.lr": 0.08, "amp.loss_scale": "dynamic", "amp.opt_level": "O2"}
    run(tmp_path / "1", overrides=["hparams=mine", "seed=2"], config=config)
    run(tmp_path / "2", overrides=["hparams=gpu_lr0.08_s128_o1", "seed=1"], failure="failed: no device")
    table = tabulate(read_sweep(tmp_path), "Sweep")
    assert table.settings == ["row", "batch", "lr", "loss_scale", "opt_level", "seed"]
    assert [list(entry.settings.values()) for entry in table.entries] == [
        ["npu_lr0.1_s32_o1", "16", "0.1", "32", "O1", "1"],
        ["mine", "16", "0.08", "dynamic", "O2", "2"],
        ["gpu_lr0.08_s128_o1", "-", "-", "-", "-", "1"],
    ]


def test_trials_of_a_search_show_the_searched_keys_and_short_numbers(run, tmp_path):
    drawn = (("0.020472235281296488", "1", "20261122"), ("4.9104518184659654e-05", "10", "20261123"))
    for number, (lr, factor, seed) in enumerate(drawn):
        words = ["hparams=optuna", f"optim.lr={lr}", f"optim.head_lr_mult={factor}", f"seed={seed}"]
        run(tmp_path / str(number), overrides=words)
    table = tabulate(read_sweep(tmp_path), "Sweep")
    assert table.settings == ["optim.lr", "optim.head_lr_mult", "seed"]
    assert [list(entry.settings.values()) for entry in table.entries] == [
        ["0.0204722", "1", "20261122"], ["4.91045e-05", "10", "20261123"],
    ]  # fmt: skip


def test_comparison_has_the_main_settings_that_differ(run, tmp_path):
    folders = [run(tmp_path / name, config={"optim.lr": lr}) for name, lr in (("a", 0.1), ("b", 0.2))]
    assert [entry.settings for entry in table_of(*folders, sweep=False).entries] == [{"lr": "0.1"}, {"lr": "0.2"}]


def test_failed_row_is_shown_with_its_error(run, tmp_path):
    run(tmp_path / "0")
    run(tmp_path / "1", failure="failed: the loss became inf\n")
    table = tabulate(read_sweep(tmp_path), "Sweep")
    assert [entry.run.status for entry in table.entries] == ["done", "failed"]
    assert table.failures == [("1", "failed: the loss became inf")]
    page = write_table(table, tmp_path).read_text()
    assert "the loss became inf" in page
    assert "- 1 failed: the loss became inf" in (tmp_path / "report.md").read_text()
    rows = list(csv.DictReader((tmp_path / "report.csv").open()))
    assert rows[1]["error"] == "failed: the loss became inf"
    assert rows[1]["final_miou"] == ""


def test_csv_holds_the_figures_as_they_are_in_the_files(run, tmp_path):
    write_table(table_of(run(tmp_path / "0"), run(tmp_path / "1", epochs=3)), tmp_path / "out")
    first, second = csv.DictReader((tmp_path / "out" / "report.csv").open())
    expected = {"final_miou": 0.7, "best_miou": 0.72, "best_epoch": 100, "running_mean": 0.683, "images_per_s": 147.2,
                "published_final": 0.681, "published_best": 0.683, "difference_final": 0.002,
                "difference_best": 0.008}  # fmt: skip
    assert {key: float(first[key]) for key in expected} == pytest.approx(expected)
    assert (second["difference_final"], second["marks"], second["status"]) == ("", "3 of 200 epochs", "done")


def test_markdown_cannot_be_broken_by_a_value(run, tmp_path):
    for number, note in enumerate(("a|b", "<script>\n`x`")):
        run(tmp_path / str(number), overrides=[f"+note={note}"])
    text = markdown(tabulate(read_sweep(tmp_path), "Sweep"))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    assert "a\\|b" in text
    assert "\\<script> \\`x\\`" in text


def test_evaluations_have_one_miou(evaluation, tmp_path):
    table = table_of(evaluation(tmp_path / "0"), evaluation(tmp_path / "1"))
    assert [column.heading for column in table.columns] == [
        "final mIoU %", "running mean % (final / best)", "images/s",
    ]  # fmt: skip
    assert cells(table.entries[0])["running mean %"] == "55.0 / -"


def test_terminal_shows_marks_and_reasons(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    print_table(table_of(run(tmp_path / "[red]0"), run(tmp_path / "1", epochs=3)))
    out = capsys.readouterr().out
    assert "Sweep: 2 runs on cityscapes" in out
    assert "[red]0" in out
    assert "REDUCED" in out
    assert "1: reduced: 3 of 200 epochs" in out
    assert "difference is taken from our running mean" in " ".join(out.split())


def test_class_difference_adds_up_to_that_of_miou(run, tmp_path):
    first = run(tmp_path / "a", iou={"road": 0.9, "pole": 0.5, "train": None})
    second = run(tmp_path / "b", iou={"road": 0.8, "pole": 0.1, "train": 0.3})
    (found,) = differences([read_run(first), read_run(second)])
    assert (found.leader, found.other) == ("a", "b")
    assert found.total == pytest.approx(0.7 - 0.4)  # means over two and over three classes
    assert [row[0] for row in found.rows] == ["pole", "road", "train"]
    assert [row[3] for row in found.rows] == pytest.approx([0.5 / 2 - 0.1 / 3, 0.9 / 2 - 0.8 / 3, -0.1])


def test_best_of_each_class_is_named(run, tmp_path):
    ious = {"a": [0.9, 0.5, 0.0, None], "b": [0.8, 0.5, 0.0, 0.2], "c": [0.9, 0.4, 0.0, 0.1]}
    names = ("road", "pole", "bus", "train")
    runs = [
        read_run(run(tmp_path / name, iou=dict(zip(names, values, strict=True)))) for name, values in ious.items()
    ]  # fmt: skip
    rows = class_rows(runs)
    assert [row["winners"] for row in rows] == ["a, c", "a, b", "", "b"]
    assert [row["spread_text"] for row in rows] == ["10.0", "10.0", "0.0", "10.0"]


def test_runs_with_other_classes_are_not_compared_by_class(run, tmp_path):
    runs = [read_run(run(tmp_path / "a")), read_run(run(tmp_path / "b", iou={"sky": 0.5}))]
    assert class_rows(runs) == []
    assert differences(runs) == []


def test_rows_come_in_the_order_of_their_jobs_and_are_named_once(run, tmp_path):
    names = ("npu_lr0.11_s32_o1", "npu_lr0.1_s32_o1", "npu_lr0.08_s32_o1")
    for number, name in enumerate(names):
        run(tmp_path / name, overrides=[f"hparams={name}"], config={"trainer.batch_size": 4 if number else 2})
        (tmp_path / name / ".hydra" / "hydra.yaml").write_text(f"hydra:\n  job:\n    num: {number}\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "results.json").write_text("{}")  # of no job
    table = tabulate(read_sweep(tmp_path)[:3], "Sweep")
    assert [entry.run.name for entry in table.entries] == list(names)
    assert [entry.label for entry in table.entries] == list(names)
    assert table.settings == ["batch", "lr", "loss_scale", "opt_level"]
    # All three have the settings of one published row; two of them fall short of it in the same way.
    assert table.reasons == [
        ("row npu_lr0.11_s32_o1", "reduced: trainer.batch_size 2 instead of 16"),
        ("rows npu_lr0.1_s32_o1, npu_lr0.08_s32_o1", "reduced: trainer.batch_size 4 instead of 16"),
    ]


def test_table_in_a_file_is_not_folded(run, tmp_path, capsys):
    name = "npu_lr0.1_s32_o1"
    run(tmp_path / name, overrides=[f"hparams={name}"])
    print_table(tabulate(read_sweep(tmp_path), "Sweep"))
    line = next(line for line in capsys.readouterr().out.splitlines() if name in line)
    assert line.split() == [
        name, "16", "0.1", "32", "O1", "70.0", "72.0", "100", "68.3", "/", "69.1", "147.2", "68.1", "/", "68.3",
        "+0.2", "/", "+0.8", "done",
    ]  # fmt: skip


def test_reduced_run_without_a_published_row_is_marked_too(run, evaluation, tmp_path):
    part = run(tmp_path / "0", config={"optim.lr": 0.3, "trainer.limit_val_batches": 2})
    assert table_of(part).entries[0].marks == ["trainer.limit_val_batches 2"]
    config = {"ckpt": "best.ckpt", "seed": 1, "trainer": {"limit_val_batches": 2}}
    entry = table_of(evaluation(tmp_path / "1", config=config)).entries[0]
    assert (entry.marks, entry.badge) == (["trainer.limit_val_batches 2"], "REDUCED")
    whole = table_of(run(tmp_path / "2", config={"optim.lr": 0.3})).entries[0]
    assert (whole.marks, whole.badge) == ([], "")


def test_run_that_cannot_be_read_is_a_row_that_says_so(run, tmp_path):
    run(tmp_path / "0")
    run(tmp_path / "1")
    (tmp_path / "1" / "results.json").write_text('{"status": "do')
    table = tabulate(read_sweep(tmp_path), "Sweep")
    write_table(table, tmp_path)
    assert [entry.run.status for entry in table.entries] == ["done", "unreadable"]
    assert "cannot be read" in (tmp_path / "report.html").read_text()


def test_figures_of_an_earlier_attempt_are_marked(run, tmp_path):
    folder = run(tmp_path / "0", config={"optim.lr": 0.3})
    (folder / "error.txt").write_text("failed: no device")
    assert table_of(folder).entries[0].marks == ["the figures are of an earlier attempt"]


@pytest.mark.parametrize(
    ("told", "marked"),
    [
        ({"data": "drawn", "synthetic": True}, True),
        ({"data": "photosynthetic plants", "synthetic": False}, False),
        ({"data": "street (synthetic)"}, True),  # of version 0.1
        ({"data": "cityscapes"}, False),
    ],
)
def test_drawn_pictures_are_told_by_the_file_or_else_by_its_title(run, tmp_path, told, marked):
    assert is_synthetic(read_run(run(tmp_path / "0", **told))) is marked
