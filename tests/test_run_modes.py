"""The run modes of the published system: whole trainings, speed, its tables and its script names."""

import csv
import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from icnet.config import TrainConfig
from icnet.models.weight_files import load_file
from icnet.training.callbacks import speed_monitor
from icnet.training.callbacks.speed_monitor import SpeedMonitor
from icnet.training.callbacks.validation_schedule import PublishedValidationSchedule
from icnet.training.precision import precision_plugin

ROOT = Path(__file__).parents[1]
PUBLISHED_KEYS = [
    "Network", "RankSize", "BatchSize", "DeviceType", "CaseName", "ActualFPS", "TrainingTime", "TrainAccuracy",
    "ActualLoss", "E2ETrainingTime",
]  # fmt: skip


def results(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


def lines(path: Path) -> dict[str, str]:
    return dict(line.split(" = ") for line in path.read_text().splitlines())


@pytest.mark.parametrize(("devices", "expected"), [(8, [*range(5, 181, 5), *range(181, 201)]), (1, [*range(1, 201)])])
def test_published_schedule_of_validations(devices, expected):
    trainer = SimpleNamespace(max_epochs=200, world_size=devices, check_val_every_n_epoch=1)
    validated = []
    for epoch in range(200):
        trainer.current_epoch = epoch
        PublishedValidationSchedule().on_train_epoch_start(trainer, None)
        if (epoch + 1) % trainer.check_val_every_n_epoch == 0:  # Lightning's rule
            validated.append(epoch + 1)
    assert validated == expected


def test_throughput_counts_loading_and_leaves_out_warm_up_and_validation(monkeypatch, caplog):
    now = iter([0.0, 100.0, 101.0, 103.0, 103.0, 104.0, 105.0, 107.0, 200.0, 202.0, 203.0])
    monkeypatch.setattr(speed_monitor.time, "perf_counter", lambda: next(now))
    module = SimpleNamespace(device=torch.device("cpu"), log=lambda *_, **__: None)
    trainer = SimpleNamespace(world_size=2)
    batch = {"image": torch.zeros(4, 1)}
    speed = SpeedMonitor(warmup_steps=1)
    speed.on_train_start(trainer, module)  # at 0
    speed.on_train_epoch_start(trainer, module)  # at 100
    for _ in range(3):  # batch there at 101, 103, 105: step done at 103, 104, 107
        speed.on_train_batch_start(trainer, module, batch, 0)
        speed.on_train_batch_end(trainer, module, None, batch, 0)
    speed.on_train_epoch_start(trainer, module)  # at 200, after a validation
    speed.on_train_batch_start(trainer, module, batch, 0)  # at 202
    speed.on_train_batch_end(trainer, module, None, batch, 0)  # at 203
    # The first step is warm-up. The others took 1, 3 and 3 seconds, of which 0, 1 and 2 were waiting.
    found = speed.summary(module.device)
    assert found["steps"] == 3
    assert found["images_per_s"] == pytest.approx(3 * 4 * 2 / 7)
    times = [found[f"step_ms_{name}"] for name in ("mean", "median", "p10", "p90")]
    assert times == pytest.approx([7000 / 3, 3000, 1400, 3000])
    assert found["data_wait_share"] == pytest.approx(3 / 7)
    speed.on_train_end(trainer, module)
    assert "43 % of the training time went into waiting for data; more data.workers" in caplog.text


@pytest.mark.slow
def test_performance_run_measures_and_writes_the_published_files(small, script, tmp_path):
    steps = ("trainer.max_steps=6", "callbacks.throughput_warmup_steps=2", "trainer.log_every_n_steps=1")
    done = script("train", *small, "experiment=performance", *steps, f"hydra.run.dir={tmp_path}")
    assert done.status == 0, done.err
    found = results(tmp_path)
    assert found["history"] == []  # no validation
    speed = found["performance"]
    assert speed["steps"] == 4
    assert speed["step_ms_p10"] <= speed["step_ms_median"] <= speed["step_ms_p90"]
    assert speed["images_per_s"] == pytest.approx(2 * 1000 / speed["step_ms_mean"])
    assert speed["peak_memory_mb"] > 100
    assert f"nothing was validated; {speed['images_per_s']:.2f} images/s; a step of" in done.out
    told = lines(tmp_path / "ICNet_bs2_1p_perf.log")
    assert list(told) == PUBLISHED_KEYS
    assert (told["RankSize"], told["BatchSize"], told["CaseName"]) == ("1", "2", "ICNet_bs2_1p_perf")
    assert float(told["ActualFPS"]) == pytest.approx(speed["images_per_s"], abs=0.006)
    assert float(told["TrainingTime"]) == pytest.approx(speed["step_ms_mean"], abs=0.006)
    assert told["TrainAccuracy"] == ""
    losses = [float(line) for line in (tmp_path / "ICNet_bs2_1p_perf_loss.txt").read_text().splitlines()]
    rows = csv.DictReader((tmp_path / "csv" / "metrics.csv").open())
    assert losses == pytest.approx([float(row["train/loss"]) for row in rows if row["train/loss"]], abs=1e-4)
    assert float(told["ActualLoss"]) == losses[-1]


NPU_ROWS = {
    "npu_lr0.08_s32_o1": (0.08, 32, "O1"),
    "npu_lr0.1_s32_o1": (0.1, 32, "O1"),
    "npu_lr0.11_s32_o1": (0.11, 32, "O1"),
    "npu_lr0.12_s32_o1": (0.12, 32, "O1"),
    "npu_lr0.1_s32_o2": (0.1, 32, "O2"),
    "npu_lr0.1_s128_o1": (0.1, 128, "O1"),
}
GPU_ROWS = {
    "gpu_lr0.06_s128_o1": (0.06, 128, "O1"),
    "gpu_lr0.08_s128_o1": (0.08, 128, "O1"),
    "gpu_lr0.1_s128_o1": (0.1, 128, "O1"),
    "gpu_lr0.08_s128_o2": (0.08, 128, "O2"),
}
"""The lr, loss scale and opt level of each published row."""


@pytest.mark.parametrize(
    ("table", "expected", "accelerator"), [("table_npu_8p", NPU_ROWS, "npu"), ("table_gpu_8p", GPU_ROWS, "gpu")]
)
def test_rows_of_a_table_compose_to_the_published_settings(table, expected, accelerator):
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        swept = compose("train", [f"experiment={table}"], return_hydra_config=True).hydra
        assert swept.sweep.dir == f"multirun/{table}"
        assert OmegaConf.to_container(swept.sweep, resolve=False)["subdir"] == "${hydra:runtime.choices.hparams}"
        assert swept.sweeper.params.hparams.split(",") == list(expected)
        for name, settings in expected.items():
            row = compose("train", [f"experiment={table}", f"hparams={name}", "output_dir=run"])
            config = OmegaConf.to_object(row)
            assert (config.optim.lr, config.amp.loss_scale, config.amp.opt_level) == settings
            plugin = precision_plugin(config.amp.opt_level, config.amp.loss_scale, "cpu")
            assert (plugin.opt_level, plugin.loss_scale) == (settings[2], settings[1])
            assert (config.trainer.accelerator, config.trainer.devices) == (accelerator, 8)
            assert (config.trainer.max_epochs, config.trainer.val_every_n_epochs) == (200, 0)
            assert (config.skip_finished, config.resume, config.callbacks.result_files) == (True, "here", "acc")


def rows_in_force(folder: Path) -> dict[str, tuple[float, float, str]]:
    """The lr, loss scale and opt level of each row, from what its run left."""
    inside = {}
    for run in (path for path in folder.iterdir() if path.is_dir()):
        saved = load_file(run / "checkpoints" / "last.ckpt")
        (lr,) = {group["initial_lr"] for group in saved["optimizer_states"][0]["param_groups"]}
        inside[run.name] = (lr, saved["amp"]["loss_scale"], saved["amp"]["opt_level"])
    return inside


@pytest.mark.slow
def test_table_runs_its_rows_goes_on_and_refuses_another_configuration(small, script, tmp_path):
    words = [word for word in small if not word.startswith(("optim.lr", "trainer.batch_size"))]
    trial = (
        "-m", "experiment=table_gpu_8p", *words, "trainer.batch_size=1", "trainer.max_epochs=1",
        "trainer.limit_train_batches=1", "trainer.limit_val_batches=1", "callbacks.pictures=0",
        f"hydra.sweep.dir={tmp_path}",
    )  # fmt: skip
    first = script("train", *trial)
    assert first.status == 0, first.err
    assert rows_in_force(tmp_path) == GPU_ROWS
    rows = {run.name: run for run in tmp_path.iterdir() if run.is_dir()}
    for name, run in rows.items():
        told = lines(run / "ICNet_bs1_1p_acc.log")
        assert told["TrainAccuracy"] == f"{100 * results(run)['history'][-1]['miou_running_mean']:.2f}", name
    with (tmp_path / "report.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    before = {name: (run / "results.json").read_bytes() for name, run in rows.items()}
    again = script("train", *trial)
    assert again.status == 0, again.err
    assert again.out.count("is done already") == 4
    assert {name: (run / "results.json").read_bytes() for name, run in rows.items()} == before
    other = script("train", *trial, "hparams=gpu_lr0.06_s128_o1", "trainer.max_epochs=2")
    assert other.status == 2
    assert "holds a run of another configuration (trainer.max_epochs was 1, is 2)" in other.err
    assert {name: (run / "results.json").read_bytes() for name, run in rows.items()} == before


@pytest.mark.slow
def test_finished_row_is_no_result_of_another_configuration_and_can_be_trained_again(small, script, tmp_path):
    words = ("skip_finished=true", "resume=here", "callbacks.result_files=acc", "trainer.max_epochs=1")
    run = (*small, *words, "callbacks.throughput_warmup_steps=1", f"hydra.run.dir={tmp_path}")
    first = script("train", *run)
    assert first.status == 0, first.err
    before = results(tmp_path)
    for word in (
        "trainer.accumulate_grad_batches=3", "callbacks.ema_decay=0.5", "model=icnet_resnet34",
        "trainer.gradient_clip_val=1.0", "data.val_split=train",
    ):  # fmt: skip
        other = script("train", *run, word)
        assert other.status == 2
        assert "holds a run of another configuration" in other.error
    same = script("train", *run, "callbacks.pictures=0", "logger=csv")  # nothing that a result depends on
    assert "is done already" in same.out
    assert results(tmp_path) == before
    again = script("train", *run, "skip_finished=false")
    assert again.status == 0, again.err
    assert results(tmp_path / "earlier_1") == before
    for kept in ("checkpoints/last.ckpt", "ICNet_bs2_1p_acc.log", "report.html"):
        assert (tmp_path / "earlier_1" / kept).exists(), kept
    assert (tmp_path / "train_0.log").exists()
    repeated = results(tmp_path)
    assert repeated["steps"] == before["steps"] == 3
    assert repeated["performance"]["steps"] == 2
    assert repeated["final_miou"] == before["final_miou"]  # trained once more, from the same seed
    (tmp_path / "results.json").write_text('{"status": "do')  # cut off while it was written
    resumed = script("train", *run)
    assert resumed.status == 0, resumed.err
    whole = results(tmp_path)  # nothing was left to train, so what was measured then still stands
    assert whole["performance"] == repeated["performance"]
    assert float(lines(tmp_path / "ICNet_bs2_1p_acc.log")["ActualFPS"]) > 0


@pytest.mark.slow
def test_speed_without_a_timed_step_is_left_out_and_said(small, script, tmp_path):
    steps = ("trainer.max_steps=2", "callbacks.result_files=perf", "trainer.limit_val_batches=0")
    done = script("train", *small, *steps, f"hydra.run.dir={tmp_path}")
    assert done.status == 0, done.err
    told = lines(tmp_path / "ICNet_bs2_1p_perf.log")
    assert (told["ActualFPS"], told["TrainingTime"]) == ("", "")
    assert told["ActualLoss"] == f"{results(tmp_path)['train_loss']:.4f}"
    log = (tmp_path / "train_0.log").read_text()
    assert "images/s was not measured: 2 steps are no more than callbacks.throughput_warmup_steps=10" in log


@pytest.mark.slow
def test_losses_of_a_resumed_run_are_all_in_its_file(small, script, tmp_path):
    run = (*small, "trainer.log_every_n_steps=1", "callbacks.result_files=acc", f"hydra.run.dir={tmp_path}")
    for epochs in (1, 2):
        done = script("train", *run, "resume=auto", f"trainer.max_epochs={epochs}")
        assert done.status == 0, done.err
    losses = [float(line) for line in (tmp_path / "ICNet_bs2_1p_acc_loss.txt").read_text().splitlines()]
    rows = [row for path in sorted(tmp_path.glob("csv*/metrics.csv")) for row in csv.DictReader(path.open())]
    assert losses == pytest.approx([float(row["train/loss"]) for row in rows if row["train/loss"]], abs=1e-4)
    assert len(losses) == 6


def test_script_names_of_the_described_system(tmp_path):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    fake.chmod(0o755)
    expected = {
        "train_full_1p.sh": ("train.py", "experiment=full", "trainer=npu_1p"),
        "train_full_8p.sh": ("train.py", "experiment=full", "trainer=npu_8p", "optim.lr=0.1"),
        "train_performance_1p.sh": ("train.py", "experiment=performance", "trainer=npu_1p"),
        "train_performance_8p.sh": ("train.py", "experiment=performance", "trainer=npu_8p", "optim.lr=0.1"),
        "train_eval_8p.sh": ("eval.py", "trainer=npu_8p"),
        "train_1p.sh": ("train.py", "experiment=full", "trainer=npu_1p"),
        "train_8p.sh": ("train.py", "experiment=full", "trainer=npu_8p", "optim.lr=0.1"),
        "eval.sh": ("eval.py", "trainer=npu_1p", "save_pictures=true"),
    }
    assert {path.name for path in (ROOT / "scripts").glob("*.sh")} == {*expected, "run.sh"}
    for name, (script, *words) in expected.items():
        done = subprocess.run(
            ["bash", ROOT / "scripts" / name, "--data_path=/data/city scapes", "optim.lr=0.2"],
            capture_output=True, text=True, check=True, env={**os.environ, "PYTHON": str(fake)},
        )  # fmt: skip
        assert done.stdout.splitlines() == [str(ROOT / script), *words, "data.root='/data/city scapes'", "optim.lr=0.2"]
    for folder in ("/数据/城市", "/data/a,b=c (x)[1]", "/data/it's", "/data/plain"):
        done = subprocess.run(
            ["bash", ROOT / "scripts" / "eval.sh", f"--data_path={folder}"],
            capture_output=True, text=True, check=True, env={**os.environ, "PYTHON": str(fake)},
        )  # fmt: skip
        (word,) = [line for line in done.stdout.splitlines() if line.startswith("data.root=")]
        assert OverridesParser.create().parse_override(word).value() == folder
    wrong = subprocess.run(
        ["bash", ROOT / "scripts" / "eval.sh", "--data=x"], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
    assert "--data=x is unknown; give --data_path=FOLDER" in wrong.stderr
