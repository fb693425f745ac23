"""The scripts on one simulated NPU, compared with the CPU; run by tests/npu/test_inside.py in the simulation."""

import csv
import json
from pathlib import Path

import cv2
import pytest
import torch

from tests.conftest import SMALL

COMMON = (*(word for word in SMALL if not word.startswith("trainer=")), "callbacks.pictures=0")
ONE_NPU = ("trainer=npu_1p", "trainer.batch_size=2", "trainer.log_every_n_steps=1")
TWO_EPOCHS = (*ONE_NPU, "trainer.max_epochs=2")
# Two trainings that round otherwise drift apart, on some CPUs a hundred times as fast as on others. What can be
# compared is each step alone, from the same weights: hence runs of one step that go on from a checkpoint.
ONE_STEP = (
    "trainer.batch_size=2", "trainer.log_every_n_steps=1", "scheduler=constant", "trainer.limit_val_batches=0",
    "callbacks.checkpoint_every_n_steps=1",
)  # fmt: skip


# Float16 is the slowest thing that the simulation does: three steps must do, and no validation.
HALF_STEPS = (*ONE_NPU, "trainer.max_epochs=1", "trainer.limit_val_batches=0", "callbacks.checkpoint_every_n_steps=1")


def losses(run: Path) -> list[float]:
    rows = csv.DictReader((run / "csv" / "metrics.csv").open())
    return [float(row["train/loss"]) for row in rows if row.get("train/loss")]


def last(run: Path) -> Path:
    return run / "checkpoints" / "last.ckpt"


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The network's parameters as one vector, and BatchNorm's means and variances as two others."""
    tensors = torch.load(checkpoint, weights_only=True)["state_dict"]
    found: dict[str, list[torch.Tensor]] = {"parameters": [], "running_mean": [], "running_var": []}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            last_word = name.rpartition(".")[2]
            found[last_word if last_word in found else "parameters"].append(tensor.double().flatten())
    return {kind: torch.cat(vectors) for kind, vectors in found.items()}


def assert_same_step(ours: Path, theirs: Path, start: Path, share: float) -> None:
    """Two steps from the same weights differ by no more than a share of the step."""
    one, other, before = weights(ours), weights(theirs), weights(start)
    for kind, vector in other.items():
        moved = (vector - before[kind]).norm()
        assert moved > 0
        assert (one[kind] - vector).norm() < share * moved, kind


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


# The last of four steps is of the second epoch; from two on, what a step changes is compared, from one on its loss.
@pytest.mark.parametrize(
    ("model", "last_step"),
    [("", 4), ("icnet_lite0", 2), ("icnet_mmseg_resnet18", 1), ("icnet_zh320_resnet18", 1), ("icnet_paper", 1)],
)
def test_each_step_on_an_npu_equals_the_one_on_the_cpu_from_the_same_weights(train, model, last_step):
    before: Path | None = None
    for step in range(1, last_step + 1):
        steps = (*ONE_STEP, f"trainer.max_steps={step}", *([f"resume={before}"] if before else []))
        if model:
            steps += (f"model={model}",)
        on_npu, on_cpu = (train(f"{kind}{model}_step_{step}", f"trainer={kind}_1p", *steps) for kind in ("npu", "cpu"))
        assert results(on_npu)["device"].startswith("Ascend910B")
        assert results(on_cpu)["device"].startswith("CPU")
        assert len(losses(on_npu)) == 1
        # Its 50 layers make 1e-5 of a change of 1e-7 in the weights.
        assert losses(on_npu) == pytest.approx(losses(on_cpu), rel=1e-4 if model == "icnet_paper" else 1e-5)
        if before:
            assert_same_step(last(on_npu), last(on_cpu), before, 0.03)  # seen: 0.004, where rounding turns a ReLU on
        before = last(on_npu)


def test_checkpoint_of_an_npu_opens_anywhere(train):
    path = last(train("plain", *TWO_EPOCHS))
    tensors = []
    torch.utils._pytree.tree_map_only(torch.Tensor, tensors.append, torch.load(path, weights_only=True))
    assert {tensor.device.type for tensor in tensors} == {"cpu"}


@pytest.mark.parametrize(
    ("name", "overrides"), [("o1", ("amp=o1", "amp.loss_scale=32")), ("o2", ("amp=o2", "amp.loss_scale=128"))]
)
def test_each_step_of_an_opt_level_follows_the_one_of_float32_from_the_same_weights(train, name, overrides):
    before: Path | None = None
    for step in (1, 2, 3):
        steps = ("trainer=npu_1p", *ONE_STEP, f"trainer.max_steps={step}", *([f"resume={before}"] if before else []))
        level, full = train(f"{name}_step_{step}", *steps, *overrides), train(f"npu_step_{step}", *steps)
        # float16 has 11 bits: 5e-4 per operation, which a network this deep multiplies.
        assert losses(level) == pytest.approx(losses(full), rel=0.01)
        assert losses(level) != losses(full)
        if before:
            assert_same_step(last(level), last(full), before, 0.2)  # seen: 0.13
        assert results(level)["opt_level"] == name.upper()
        assert results(level)["skipped_steps"] == 0
        told = f"mixed precision {name.upper()}, loss scale fixed at {overrides[1][15:]}"
        assert told in (level / "train_0.log").read_text()
        before = last(full)


@pytest.mark.parametrize("name", ["o1", "o2"])
def test_dynamic_scale_finds_its_way_down(train, name):
    run = train(f"{name}_dynamic", *HALF_STEPS, f"amp={name}")
    found = results(run)
    assert found["loss_scale"] == 2.0 ** (16 - found["skipped_steps"])
    assert (run / "train_0.log").read_text().count("skipped: a gradient overflowed") == found["skipped_steps"]


def test_o2_resumed_equals_uninterrupted(train):
    whole = train("o2", *HALF_STEPS, "amp=o2", "amp.loss_scale=128")
    half = train("o2_half", *HALF_STEPS, "amp=o2", "amp.loss_scale=128", "trainer.max_steps=2")
    resumed = train("o2_resumed", *HALF_STEPS, "amp=o2", "amp.loss_scale=128", f"resume={last(half)}")
    one, other = (torch.load(last(run), weights_only=True)["state_dict"] for run in (whole, resumed))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_fused_sgd_trains_as_sgd_does(train):
    steps = ("trainer=npu_1p", *ONE_STEP, "trainer.max_steps=2")  # of which the second has momentum
    fused, plain = train("fused", *steps, "optim=npu_fused_sgd"), train("unfused", *steps)
    assert losses(fused) == pytest.approx(losses(plain), rel=1e-5)
    start = train("npu_step_1", "trainer=npu_1p", *ONE_STEP, "trainer.max_steps=1")
    assert_same_step(last(fused), last(plain), last(start), 1e-3)


def test_loader_workers_feed_an_npu(train):
    here = train("plain", *TWO_EPOCHS)
    workers = train("workers", *TWO_EPOCHS, "data.workers=2", "callbacks.device_stats=true")
    assert losses(workers) == pytest.approx(losses(here), rel=1e-6)


def test_evaluation_export_and_demo_on_an_npu(train, script, street_root, runs, count_alike):
    run = train("plain", *TWO_EPOCHS)
    ckpt = last(run)
    done = script(
        "eval", f"ckpt={ckpt}", "trainer=npu_1p", "trainer.progress_bar=false", f"hydra.run.dir={runs / 'eval'}"
    )
    assert done.status == 0, done.err
    scores = results(runs / "eval")
    assert scores["device"].startswith("Ascend910B")
    assert count_alike(scores, results(run))
    file = runs / "ICNet.onnx"
    done = script("export", f"ckpt={ckpt}", f"output={file}", "export.height=64", "export.width=128")
    assert done.status == 0, done.err
    scenes = street_root / "leftImg8bit" / "val"
    pictures = {}
    for device in ("npu:1", "cpu"):
        output = runs / device.replace(":", "")
        done = script("demo", f"ckpt={ckpt}", f"input={scenes}", f"output={output}", f"device={device}")
        assert done.status == 0, done.err
        pictures[device] = {path.name: cv2.imread(str(path), -1) for path in output.rglob("*_ids.png")}
    assert len(pictures["npu:1"]) == len(pictures["cpu"]) == 3
    for name, ids in pictures["npu:1"].items():
        assert (ids != pictures["cpu"][name]).sum() <= 5  # a tie or two may round otherwise
