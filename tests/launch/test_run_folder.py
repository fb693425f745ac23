"""The folder of a run is its own: named, claimed, refused to others."""

import json
import multiprocessing
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from icnet.config import TrainConfig
from icnet.errors import UserError
from icnet.launch import run_folder
from icnet.launch.run_folder import ClaimFolder, lock_folder, make_new_folder
from icnet.run.paths import RunPaths

ROOT = Path(__file__).parents[2]


def _claim(folder: Path, results) -> None:
    results.put(str(make_new_folder(folder)))


def test_runs_that_begin_in_the_same_second_get_a_folder_each(tmp_path):
    context = multiprocessing.get_context("fork")
    results, folder = context.Queue(), tmp_path / "2026-01-31" / "12-00-00"
    runs = [context.Process(target=_claim, args=(folder, results)) for _ in range(12)]
    for process in runs:
        process.start()
    made = {results.get(timeout=60) for _ in runs}
    for process in runs:
        process.join()
    assert made == {str(folder), *(f"{folder}_{number}" for number in range(2, 13))}


@pytest.fixture
def composed(monkeypatch, tmp_path):
    """A configuration with Hydra's part, as a callback gets it: ``composed(run_dir, sweep_dir)``."""
    monkeypatch.chdir(tmp_path)
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)

    def make(run_dir="outputs/${now:%Y}", sweep_dir="multirun/${now:%Y}", nodes=1):
        words = (f"hydra.run.dir='{run_dir}'", f"hydra.sweep.dir='{sweep_dir}'", f"trainer.num_nodes={nodes}")
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3", job_name="x"):
            return compose("train", ["data=street", *words], return_hydra_config=True)

    yield make
    run_folder.release_folders()


def test_folder_named_after_the_time_gets_a_name_that_is_free(composed):
    year = time.strftime("%Y")
    names = []
    for _ in range(3):
        config = composed()
        ClaimFolder().on_run_start(config)
        names.append(config.hydra.run.dir)
    assert names == [f"outputs/{year}", f"outputs/{year}_2", f"outputs/{year}_3"]
    assert all(RunPaths(Path(name)).lock.exists() for name in names)
    run_folder.release_folders()
    assert all(list(Path(name).iterdir()) == [] for name in names)


def test_multirun_named_after_the_time_gets_a_name_that_its_jobs_take_too(composed):
    year = time.strftime("%Y")
    first, second = composed(), composed()
    for config in (first, second):
        ClaimFolder().on_multirun_start(config)
    assert [config.hydra.sweep.dir for config in (first, second)] == [f"multirun/{year}", f"multirun/{year}_2"]
    assert second.hydra.overrides.hydra[-1] == f"hydra.sweep.dir='multirun/{year}_2'"
    assert len(second.hydra.overrides.hydra) == len(first.hydra.overrides.hydra) + 1


def test_folder_of_ones_own_name_stays_whoever_was_there_before(composed, tmp_path):
    (tmp_path / "mine train").mkdir()
    for config in (composed("mine ${hydra:job.name}"), composed("mine ${hydra:job.name}")):
        ClaimFolder().on_run_start(config)
        assert [str(path) for path in Path().rglob(".lock")] == ["mine train/.lock"]
        run_folder.release_folders()


HOLD = "import sys, time; from pathlib import Path; from icnet.launch.run_folder import lock_folder\n"
HOLD += "lock = lock_folder(Path(sys.argv[1])); print(flush=True); time.sleep(60)"


@pytest.fixture
def living(tmp_path):
    """A folder in which a run of another process is at work."""
    folder = tmp_path / "living"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, cwd=ROOT
    )  # fmt: skip
    process.stdout.readline()
    yield folder, process
    process.kill()
    process.wait()


def test_folder_of_a_living_run_is_refused_in_one_line(composed, living, capsys):
    folder, process = living
    message = rf"{folder} is in use by a run that has not ended \(process {process.pid} on \S+\); wait for it, choose"
    with pytest.raises(UserError, match=message):
        lock_folder(folder)
    for name, key in (("on_run_start", "hydra.run.dir"), ("on_multirun_start", "hydra.sweep.dir")):
        with pytest.raises(SystemExit) as stop:  # of any other exception Hydra would only warn
            getattr(ClaimFolder(), name)(composed(str(folder), str(folder)))
        assert stop.value.code == 2
        assert re.fullmatch(
            rf"error: {message} another folder with {key}=PATH, or delete .*\n", capsys.readouterr().err
        )
    process.kill()
    process.wait()
    ClaimFolder().on_run_start(composed(str(folder)))


@pytest.mark.parametrize("nodes", [1, 2])
def test_further_ranks_and_nodes_share_the_folder(composed, living, monkeypatch, nodes):
    folder, _ = living
    if nodes == 1:  # a rank of a group that torchrun started
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "0")
        for key, value in zip(
            ("RANK", "LOCAL_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE"), "11022", strict=True
        ):
            monkeypatch.setenv(key, value)
    ClaimFolder().on_run_start(composed(str(folder), nodes=nodes))


def test_folder_that_cannot_be_made_is_left_to_hydra(composed, tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file", "file/below", "file/${now:%Y}"):
        ClaimFolder().on_run_start(composed(name))


@pytest.mark.slow
def test_job_in_the_folder_of_a_living_run_fails_without_a_trace(small, script, tmp_path):
    sweep = tmp_path / "sweep"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(sweep / "0")], stdout=subprocess.PIPE, cwd=ROOT)
    process.stdout.readline()
    try:
        words = ("trainer.max_epochs=1", "callbacks.pictures=0", "seed=1,2", f"hydra.sweep.dir={sweep}")
        done = script("train", "-m", *small, *words)
    finally:
        process.kill()
        process.wait()
    assert done.status == 2
    assert f"error: job 0: {sweep / '0'} is in use by a run that has not ended" in done.err
    assert not (sweep / "0" / "error.txt").exists()
    assert not (sweep / "0" / "train_0.log").exists()
    assert json.loads((sweep / "1" / "results.json").read_text())["status"] == "done"
    assert not list(sweep.rglob(".lock")) or list(sweep.rglob(".lock")) == [sweep / "0" / ".lock"]
