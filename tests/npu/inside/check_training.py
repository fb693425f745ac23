"""The scripts on one simulated NPU, compared with the CPU; run by tests/npu/test_inside.py in the simulation."""

import csv
import json
from pathlib import Path

import pytest
import torch

from tests.conftest import SMALL

COMMON = (*(word for word in SMALL if not word.startswith("trainer=")), "callbacks.pictures=0")
# A larger lr would compare the chaos of rounding: two threads and one differ by 1e-3 after twenty steps at 0.001.
STEPS = ("trainer.max_epochs=7", "trainer.log_every_n_steps=1", "scheduler=constant", "trainer.val_every_n_epochs=7")


# CPU kernels take twenty times as long in float16 as in float32: three steps must do, and no validation.
HALF_STEPS = (
    "trainer=npu_1p", "trainer.batch_size=2", "trainer.max_epochs=1", "trainer.log_every_n_steps=1",
    "trainer.limit_val_batches=0", "callbacks.checkpoint_every_n_steps=1",
)  # fmt: skip


def losses(run: Path) -> list[float]:
    rows = csv.DictReader((run / "csv" / "metrics.csv").open())
    return [float(row["train/loss"]) for row in rows if row.get("train/loss")]


def results(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def train(script, street_root, runs):
    """Train into a folder of this session, unless it was done already; returns the folder."""

    def run(name: str, *overrides: str) -> Path:
        folder = runs / name
        if not folder.exists():
            done = script("train", *COMMON, f"data.root={street_root}", *overrides, f"hydra.run.dir={folder}")
            assert done.status == 0, done.err
        return folder

    return run


def test_twenty_steps_on_an_npu_equal_those_on_the_cpu(train):
    on_npu = train("npu_o0", "trainer=npu_1p", "trainer.batch_size=2", *STEPS, "optim.lr=1e-5")
    on_cpu = train("cpu_o0", "trainer=cpu_1p", "trainer.batch_size=2", *STEPS, "optim.lr=1e-5")
    at_rest = train("cpu_rest", "trainer=cpu_1p", "trainer.batch_size=2", *STEPS, "optim.lr=1e-12")
    assert results(on_npu)["device"].startswith("Ascend910B")
    assert len(losses(on_npu)) == 21
    assert losses(on_npu) == pytest.approx(losses(on_cpu), rel=1e-5)
    assert losses(on_npu)[-1] < (1 - 1e-3) * losses(at_rest)[-1]  # the steps count for far more than the tolerance
    assert results(on_npu)["final_miou"] == pytest.approx(results(on_cpu)["final_miou"], abs=1e-4)


def test_checkpoint_of_an_npu_opens_anywhere(train):
    path = (
        train("npu_o0", "trainer=npu_1p", "trainer.batch_size=2", *STEPS, "optim.lr=1e-5") / "checkpoints" / "last.ckpt"
    )
    tensors = []
    torch.utils._pytree.tree_map_only(torch.Tensor, tensors.append, torch.load(path, weights_only=True))
    assert {tensor.device.type for tensor in tensors} == {"cpu"}


@pytest.mark.parametrize(
    ("name", "overrides"), [("o1", ("amp=o1", "amp.loss_scale=32")), ("o2", ("amp=o2", "amp.loss_scale=128"))]
)
def test_opt_level_with_a_fixed_scale_follows_float32(train, name, overrides):
    level, full = (train(folder, *HALF_STEPS, *extra) for folder, extra in ((name, overrides), ("o0_short", ())))
    # float16 has 11 bits: 5e-4 per operation, which a network this deep multiplies in three steps.
    assert losses(level) == pytest.approx(losses(full), rel=0.02)
    assert losses(level) != losses(full)
    assert results(level)["opt_level"] == name.upper()
    assert results(level)["skipped_steps"] == 0
    assert (
        f"mixed precision {name.upper()}, loss scale fixed at {overrides[1][15:]}"
        in (level / "train_0.log").read_text()
    )


@pytest.mark.parametrize("name", ["o1", "o2"])
def test_dynamic_scale_finds_its_way_down(train, name):
    run = train(f"{name}_dynamic", *HALF_STEPS, f"amp={name}")
    found = results(run)
    assert found["loss_scale"] == 2.0 ** (16 - found["skipped_steps"])
    assert (run / "train_0.log").read_text().count("skipped: a gradient overflowed") == found["skipped_steps"]


def test_o2_resumed_equals_uninterrupted(train):
    whole = train("o2", *HALF_STEPS, "amp=o2", "amp.loss_scale=128")
    half = train("o2_half", *HALF_STEPS, "amp=o2", "amp.loss_scale=128", "trainer.max_steps=2")
    last = half / "checkpoints" / "last.ckpt"
    resumed = train("o2_resumed", *HALF_STEPS, "amp=o2", "amp.loss_scale=128", f"resume={last}")
    one, other = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (whole, resumed)
    )
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_fused_sgd_trains_as_sgd_does(train):
    fused = train(
        "fused", "trainer=npu_1p", "trainer.batch_size=2", "trainer.max_epochs=2", "optim=npu_fused_sgd",
        "trainer.log_every_n_steps=1",
    )  # fmt: skip
    plain = train(
        "plain", "trainer=npu_1p", "trainer.batch_size=2", "trainer.max_epochs=2", "trainer.log_every_n_steps=1"
    )
    assert losses(fused) == pytest.approx(losses(plain), rel=1e-5)


def test_loader_workers_feed_an_npu(train):
    here = train(
        "plain", "trainer=npu_1p", "trainer.batch_size=2", "trainer.max_epochs=2", "trainer.log_every_n_steps=1"
    )
    workers = train(
        "workers", "trainer=npu_1p", "trainer.batch_size=2", "trainer.max_epochs=2", "trainer.log_every_n_steps=1",
        "data.workers=2", "callbacks.device_stats=true",
    )  # fmt: skip
    assert losses(workers) == pytest.approx(losses(here), rel=1e-6)


def test_evaluation_export_and_demo_on_an_npu(train, script, street_root, runs):
    run = train("npu_o0", "trainer=npu_1p", "trainer.batch_size=2", *STEPS, "optim.lr=1e-5")
    ckpt = run / "checkpoints" / "last.ckpt"
    done = script(
        "eval", f"ckpt={ckpt}", "trainer=npu_1p", "trainer.progress_bar=false", f"hydra.run.dir={runs / 'eval'}"
    )
    assert done.status == 0, done.err
    scores = results(runs / "eval")
    assert scores["device"].startswith("Ascend910B")
    assert scores["miou"] == pytest.approx(results(run)["final_miou"], abs=1e-3)  # BatchNorm is folded here
    file = runs / "ICNet.onnx"
    done = script("export", f"ckpt={ckpt}", f"output={file}", "export.height=64", "export.width=128")
    assert done.status == 0, done.err
    scenes = street_root / "leftImg8bit" / "val"
    pictures = {}
    for device in ("npu:1", "cpu"):
        output = runs / device.replace(":", "")
        done = script("demo", f"ckpt={ckpt}", f"input={scenes}", f"output={output}", f"device={device}")
        assert done.status == 0, done.err
        pictures[device] = {path.name: path.read_bytes() for path in output.rglob("*_ids.png")}
    assert pictures["npu:1"]
    assert pictures["npu:1"] == pictures["cpu"]
