"""Only icnet/run knows what the files of a run folder are called."""

import ast
from pathlib import Path

import pytest

from icnet.run.paths import (
    BEST,
    LAST,
    RunPaths,
    checkpoints_below,
    epoch_of,
    extreme_picture,
    extremes_scores,
    failures_below,
    split_extreme,
    validation_picture,
)

ROOT = Path(__file__).parents[2]
OUTSIDE = [path for path in (ROOT / "icnet").rglob("*.py") if path.parent.name != "run"]
SCRIPTS = [ROOT / f"{name}.py" for name in ("train", "eval", "export", "demo")]
RUN = RunPaths(Path("run"))
NAMES = {path.name for name in dir(RunPaths) if isinstance(path := getattr(RUN, name, None), Path)} - {
    "run", "pictures", "label_ids", "extremes",  # words with other meanings too
}  # fmt: skip


@pytest.mark.parametrize("path", [*OUTSIDE, *SCRIPTS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_module_knows_no_file_of_a_run_folder_by_name(path):
    assert {"results.json", BEST, LAST, "checkpoints", "error.txt", "report.html", ".hydra", "iou.csv"} <= NAMES
    texts = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
    parts = {part for text in texts if isinstance(text, str) and " " not in text for part in text.split("/")}
    assert not parts & NAMES


def test_further_part_of_a_run_has_a_folder_of_its_own_for_its_curves(tmp_path):
    paths = RunPaths(tmp_path)
    for name in ("csv", "csv_2"):
        assert paths.new_curves() == tmp_path / name
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").touch()
    assert {path.parent.name for path in paths.find_curves()} == {"csv", "csv_2"}


def test_logs_and_earlier_archives_are_not_archived(tmp_path):
    paths = RunPaths(tmp_path)
    for name in (".hydra", "error.txt", "earlier_1", "train_0.log", "train_node1_0.log", "results.json", "pictures"):
        (tmp_path / name).touch()
    assert {path.name for path in paths.find_archivable()} == {"results.json", "pictures"}
    assert paths.new_archive().name == "earlier_2"


def test_files_of_several_runs_are_found(tmp_path):
    for job in ("0", "1"):
        paths = RunPaths(tmp_path / job)
        paths.checkpoints.mkdir(parents=True)
        paths.last.touch()
        paths.failure.touch()
    assert {path.parts[-3] for path in checkpoints_below(tmp_path, LAST)} == {"0", "1"}
    assert not list(checkpoints_below(tmp_path, BEST))
    assert {path.parent.name for path in failures_below(tmp_path)} == {"0", "1"}


def test_names_of_pictures_tell_what_they_show(tmp_path):
    assert split_extreme(extreme_picture(tmp_path, "worst_12", "a_1")) == ("worst", 12, "a_1")
    assert split_extreme(tmp_path / "mine.jpg") is None
    assert epoch_of(validation_picture(tmp_path, "a_epoch001", 12)) == 12
    assert epoch_of(tmp_path / "a.jpg") is None
    assert extremes_scores(tmp_path).parent == tmp_path


def test_log_has_the_number_of_its_node_behind_the_first():
    assert [RUN.log("train", 3, node).name for node in (0, 1)] == ["train_3.log", "train_node1_3.log"]
