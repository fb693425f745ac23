"""Run folders: refused where another result would be lost, archived where the run is wanted again."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from icnet.errors import UserError
from icnet.run import folder
from icnet.run.folder import archive_finished, refuse_evaluation, refuse_other_evaluation, refuse_training
from icnet.run.paths import RunPaths
from icnet.run.results import (
    DataFingerprint,
    EvaluationRecord,
    SplitFingerprint,
    TrainingRecord,
    read_results,
    write_results,
)

DATA = DataFingerprint(
    classes=["sky", "road"], labels={"sky": "0", "road": "1"}, ignored="255",
    train=SplitFingerprint(samples=6, bytes=60, names_sha256="ab", sha256="cd"),
    val=SplitFingerprint(samples=3, bytes=30, names_sha256="ef", sha256="01"),
)  # fmt: skip
TWICE = replace(DATA, train=replace(DATA.train, samples=12))


def finished_results(config, data=DATA):
    return folder.finished_results(config, lambda: data)


@pytest.fixture
def finished(small_config):
    """Write the results of a finished run into its folder; returns its paths."""
    paths = RunPaths(Path(small_config.output_dir))
    results = TrainingRecord(status="done", best_miou=0.5, config=asdict(small_config), fingerprint=DATA)
    write_results(paths.results, results)
    return paths


def test_folder_of_a_training_is_no_place_for_an_evaluation(tmp_path):
    refuse_training(tmp_path)
    RunPaths(tmp_path).checkpoints.mkdir()
    with pytest.raises(UserError, match=r"holds a training run, whose results\.json would be lost; choose another"):
        refuse_training(tmp_path)


@pytest.mark.usefixtures("finished")
def test_results_of_this_very_run_are_found(small_config):
    assert finished_results(replace(small_config, skip_finished=True)).best_miou == 0.5
    assert finished_results(small_config) is None  # not asked for
    workers = replace(small_config, skip_finished=True, data=replace(small_config.data, workers=7, root="elsewhere"))
    assert finished_results(workers).best_miou == 0.5


@pytest.mark.usefixtures("finished")
def test_results_of_another_configuration_are_refused(small_config):
    other = replace(small_config, skip_finished=True, seed=7, optim=replace(small_config.optim, lr=0.5))
    with pytest.raises(UserError, match=r"of another configuration \(optim\.lr was 0\.01, is 0\.5, \.\.\.\); choose"):
        finished_results(other)


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(
    ("data", "told"),
    [
        (TWICE, "train had 6 samples, has 12"),
        (replace(DATA, classes=["road", "sky"]), "class 0 was sky, is road"),
        (replace(DATA, labels={"sky": "0", "road": "2"}), "class road was stored as 1, is stored as 2"),
    ],
)
def test_results_of_other_data_are_refused(small_config, data, told):
    config = replace(small_config, skip_finished=True, data=replace(small_config.data, root="elsewhere"))
    with pytest.raises(UserError, match=rf"holds a run on other data \({told}\), and data.root=elsewhere; give the"):
        finished_results(config, data)


def test_unfinished_run_may_go_on_with_changed_data(small_config, finished):
    config = replace(small_config, skip_finished=True, resume_changed_data=True)
    with pytest.raises(UserError, match="holds a run on other data"):  # it is a result, of the data before
        finished_results(config, TWICE)
    write_results(finished.results, replace(read_results(finished.results), status="stopped"))
    assert finished_results(config, TWICE) is None
    with pytest.raises(UserError, match="holds a run on other data"):
        finished_results(replace(config, resume_changed_data=False), TWICE)


def test_results_that_do_not_tell_their_data_are_taken_and_that_is_said(small_config, finished, caplog):
    results = read_results(finished.results)
    write_results(finished.results, replace(results, fingerprint=None))
    other = replace(small_config, skip_finished=True, data=replace(small_config.data, root="elsewhere"))
    assert finished_results(other, TWICE).best_miou == 0.5
    assert (
        "was written before data were recorded: whether these are its data is not known; data.root was" in caplog.text
    )


def test_data_are_not_looked_at_where_there_is_no_result(small_config):
    def unread():
        raise AssertionError

    assert folder.finished_results(replace(small_config, skip_finished=True), unread) is None


def test_evaluation_on_other_data_is_not_overwritten(tmp_path):
    refuse_other_evaluation(tmp_path, DATA)  # nothing there
    write_results(tmp_path / "results.json", EvaluationRecord(ckpt="best.ckpt", fingerprint=replace(DATA, train=None)))
    refuse_other_evaluation(tmp_path, DATA)
    more = replace(DATA, val=replace(DATA.val, samples=4))
    with pytest.raises(UserError, match=r"holds an evaluation on other data \(val had 3 samples, has 4\), which would"):
        refuse_other_evaluation(tmp_path, more)


@pytest.mark.parametrize("text", ['{"status": "do', "{}", '{"status": "done"}', '{"config": 3, "status": "done"}'])
def test_file_that_was_cut_off_is_no_result(small_config, finished, text):
    finished.results.write_text(text)
    assert finished_results(replace(small_config, skip_finished=True)) is None


def test_evaluation_is_no_result_of_a_training(small_config, finished):
    write_results(finished.results, EvaluationRecord(ckpt="best.ckpt", config=asdict(small_config)))
    assert finished_results(replace(small_config, skip_finished=True)) is None


def test_unfinished_run_has_no_result(small_config, finished):
    write_results(finished.results, TrainingRecord(status="stopped", config=asdict(small_config)))
    assert finished_results(replace(small_config, skip_finished=True)) is None


def test_finished_run_that_is_wanted_again_is_archived(small_config, finished, caplog):
    caplog.set_level("INFO")
    finished.hydra.mkdir()
    finished.last.parent.mkdir()
    finished.last.touch()
    finished.log("train", 0).touch()
    finished.lock.touch()
    for options in ({"resume": None}, {"resume": "auto"}, {"resume": "here", "skip_finished": True}):
        archive_finished(replace(small_config, **options))
        assert finished.results.exists(), options
    archive_finished(replace(small_config, resume="here"))
    assert {path.name for path in finished.folder.iterdir()} == {
        ".hydra", ".lock", "train_0.log", "earlier_1",
    }  # fmt: skip
    assert f"it is in {finished.folder / 'earlier_1'} now" in caplog.text
    archived = RunPaths(finished.folder / "earlier_1")
    assert archived.results.exists()
    assert archived.last.exists()


def test_run_that_was_stopped_is_not_archived(small_config, finished):
    write_results(finished.results, TrainingRecord(status="stopped"))
    archive_finished(replace(small_config, resume="here"))
    assert finished.results.exists()


def test_training_does_not_overwrite_an_evaluation(small_config, tmp_path):
    config = replace(small_config, output_dir=str(tmp_path))
    refuse_evaluation(config)  # nothing there
    write_results(tmp_path / "results.json", EvaluationRecord(miou=0.5))
    with pytest.raises(UserError, match="holds an evaluation, whose results.json would be lost; choose another"):
        refuse_evaluation(config)
