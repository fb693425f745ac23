"""Every benchmark runs, at a size at which its figures mean nothing."""

import contextlib
import importlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

import icnet
from benchmarks import contention, first_step, reference
from icnet.data import street
from icnet.data.labels import LABEL_ID_TO_TRAIN_ID
from icnet.models import build_network

TINY = ("--height", "64", "--width", "64", "--backbone", "resnet18")
ONCE = ("--repeats", "1", "--threads", "1")

pytestmark = pytest.mark.slow

CLONE = {
    "models/icnet.py": """
from icnet.models import icnet

NAMES = {names!r}


class ICNet(icnet.ICNet):
    def __init__(self, nclass, backbone, pretrained_base):
        assert not pretrained_base
        super().__init__(nclass, backbone)

    def forward(self, image):
        logits = super().forward(image)
        return tuple(logits.values()) if self.training else (logits,)

    def state_dict(self):
        return {{NAMES[key]: value for key, value in super().state_dict().items()}}
""",
    "utils/loss.py": """
from torch.nn.functional import cross_entropy, interpolate


class ICNetLoss:
    def __call__(self, outputs, target):
        sized = (interpolate(logits, target.shape[1:], mode="bilinear") for logits in outputs)
        return sum(cross_entropy(logits, target, ignore_index=-1) for logits in sized)
""",
    "dataset/__init__.py": """
import torch
from torchvision import transforms

from .customization import CustomizedDataset


class CityscapesDataset(list):
    def __init__(self, root, split, base_size, crop_size):
        assert (split, base_size, crop_size) == ("train", 1024, 960)
        super().__init__([transforms.ToTensor()(torch.zeros(8, 8, 3, dtype=torch.uint8).numpy())])
""",
}
"""What a clone of the reference offers to the benchmarks; not its code."""


@pytest.fixture(autouse=True)
def _restore_process():
    """Threads, random numbers and imported modules are as they were afterwards."""
    threads, modules, cudnn = torch.get_num_threads(), set(sys.modules), torch.backends.cudnn.benchmark
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = cudnn
    for name in set(sys.modules) - modules:
        if name.split(".")[0] in {"models", "utils", "dataset"}:
            del sys.modules[name]


@pytest.fixture
def benchmark(monkeypatch, capsys):
    """Run one as ``python -m`` does and return what it prints."""

    def run(name: str, *options: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, options)])
        importlib.import_module(f"benchmarks.{name}").main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def clone(tmp_path, to_reference) -> Path:
    from icnet.models.icnet import ICNet

    ours = ICNet(19, "resnet18").state_dict()
    names = dict(zip(ours, to_reference(ours), strict=False))  # theirs has a last one more
    for name, text in CLONE.items():
        path = tmp_path / "clone" / name
        path.parent.mkdir(parents=True)
        path.write_text(text.format(names=names) if "models" in name else text)
    return tmp_path / "clone"


def test_forward_compares_with_the_reference(benchmark, clone):
    out = benchmark("forward", *TINY, *ONCE, "--reference", clone)
    for row in ("reference", "icnet, as shipped", "icnet, network only", "icnet, plain module"):
        assert row in out
    plain = next(line for line in out.splitlines() if "plain module" in line)
    assert float(plain.split("│")[-3]) < 1e-4  # logit difference


def test_forward_runs_alone(benchmark):
    assert "reference" not in benchmark("forward", *TINY, *ONCE)


def rows_of(out: str) -> dict[str, list[str]]:
    """The cells of a table by the first of each row."""
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    return {name: cells for name, *cells in lines}


def test_inference_compares_runtimes_and_files_with_the_reference(benchmark, clone, tmp_path):
    other = tmp_path / "broken.onnx"
    other.write_bytes(b"none")
    words = ("--networks", "icnet", *TINY, *ONCE, "--images", 2, "--runtimes", "bfloat16", "onnx")
    out = benchmark("inference", *words, "--reference", clone, "--files", other)
    rows = rows_of(out)
    assert list(rows) == ["reference", "torch float32", "torch bfloat16", "onnxruntime float32"]
    assert f"left out: broken.onnx: {other} can't be opened by onnxruntime" in " ".join(out.split())
    whole, best, speedup, _, p99, rate, before, after, peak, size, labels = range(11)
    for name, cells in rows.items():
        numbers = [float(cell.rstrip("x")) for cell in cells]
        assert numbers[best] <= numbers[whole] <= numbers[p99] + 0.1
        assert numbers[before] + numbers[after] < numbers[whole]
        assert numbers[size] > 40  # ResNet-18's 12 million numbers
        assert numbers[peak] > 0.1
        assert numbers[labels] >= (50 if name == "torch bfloat16" else 99)  # of an untrained network
        assert numbers[rate] == pytest.approx(1000 / numbers[whole], rel=0.05)
    assert rows["reference"][speedup] == "1.00x"
    assert float(rows["reference"][before]) == float(rows["reference"][after]) == 0


def test_inference_scores_a_checkpoint_on_its_data(benchmark, street_root, tmp_path):
    torch.manual_seed(3)
    net, described = build_network("icnet_lite0", 19), {"name": "icnet_lite0", "options": {}, "num_classes": 19}
    states = {f"net.{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": states, "icnet": {"model": described, "version": "test"}}, tmp_path / "net.ckpt")
    words = ("--networks", tmp_path / "net.ckpt", "--height", 64, "--width", 128, *ONCE, "--images", 1, "--runtimes")
    out = benchmark("inference", *words, "--data", "cityscapes", "--root", street_root)
    ((*_, shown),) = rows_of(out).values()

    counts, model = np.zeros((19, 19)), icnet.load(tmp_path / "net.ckpt", "cpu")
    for file in (street_root / "leftImg8bit" / "val").rglob("*.png"):
        stored = file.as_posix().replace("leftImg8bit", "gtFine").removesuffix(".png") + "_labelIds.png"
        target = LABEL_ID_TO_TRAIN_ID[cv2.imread(stored, cv2.IMREAD_UNCHANGED)]
        known = target != 255
        np.add.at(counts, (target[known], model(file)[known]), 1)
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    assert float(shown) == pytest.approx(100 * (counts.diagonal()[union > 0] / union[union > 0]).mean(), abs=0.006)


def test_train_step_compares_with_the_reference(benchmark, clone):
    out = benchmark("train_step", *TINY, *ONCE, "--reference", clone)
    assert "reference" in out
    assert "first loss" in out


def test_train_step_runs_variants_in_turns(benchmark):
    out = benchmark("train_step", *TINY, *ONCE, "--optimizer", "adamw", "--also", "checkpointed", "foreach")
    rows = [line for line in out.splitlines() if line.startswith("│")]
    assert [row.split("│")[1].strip() for row in rows] == ["icnet", "checkpointed", "foreach"]
    assert len({row.split("│")[-2] for row in rows}) == 1  # first loss


def test_train_step_runs_alone(benchmark):
    assert "training step, resnet18, batch 2, 64x64" in benchmark("train_step", *TINY, *ONCE)


def test_data_pipeline_compares_with_the_reference_on_a_folder(benchmark, clone, tmp_path):
    root = tmp_path / "scenes"
    street.generate(root, {"train": 1, "val": 1}, 64, 128, seed=1)
    out = benchmark("data_pipeline", *ONCE, "--root", root, "--samples", 1, "--reference", clone)
    for row in ("reference", "icnet, normalised", "icnet, packed", "icnet, packed, for the device"):
        assert row in out


def test_startup_lists_every_command(benchmark):
    out = benchmark("startup", "--repeats", 1)
    for script in ("train.py", "eval.py", "export.py", "demo.py"):
        assert f"{script} --help" in out


def test_first_step_times_a_new_and_a_resumed_run(benchmark, script, monkeypatch):
    commands = []

    class Job(contextlib.nullcontext):
        """Has ended when it began."""

        def __init__(self, command: list[str], **_: object) -> None:
            super().__init__(self)
            self.returncode, self.stdout = 0, io.StringIO("going on from")
            commands.append(command[1:])
            if len(commands) <= 2:  # only the first round is run
                done = script("train", *command[2:], "data.workers=0")
                assert done.status == 0, done.err
                self.stdout = io.StringIO(done.out)

        def poll(self) -> int:
            return self.returncode

    monkeypatch.setattr(first_step, "subprocess", SimpleNamespace(Popen=Job, PIPE=-1, STDOUT=-2))
    out = benchmark("first_step", *ONCE, "--frames", 4)
    assert "train.py, one step, 4 frames" in out
    assert re.search(r"^new: \d+\.\d s until the step was done", out, re.MULTILINE)
    assert re.search(r"^resumed: \d+\.\d s until the step was done", out, re.MULTILINE)
    assert [command[0] for command in commands] == ["train.py"] * 4
    folders = [next(word for word in command if word.startswith("hydra.run.dir=")) for command in commands]
    assert len(set(folders)) == 4
    for number in (0, 2):
        new, resumed = commands[number : number + 2]
        last = Path(folders[number].removeprefix("hydra.run.dir="), "checkpoints", "last.ckpt")
        assert "trainer.max_steps=1" in new
        assert {"trainer.max_steps=2", f"resume={last}"} <= set(resumed)


def test_scaling_sweeps_each_cost_and_draws_it(benchmark, tmp_path):
    words = ("--backbone", "resnet18", "--crop", 64, "--scale", 100, 200, *ONCE)
    out = benchmark("scaling", *words, "--picture", tmp_path / "new" / "scaling.png")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    places: dict[str, list[int]] = {}
    for name, at, *_ in rows:
        places.setdefault(name or list(places)[-1], []).append(int(at))
    assert places == {
        "batch": [2, 4], "crop": [64, 128], "threads": [1], "processes": [1], "workers": [0, 1],
        "images": [1, 4, 16],
    }  # fmt: skip
    assert cv2.imread(str(tmp_path / "new" / "scaling.png")) is not None


def test_contention_compares_spin_counts_alone_and_disturbed(benchmark):
    out = benchmark("contention", *TINY, *ONCE, "--samples", 1)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert [row[:2] for row in rows] == [
        [what, setting] for what in ("forward", "training step") for setting in ("library", "icnet")
    ]
    assert all(row[3] == row[6] == "1.00x" for row in rows if row[1] == "library")


def test_contention_hands_a_setting_to_its_process_alone(monkeypatch):
    environments = []

    class Started(Exception):
        pass

    def start(command, env, **_):
        environments.append((command[2].split(";")[0], {key: env.get(key) for key in contention.VARIABLES}))
        raise Started

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setitem(os.environ, "GOMP_SPINCOUNT", "5")
    for setting in ("library", "icnet", "1000"):
        with pytest.raises(Started), contention.worker(setting):
            pass
    nothing = dict.fromkeys(contention.VARIABLES)
    assert environments == [
        ("import torch", nothing), ("import icnet", nothing), ("import icnet", nothing | {"GOMP_SPINCOUNT": "1000"}),
    ]  # fmt: skip


def test_busy_process_ends_with_the_measurement():
    with contention.busy_process() as process:
        assert process.poll() is None
    assert process.poll() is not None


def test_folder_that_is_no_clone_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match="holds no models/icnet.py"):
        reference.import_reference(tmp_path, "models.icnet:ICNet")
