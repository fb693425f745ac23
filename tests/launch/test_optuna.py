"""``hparams=optuna``: a search is a sweep whose next values follow from the results before."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from icnet.models.weight_files import load_file
from tests.conftest import Outcome

ROOT = Path(__file__).parents[2]
SEARCHED = ["optim.lr", "optim.weight_decay", "optim.head_lr_mult"]
OUTPUT = "+loss.weights.sub4"
pytestmark = pytest.mark.slow
TOO_LARGE = "trainer.batch_size=7"  # of 6 samples: such a trial fails before it trains


@pytest.fixture
def search(small, tmp_path) -> tuple[str, ...]:
    """Overrides of a search with trials of one epoch, each in a second; ``optim.lr`` and batch size are left open."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs hydra-optuna-sweeper")
    given = (word for word in small if not word.startswith(("optim.lr", "trainer=", "trainer.batch_size")))
    shorter = ("trainer.max_epochs=1", "callbacks.pictures=0", "callbacks.extremes=0")
    return ("-m", "hparams=optuna", *given, *shorter, f"hydra.sweep.dir={tmp_path}")


def overrides(run: Path) -> dict[str, str]:
    return dict(word.split("=", 1) for word in OmegaConf.load(run / ".hydra" / "overrides.yaml"))


def best_miou(run: Path) -> float | None:
    path = run / "results.json"
    return json.loads(path.read_text())["best_miou"] if path.exists() else None


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "report.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_search_tries_values_of_its_ranges_and_finds_the_best_of_its_runs(search, process, tmp_path):
    weight = f"{OUTPUT}=interval(0.1,0.6)"
    done = process("train", *search, "trainer=cpu_2p", "trainer.batch_size=1", weight, "hydra.sweeper.n_trials=3")
    assert done.status == 0, done.err
    runs = [tmp_path / str(number) for number in range(3)]
    assert sorted(path for path in tmp_path.iterdir() if path.is_dir()) == runs
    tried = []
    for run in runs:  # what was in force, from what the run left
        saved, config = load_file(run / "checkpoints" / "last.ckpt"), json.loads((run / "results.json").read_text())
        assert config["devices"] == 2
        groups = {group["name"]: group["initial_lr"] for group in saved["optimizer_states"][0]["param_groups"]}
        optim, loss = config["config"]["optim"], config["config"]["loss"]
        assert groups["backbone"] == optim["lr"]
        assert groups["head"] == pytest.approx(optim["lr"] * optim["head_lr_mult"])
        tried.append((optim["lr"], optim["weight_decay"], optim["head_lr_mult"], loss["weights"]["sub4"]))
    for values, (low, high) in zip(zip(*tried, strict=True), [(0.003, 0.3), (1e-5, 1e-3), (1, 10), (0.1, 0.6)],
                                   strict=True):  # fmt: skip
        assert all(low <= value <= high for value in values)
    assert len({lr for lr, *_ in tried}) == 3
    scores = [best_miou(run) for run in runs]
    assert len(set(scores)) == 3
    found = OmegaConf.load(tmp_path / "optimization_results.yaml")
    assert found.best_value == max(scores)
    assert [found.best_params[key] for key in (*SEARCHED, OUTPUT)] == list(tried[scores.index(max(scores))])
    rows = table(tmp_path)
    assert [float(row["optim.lr"]) for row in rows] == pytest.approx([lr for lr, *_ in tried], rel=1e-5)
    columns = zip((*SEARCHED, OUTPUT.removeprefix("+")), zip(*tried, strict=True), strict=True)
    assert set(rows[0]) >= {key for key, values in columns if len(set(values)) > 1}
    assert [float(row["best_miou"]) for row in rows] == pytest.approx(scores, abs=1e-6)
    assert (tmp_path / "report.html").exists()


def test_failed_trial_is_reported_and_the_search_goes_on(search, script, tmp_path):
    words = ("trainer=cpu_1p", "trainer.batch_size=choice(2,7)", "optim.lr=0.01", "hydra.sweeper.n_trials=3")
    done = script("train", *search, *words, "hydra.sweeper.sampler.seed=4")
    assert done.status == 2
    runs = [tmp_path / str(number) for number in range(3)]
    failed = [overrides(run)["trainer.batch_size"] == "7" for run in runs]
    assert failed == [False, True, False]  # what this seed draws
    assert [best_miou(run) is None for run in runs] == failed
    assert {overrides(run)["optim.lr"] for run in runs} == {"0.01"}  # given, so not searched
    assert "has 6 samples but one step takes 7" in done.error
    assert [row["status"] for row in table(tmp_path)] == ["done", "failed", "done"]
    assert "optim.lr" not in table(tmp_path)[0]
    assert done.out.splitlines()[-1].startswith("job 1 failed: ")
    assert "Got 'None'" not in done.out  # the sweeper's words for it, which say nothing
    found = OmegaConf.load(tmp_path / "optimization_results.yaml")
    assert found.best_value == max(best_miou(runs[0]), best_miou(runs[2]))


def test_search_whose_trials_all_fail_ends_with_its_table(search, script, tmp_path):
    done = script("train", *search, "trainer=cpu_1p", TOO_LARGE, "hydra.sweeper.n_trials=2")
    assert done.status == 2
    assert done.err.splitlines()[-1] == "error: hydra/sweeper=optuna gave up: No trials are completed yet."
    assert "Traceback" not in done.err
    assert [row["status"] for row in table(tmp_path)] == ["failed", "failed"]
    assert done.out.splitlines()[-1].startswith("job 1 failed: ")


def test_search_that_draws_what_is_no_option_keeps_what_it_has(search, script, tmp_path):
    words = ("trainer=cpu_1p", TOO_LARGE, "optim=choice(sgd,sgdd)", "hydra.sweeper.sampler.seed=10")
    done = script("train", *search, *words)
    assert done.status == 2
    line = "error: hydra/sweeper=optuna gave up: optim=sgdd is unknown; choose one of adamw, npu_fused_sgd, sgd"
    assert done.err.splitlines()[-1] == line
    assert "Traceback" not in done.err
    assert [row["status"] for row in table(tmp_path)] == ["failed"]  # what this seed draws first is an option


def test_trial_with_a_defect_shows_its_traceback_and_the_search_goes_on(search, script, tmp_path, monkeypatch):
    from icnet.factory import prepare_data

    calls = []

    def fail_once(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise RuntimeError("broken on purpose")
        prepare_data(*arguments)

    monkeypatch.setattr("icnet.factory.prepare_data", fail_once)
    done = script("train", *search, "trainer=cpu_1p", "trainer.batch_size=2", "hydra.sweeper.n_trials=2")
    assert done.status == 1
    assert "Traceback" in done.err
    assert "error: job 0: RuntimeError: broken on purpose" in done.err
    assert [row["status"] for row in table(tmp_path)] == ["died", "done"]


def test_same_seed_draws_the_same_values(search, script, tmp_path):
    drawn = []
    for seed in ((), (), ("hydra.sweeper.sampler.seed=2",)):
        folder = tmp_path / str(len(drawn))
        words = ("trainer=cpu_1p", TOO_LARGE, "hydra.sweeper.n_trials=2", f"hydra.sweep.dir={folder}")
        script("train", *search, *words, *seed)
        drawn.append([[overrides(folder / name)[key] for key in SEARCHED] for name in "01"])
    assert drawn[0] == drawn[1]
    assert drawn[0][0][0] != drawn[2][0][0]


def test_stored_study_goes_on(search, script, tmp_path):
    study = (f"hydra.sweeper.storage=sqlite:///{tmp_path / 'study.db'}", "hydra.sweeper.study_name=mine")
    words = (*search, "trainer=cpu_1p", *study, "hydra.sweeper.n_trials=1")
    first = script("train", *words, "trainer.batch_size=2", f"hydra.sweep.dir={tmp_path / 'first'}")
    assert first.status == 0, first.err
    script("train", *words, TOO_LARGE, f"hydra.sweep.dir={tmp_path / 'second'}", "hydra.sweeper.sampler.seed=2")
    found = OmegaConf.load(tmp_path / "second" / "optimization_results.yaml")
    assert found.best_value == best_miou(tmp_path / "first" / "0")  # the only one that was scored


def test_search_in_one_run_asks_for_multirun(search, script, tmp_path):
    done = script("train", *search[1:], "trainer=cpu_1p", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.status == 2
    assert done.error == "hydra/sweeper=optuna searches in several runs, and this would be one; give -m too"
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("hparams=optuna", "optuna needs hydra-optuna-sweeper, which is not installed; "
         "run 'pip install hydra-optuna-sweeper \"sqlalchemy<2\"'"),
        ("hydra/launcher=joblib", "joblib needs hydra-joblib-launcher, which is not installed; "
         "run 'pip install hydra-joblib-launcher'"),
    ],
)  # fmt: skip
def test_missing_plugin_is_named_with_what_to_install(tmp_path, word, line):
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "__init__.py").touch()  # hides those that are installed
    hidden = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def train(*words: str) -> Outcome:  # by a Python that has not loaded them yet
        command = [sys.executable, str(ROOT / "train.py"), *words]
        done = subprocess.run(command, cwd=tmp_path, env=hidden, capture_output=True, text=True, check=False)
        return Outcome(done.returncode, done.stdout, done.stderr)

    done = train("-m", word, "optim.lr=0.1,0.2")
    assert (done.status, done.out) == (2, "")
    assert done.error.endswith(line)
    assert done.err.count("\n") == 1
    assert train("--help").status == 0
