"""train.py from the outside: what a run leaves behind, and that it survives what happens to long runs."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from icnet.models.weight_files import load_file
from tests.scripts import ScriptProcess

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path)["state_dict"]


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    different = [key for key in first if not torch.equal(first[key], second[key])]
    assert different == []


def start(*overrides: object, cwd: Path) -> ScriptProcess:
    return ScriptProcess("train", *overrides, cwd=cwd)


def wait_for(condition, process: ScriptProcess, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_run_folder_holds_everything_of_the_run(trained):
    for path in (
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "results.json",
        "csv/metrics.csv",
        "train_0.log",
        "report.html",
    ):
        assert (trained / path).is_file(), path
    assert (trained / ".hydra" / "config.yaml").is_file()
    assert len(list((trained / "pictures").glob("*.jpg"))) == 2  # one image in each of two validations


def test_results_file_agrees_with_the_log(trained):
    results = json.loads((trained / "results.json").read_text())
    assert results["status"] == "done"
    assert results["data"] == "street (synthetic)"
    assert results["model"] == "icnet_resnet18"
    assert results["epochs"] == 2
    assert results["steps"] == 2 * 3  # six scenes in batches of two
    assert [entry["epoch"] for entry in results["history"]] == [1, 2]
    mious = [entry["miou"] for entry in results["history"]]
    assert results["final_miou"] == mious[-1]
    assert results["best_miou"] == max(mious)
    assert results["best_epoch"] == mious.index(max(mious)) + 1
    present = [iou for iou in results["iou"].values() if iou is not None]
    assert results["final_miou"] == pytest.approx(sum(present) / len(present), abs=1e-6)
    confusion = torch.tensor(results["confusion"])
    assert confusion.diagonal().sum() / confusion.sum() == pytest.approx(results["pixel_acc"], abs=1e-6)
    assert "Confusion matrix" in (trained / "report.html").read_text()
    assert results["config"]["optim"]["lr"] == 0.01
    assert results["seed"] == 1
    assert results["versions"]["torch"].startswith("2.")
    assert results["images_per_s"] > 0


def test_checkpoint_is_plain_and_says_what_it_is(trained):
    content = load_file(trained / "checkpoints" / "best.ckpt")  # weights_only: would refuse anything but plain values
    meta = content["icnet"]
    assert meta["model"] == {
        "name": "icnet",
        "options": {"backbone": "resnet18", "quarter_branch": "image", "enlarge": 1},
        "num_classes": 19,
    }
    assert meta["classes"]["names"][0] == "road"
    assert meta["data"]["name"] == "street"
    assert meta["data_title"] == "street (synthetic)"
    assert all(tensor.device.type == "cpu" for tensor in content["state_dict"].values())


def test_learning_rate_is_logged_for_each_group(trained):
    header = (trained / "csv" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"lr-SGD/backbone", "lr-SGD/head", "train/loss", "train/loss_sub4"} <= set(header)
    assert {"val/miou", "val/loss", "val/pixel_acc", "val/miou_running_mean", "val/iou_road"} <= set(header)


def test_killed_run_resumed_equals_an_uninterrupted_one(small, process, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    common = (*small, "trainer.max_epochs=3", "trainer.log_every_n_steps=1", "callbacks.pictures=0")
    assert process("train", *common, f"hydra.run.dir={whole}", cwd=tmp_path).status == 0
    started = start(*common, f"hydra.run.dir={broken}", cwd=tmp_path)
    # SIGKILL once the second epoch has begun: a checkpoint of the first is there and steps were made since.
    last = broken / "checkpoints" / "last.ckpt"
    wait_for(last.exists, started)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert started.returncode == -signal.SIGKILL
    assert load_file(last)["epoch"] < 2  # there is something left to do
    resumed = start(*common, f"hydra.run.dir={broken}", "resume=auto", cwd=tmp_path)
    _, errors = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, errors
    assert_same_weights(whole / "checkpoints" / "last.ckpt", last)
    log = (broken / "train_0.log").read_text()
    assert "going on from" in log
    assert "another length" not in log
    results = [json.loads((run / "results.json").read_text()) for run in (whole, broken)]
    assert [entry["miou"] for entry in results[0]["history"]] == [entry["miou"] for entry in results[1]["history"]]


@pytest.mark.parametrize(
    "extra",
    [
        ("trainer.accumulate_grad_batches=4",),
        ("callbacks.ema_decay=0.9", "data.workers=2", "scheduler=poly"),
    ],
)
def test_terminated_run_saves_in_mid_epoch_and_goes_on_from_there(small, process, tmp_path, extra):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    common = (
        *small, *extra, "trainer.batch_size=1", "trainer.max_epochs=4", "trainer.log_every_n_steps=1",
        "callbacks.pictures=0",
    )  # fmt: skip
    assert process("train", *common, f"hydra.run.dir={whole}", cwd=tmp_path).status == 0
    log = broken / "train_0.log"
    started = start(*common, f"hydra.run.dir={broken}", cwd=tmp_path)
    wait_for(lambda: "training icnet" in log.read_text() if log.exists() else False, started)
    started.send_signal(signal.SIGTERM)
    _, errors = started.communicate(timeout=100)
    assert started.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in errors
    last = broken / "checkpoints" / "last.ckpt"
    steps = load_file(last)["global_step"]
    assert 0 < steps < (8 if "accumulate" in extra[0] else 24)
    resumed = start(*common, f"hydra.run.dir={broken}", f"resume={last}", cwd=tmp_path)
    _, errors = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, errors
    assert_same_weights(whole / "checkpoints" / "last.ckpt", last)


def test_full_disk_keeps_the_previous_checkpoint(small, process, tmp_path):
    run = tmp_path / "run"
    first = process("train", *small, "trainer.max_epochs=1", f"hydra.run.dir={run}", cwd=tmp_path)
    assert first.status == 0, first.err
    last = run / "checkpoints" / "last.ckpt"
    before = last.read_bytes()

    def no_large_files() -> None:  # the kernel refuses to write beyond 1 MiB, as it would on a full disk
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    second = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *small, f"hydra.run.dir={run}", f"resume={last}"],
        capture_output=True, text=True, check=False, cwd=tmp_path, preexec_fn=no_large_files,
    )  # fmt: skip
    assert second.returncode == 2, second.stderr
    errors = [line for line in second.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "could not be written" in errors[0]
    assert "the previous" in errors[0]
    assert last.read_bytes() == before
    assert not list(run.glob("checkpoints/.*"))


def test_loss_that_is_no_number_stops_the_run_and_names_the_last_good_checkpoint(small, script, tmp_path):
    good = script("train", *small, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path / 'run'}")
    assert good.status == 0, good.err
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    worse = ("loss.sub4_weight=1e39", "trainer.max_epochs=3")  # more than float32 holds
    bad = script("train", *small, f"hydra.run.dir={tmp_path / 'run'}", f"resume={last}", *worse)
    assert bad.status == 2
    assert "the loss became inf at step 4 (epoch 2, lr 0.005)" in bad.error  # three steps an epoch, warm-up of three
    assert f"the last good checkpoint is {last}" in bad.error
    assert last.read_bytes() == before


def test_multirun_trains_each_value_and_prints_a_table(small, process, tmp_path):
    done = process(
        "train", "-m", *small, "trainer.max_epochs=1", "optim.lr=0.08,0.1,0.11",
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
        cwd=tmp_path, env={**os.environ, "COLUMNS": "160"},
    )  # fmt: skip
    assert done.status == 0, done.err
    results = [json.loads((tmp_path / "sweep" / str(n) / "results.json").read_text()) for n in range(3)]
    assert [result["config"]["optim"]["lr"] for result in results] == [0.08, 0.1, 0.11]
    table = done.out[done.out.index("3 runs on street (synthetic)") :]
    for result in results:
        row = next(line for line in table.splitlines() if f" {result['config']['optim']['lr']} " in line)
        assert f"{100 * result['best_miou']:.1f}" in row


def test_fine_tuning_to_other_classes_keeps_all_but_the_classifiers(small, script, trained, camvid_like, tmp_path):
    done = script(
        "train", "data=camvid", *[word for word in small if not word.startswith("data")], f"data.root={camvid_like}",
        "data.crop_size=[64,64]", "data.scale_range=[64,96]", "data.workers=0", "trainer.max_epochs=1",
        f"model.weights={trained / 'checkpoints' / 'best.ckpt'}", f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert done.status == 0, done.err
    log = (tmp_path / "run" / "train_0.log").read_text()
    assert "has 19 classes and this run 11" in log
    assert weights(tmp_path / "run" / "checkpoints" / "last.ckpt")["net.classifier.weight"].shape[0] == 11


def test_early_stopping_ends_a_run_that_no_longer_gains(small, script, tmp_path):
    done = script(
        "train", *small, f"hydra.run.dir={tmp_path / 'run'}", "trainer.max_epochs=30", "optim.lr=1e-12",
        "callbacks.early_stop_patience=1", "callbacks.pictures=0",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert json.loads((tmp_path / "run" / "results.json").read_text())["epochs"] < 30


def test_two_processes_train_one_network_and_validate_it_like_one(small, process, script, tmp_path, count_alike):
    overrides = [word for word in small if word != "trainer=cpu_1p"]
    done = process("train", *overrides, "trainer=cpu_2p", "trainer.batch_size=1", f"hydra.run.dir={tmp_path / 'two'}")
    assert done.status == 0, done.err
    results = json.loads((tmp_path / "two" / "results.json").read_text())
    assert results["devices"] == 2
    assert (tmp_path / "two" / "train_0.log").read_text().count("epoch 2/2 on street (synthetic)") == 1  # rank 0 only
    assert results["steps"] == 2 * 3  # six scenes, two processes, batches of one, two epochs
    ckpt = tmp_path / "two" / "checkpoints" / "last.ckpt"
    scored = script("eval", f"ckpt={ckpt}", "trainer=cpu_1p", "trainer.progress_bar=false", f"hydra.run.dir={tmp_path}")
    assert scored.status == 0, scored.err
    alone = json.loads((tmp_path / "results.json").read_text())
    assert count_alike(alone, results)  # a process with statistics of its own would be far off


def test_mistake_found_in_the_processes_of_a_group_is_one_line(small, process, tmp_path):
    done = process(
        "train", *small, "trainer.sync_batchnorm=true", "trainer.devices=2", f"hydra.run.dir={tmp_path / 'run'}"
    )
    assert done.status == 2
    assert "trainer.sync_batchnorm=true needs several accelerators" in done.error


def test_new_run_in_a_used_folder_is_refused(small, script, trained):
    before = (trained / "results.json").read_bytes()
    done = script("train", *small, f"hydra.run.dir={trained}")
    assert done.status == 2
    assert "resume=auto" in done.error
    assert (trained / "results.json").read_bytes() == before


def test_resumed_run_keeps_curves_scores_and_best_checkpoint(small, script, trained, tmp_path):
    first = json.loads((trained / "results.json").read_text())
    last = trained / "checkpoints" / "last.ckpt"
    done = script(
        "train", *small, f"resume={last}", "trainer.max_epochs=3", "loss.sub124_weight=0.5",
        f"hydra.run.dir={tmp_path / 'on'}",
    )  # fmt: skip
    assert done.status == 0, done.err
    results = json.loads((tmp_path / "on" / "results.json").read_text())
    assert results["history"][:2] == first["history"]
    assert "loss.weights.sub124 was 1.0, is 0.5" in (tmp_path / "on" / "train_0.log").read_text()
    best = load_file(tmp_path / "on" / "checkpoints" / "best.ckpt")
    assert best["epoch"] + 1 == results["best_epoch"]
    again = script("train", *small, "resume=auto", "trainer.max_epochs=4", f"hydra.run.dir={tmp_path / 'on'}")
    assert again.status == 0, again.err
    curves = sorted((tmp_path / "on").glob("csv*/metrics.csv"))
    assert len(curves) == 2  # the earlier part's were not deleted
    finished = json.loads((tmp_path / "on" / "results.json").read_text())
    nothing = script("train", *small, "resume=auto", "trainer.max_epochs=4", f"hydra.run.dir={tmp_path / 'on'}")
    assert nothing.status == 0, nothing.err
    untouched = json.loads((tmp_path / "on" / "results.json").read_text())
    for key in ("train_loss", "images_per_s", "final_miou", "best_miou", "best_epoch", "confusion"):
        assert untouched[key] == finished[key] is not None


def test_resume_auto_takes_no_run_of_another_configuration(small, script, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old = tmp_path / "outputs" / "old" / "checkpoints"
    old.mkdir(parents=True)
    (old / "last.ckpt").write_bytes((trained / "checkpoints" / "last.ckpt").read_bytes())
    other = script(
        "train", *small, "resume=auto", "seed=7", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path / 'other'}"
    )
    assert other.status == 0, other.err
    assert "the run starts anew" in (tmp_path / "other" / "train_0.log").read_text()
    same = script("train", *small, "resume=auto", "trainer.max_epochs=2", f"hydra.run.dir={tmp_path / 'same'}")
    assert same.status == 0, same.err
    assert "going on from outputs/old/checkpoints/last.ckpt" in (tmp_path / "same" / "train_0.log").read_text()


def test_sweep_goes_on_when_one_job_fails(small, script, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    done = script(
        "train", "-m", *small, "trainer.max_epochs=1", "callbacks.pictures=0",
        "loss.sub4_weight=0.4,1e39,0.2", f"hydra.sweep.dir={tmp_path / 'sweep'}",
    )  # fmt: skip
    assert done.status == 2
    assert "job 1" in done.error
    assert "the loss became inf" in done.error
    table = done.out[done.out.index("3 runs on street (synthetic)") :]
    rows = [line.split() for line in table.splitlines() if line[1:3] in {"0 ", "1 ", "2 "}]
    assert [(row[0], row[-1]) for row in rows] == [("0", "done"), ("1", "failed"), ("2", "done")]


def test_every_opt_level_trains_the_shortened_quickstart_as_float32_does(script, tmp_path):
    shortened = (
        "experiment=quickstart", "trainer=cpu_1p", "data.street.train=4", "data.street.val=2", "data.street.height=64",
        "data.street.width=128", f"data.root={tmp_path / 'scenes'}", "data.crop_size=[64,64]",
        "data.scale_range=[64,96]", "data.workers=0", "trainer.batch_size=2", "trainer.max_epochs=3",
        "trainer.val_every_n_epochs=3", "trainer.progress_bar=false", "trainer.log_every_n_steps=1",
        "callbacks.pictures=0", "logger.tensorboard=false", "loss.class_weights=null",  # so that the loss soon falls
    )  # fmt: skip

    def losses(kind: str, *words: str) -> dict[str, list[float]]:
        found = {}
        for sweep, levels in (("plain", ("amp=o0,bf16",)), ("scaled", ("amp=o1,o2", "amp.loss_scale=128"))):
            folder = tmp_path / f"{kind}_{sweep}"
            done = script("train", "-m", *shortened, *levels, *words, f"hydra.sweep.dir={folder}")
            assert done.status == 0, done.err
            for run in (folder / "0", folder / "1"):
                level = json.loads((run / "results.json").read_text())["opt_level"]
                rows = csv.DictReader((run / "csv" / "metrics.csv").open())
                found[level] = [float(row["train/loss"]) for row in rows if row["train/loss"]]
        assert found.keys() == {"O0", "O1", "O2", "bf16"}
        return found

    anew = losses("anew", "scheduler=cosine", "scheduler.warmup_epochs=1")
    # Two trainings drift apart, on each CPU in its own way: a later step is compared from the weights of float32.
    float32 = tmp_path / "anew_plain" / "0" / "checkpoints" / "last.ckpt"
    later = losses("later", f"resume={float32}", "trainer.max_steps=7", "trainer.max_epochs=4", "scheduler=constant")
    for level, found in anew.items():
        assert found[-1] < 0.75 * found[0], level
        for each in (found, later[level]):
            plain = (anew if each is found else later)["O0"]
            assert each[0] == pytest.approx(plain[0], rel=0.005), level
            assert level == "O0" or each != plain
