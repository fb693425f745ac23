"""What is read out of run folders."""

import json

import pytest

from icnet.errors import UserError
from icnet.run.reader import read_all, read_run, read_sweep


def test_resumed_run_has_one_curve_of_its_parts(run, tmp_path):
    first = [{"step": step, "epoch": 0, "train/loss": loss} for step, loss in ((0, 9.0), (1, 8.0), (2, 7.0), (3, 6.0))]
    second = [{"step": 2, "lr-SGD": 0.1}, {"step": 2, "epoch": 1, "train/loss": 5.0}]
    folder = run(tmp_path / "run", curves={"csv": first, "csv_2": second}, steps=4, epochs=2, history=[])
    # Steps 3 and 4 of the first part were lost and done again; two steps are an epoch.
    assert read_run(folder).curves["train/loss"] == [(0.5, 9.0), (1.0, 8.0), (1.5, 5.0)]


def test_parts_are_read_in_the_order_of_their_numbers(run, tmp_path):
    parts = {name: [{"step": 0, "train/loss": loss}] for name, loss in (("csv", 1), ("csv_10", 3), ("csv_2", 2))}
    assert read_run(run(tmp_path / "run", curves=parts)).curves["train/loss"][-1][1] == 3


def test_curves_leave_out_what_is_no_number(run, tmp_path):
    rows = [{"step": 0, "train/loss": "nan"}, {"step": 1, "train/loss": 2.0}, {"step": "", "train/loss": 3.0}]
    curves = read_run(run(tmp_path / "run", curves={"csv": rows}, steps=None)).curves
    assert curves["train/loss"] == [(2.0, 2.0)]


def test_validations_are_those_of_the_results(run, tmp_path):
    assert read_run(run(tmp_path / "run")).curves["val/miou"] == [(100.0, 0.72), (200.0, 0.7)]


def test_sweep_is_in_the_order_of_its_jobs(run, tmp_path):
    for number in (10, 2, 1):
        run(tmp_path / str(number))
    assert [found.name for found in read_sweep(tmp_path)] == ["1", "2", "10"]


def test_failed_job_has_its_line_as_status(run, tmp_path):
    failed = read_run(run(tmp_path / "0", failure="died: rank 1 was killed\n"))
    assert (failed.status, failed.failure, failed.results) == ("died", "died: rank 1 was killed", None)


def test_override_given_twice_counts_as_hydra_counts_it(run, tmp_path):
    words = ["optim.lr=0.1", "+note=a=b", "optim.lr=0.2"]
    assert read_run(run(tmp_path / "0", overrides=words)).overrides == {"optim.lr": "0.2", "note": "a=b"}


def test_runs_of_the_same_name_are_told_apart(run, tmp_path):
    folders = [run(tmp_path / day / "0") for day in ("monday", "tuesday")] + [run(tmp_path / "alone")]
    assert [found.name for found in read_all(folders)] == ["monday/0", "tuesday/0", "alone"]


def test_folder_without_runs_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no runs"):
        read_all([tmp_path / "empty"])
    with pytest.raises(UserError, match="nowhere is no folder"):
        read_all([tmp_path / "nowhere"])


@pytest.mark.parametrize("text", ["{", "[]", '"done"'])
def test_file_that_holds_no_results_is_named(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match=str(tmp_path)):
        read_run(tmp_path)


def test_results_of_older_versions_are_read(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"final_miou": 0.5, "data": "camvid"}))
    found = read_run(tmp_path)
    assert (found.status, found.final_miou, found.best_running_mean, found.curves) == ("done", 0.5, None, {})
