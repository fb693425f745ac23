"""Run folders: refused where another result would be lost, archived where the run is wanted again."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from icnet.errors import UserError
from icnet.run.folder import archive_finished, finished_results, refuse_evaluation, refuse_training
from icnet.run.paths import RunPaths
from icnet.run.results import EvaluationRecord, TrainingRecord, write_results


@pytest.fixture
def finished(small_config):
    """Write the results of a finished run into its folder; returns its paths."""
    paths = RunPaths(Path(small_config.output_dir))
    write_results(paths.results, TrainingRecord(status="done", best_miou=0.5, config=asdict(small_config)))
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
    for options in ({"resume": None}, {"resume": "auto"}, {"resume": "here", "skip_finished": True}):
        archive_finished(replace(small_config, **options))
        assert finished.results.exists(), options
    archive_finished(replace(small_config, resume="here"))
    assert {path.name for path in finished.folder.iterdir()} == {".hydra", "train_0.log", "earlier_1"}
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
