"""``python -m icnet.report`` and what happens at the end of a multirun."""

import logging
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from icnet.launch import sweep
from icnet.report.__main__ import main

FILES = ["csv", "html", "md"]


def made(folder, name):
    return sorted(path.suffix[1:] for path in folder.glob(f"{name}.*"))


def test_multirun_gets_its_table(run, tmp_path, capsys):
    for number in range(2):
        run(tmp_path / str(number), overrides=[f"optim.lr={number}"])
    assert main([str(tmp_path)]) == 0
    assert "2 runs on cityscapes" in capsys.readouterr().out
    assert made(tmp_path, "report") == FILES


def test_run_gets_its_page(run, tmp_path):
    run(tmp_path / "run")
    assert main([str(tmp_path / "run"), "--output", str(tmp_path / "out")]) == 0
    assert made(tmp_path / "out", "report") == ["html"]
    assert made(tmp_path / "run", "report") == []


def test_several_runs_are_compared_beside_them(run, tmp_path):
    folders = [str(run(tmp_path / name)) for name in ("a", "b")]
    assert main(folders) == 0
    assert made(tmp_path, "comparison") == FILES
    assert "Where the difference comes from" in (tmp_path / "comparison.html").read_text()


def test_files_go_where_they_are_wanted(run, tmp_path):
    folders = [str(run(tmp_path / name)) for name in ("a", "b")]
    assert main([*folders, "--output", str(tmp_path / "new" / "out")]) == 0
    assert made(tmp_path / "new" / "out", "comparison") == FILES
    assert made(tmp_path, "comparison") == []


@pytest.mark.parametrize(("name", "line"), [("nowhere", "is no folder"), ("empty", "holds no runs")])
def test_bad_path_ends_in_one_line(tmp_path, capsys, name, line):
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / name)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {tmp_path / name} {line}")
    assert err.count("\n") == 1


def test_output_that_is_a_file_ends_in_one_line(run, tmp_path, capsys):
    run(tmp_path / "0")
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path), "--output", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_command_loads_no_torch():
    code = "import sys, icnet.launch.sweep, icnet.report.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "lightning", "matplotlib", "jinja2", "cv2", "rich"} & set(done.stdout.split())


def ended(folder):
    sweep.SweepTable().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}}))


def test_multirun_ends_with_its_table_written(run, tmp_path, capsys):
    run(tmp_path / "0")
    ended(tmp_path)
    assert made(tmp_path, "report") == FILES
    assert "1 run on cityscapes" in capsys.readouterr().out


@pytest.mark.parametrize(("failures", "status"), [(["failed: x"], 2), (["failed: x", "died: y"], 1)])
def test_failed_jobs_decide_the_status_after_the_table(run, tmp_path, capsys, failures, status):
    run(tmp_path / "0")
    for number, text in enumerate(failures, start=1):
        run(tmp_path / str(number), failure=text)
    with pytest.raises(SystemExit) as stop:
        ended(tmp_path)
    assert stop.value.code == status
    assert capsys.readouterr().out.splitlines()[-1] == f"job {len(failures)} {failures[-1]}"


def test_report_that_fails_costs_one_line_and_no_status(run, tmp_path, caplog, monkeypatch):
    run(tmp_path / "0")

    def fail(*_):
        raise RuntimeError("no\nfont")

    monkeypatch.setattr(sweep, "write_table", fail)
    with caplog.at_level(logging.WARNING):
        ended(tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        f"no report of {tmp_path} (RuntimeError: no font); python -m icnet.report makes it again"
    ]
    run(tmp_path / "1", failure="died: y")
    (tmp_path / "0" / "results.json").write_text("{")
    with pytest.raises(SystemExit) as stop:
        ended(tmp_path)
    assert stop.value.code == 1
