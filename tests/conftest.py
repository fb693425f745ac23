"""What several test files share: a handful of street scenes on disk, running the scripts as a user does, two speeds."""

import importlib.util
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from absl import logging as absl_logging
from filelock import FileLock

from tests.scripts import ScriptProcess

# Before anything imports torch: several processes on few cores are slow if each has threads for all of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# TensorBoard and NNCF bring absl, whose handler of messages closes its stream when Hydra sets up logging: pytest's, if
# absl was loaded while that captured the output.
absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__

ROOT = Path(__file__).parents[1]
SMALL = (
    "data=street", "data.street.train=6", "data.street.val=3", "data.street.height=64", "data.street.width=128",
    "data.crop_size=[64,64]", "data.scale_range=[64,96]", "data.workers=0", "model=icnet_resnet18",
    "trainer=cpu_1p", "trainer.batch_size=2", "trainer.max_epochs=2", "trainer.progress_bar=false", "optim.lr=0.01",
    "callbacks.pictures=1", "logger.tensorboard=false",
)  # fmt: skip
"""Overrides of train.py for a run of a few seconds."""


LARGEST_TIES = 10
"""How many pixels of a few small images may get another label where BatchNorm is folded, or by another runtime."""


@dataclass
class Outcome:
    """How a script ended."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on standard error that a user's mistake ends with; fails if there is more than that."""
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, f"expected one error line, got:\n{self.err}"
        return lines[0].removeprefix("error: ")


Script = Callable[..., Outcome]

SLOW_FIXTURES = {"process", "trained", "simulation"}
"""A test with one of them is slow, whether it says so or not: they start processes of seconds."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow by its fixtures, and let the files with the most slow tests begin.

    Workers take whole files: a long one that begins last would leave the others without work.
    """
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> Path:
    """Keep what is known of data sets out of the user's own folder; processes that a test starts do too."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["ICNET_CACHE"] = str(folder)
    return folder


@pytest.fixture(autouse=True)
def no_script_is_left() -> Iterator[None]:
    """End scripts that a failed test has left running."""
    yield
    ScriptProcess.end_all()


@pytest.fixture(scope="session")
def made_once(request, tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Make a folder once in a run of the tests, however many workers need it: ``made_once("name", make)``.

    ``make`` gets the folder's path, below a folder that exists; a failure leaves the folder to the next one to ask.
    """
    base = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):  # of pytest-xdist: a worker's own folder lies in that of the run
        base = base.parent

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = base / "shared" / name, base / f"{name}.done"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(base / f"{name}.lock"):
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return made


OURS_TO_REFERENCE = (
    (r"^backbone\.stem\.0\.conv\.", "pretrained.conv1.0."),
    (r"^backbone\.stem\.0\.bn\.", "pretrained.conv1.1."),
    (r"^backbone\.stem\.1\.conv\.", "pretrained.conv1.3."),
    (r"^backbone\.stem\.1\.bn\.", "pretrained.conv1.4."),
    (r"^backbone\.stem\.2\.conv\.", "pretrained.conv1.6."),
    (r"^backbone\.stem\.2\.bn\.", "pretrained.bn1."),
    (r"^backbone\.", "pretrained."),
    (r"^sub1\.", "conv_sub1."),
    (r"^(cff_\d+)\.(low|high)\.conv\.", r"head.\1.conv_\2.0."),
    (r"^(cff_\d+)\.(low|high)\.bn\.", r"head.\1.conv_\2.1."),
    (r"^(cff_\d+)\.aux_classifier\.", r"head.\1.conv_low_cls."),
    (r"^classifier\.", "head.conv_cls."),
)


@pytest.fixture(scope="session")
def to_reference() -> Callable[[dict], dict]:
    """Rename an ICNet's state dict to the names of the reference; adds the ``fc`` that its files carry."""

    def rename(state_dict: dict) -> dict:
        renamed = {}
        for key, value in state_dict.items():
            name = key
            for pattern, replacement in OURS_TO_REFERENCE:
                name, hits = re.subn(pattern, replacement, name)
                if hits:
                    break
            renamed[name] = value
        last = state_dict["backbone.layer4.0.conv1.weight"]
        return {**renamed, "pretrained.fc.weight": last.new_zeros(1000, last.shape[0])}

    return rename


@pytest.fixture(scope="session")
def street_root(made_once) -> Path:
    """Folder of the scenes of SMALL."""

    def draw(folder: Path) -> None:
        from icnet.config import DataConfig, StreetConfig
        from icnet.factory import prepare_data

        scenes = StreetConfig(train=6, val=3, height=64, width=128)
        prepare_data(DataConfig(name="street", root=str(folder), street=scenes))

    return made_once("street", draw)


@pytest.fixture
def small(street_root) -> tuple[str, ...]:
    """Overrides of train.py for a run of a few seconds on shared scenes."""
    return (*SMALL, f"data.root={street_root}")


@pytest.fixture
def script(monkeypatch, capsys) -> Script:
    """Run a script of the project in this process: ``script("train", "data=street", ...)``."""

    def run(name: str, *overrides: object) -> Outcome:
        spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, overrides)])
        capsys.readouterr()
        status = 0
        try:
            module.main()
        except SystemExit as stop:
            status = stop.code or 0
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


@pytest.fixture
def process() -> Script:
    """Run a script of the project in a process of its own, where what happens to the process is the point."""

    def run(name: str, *overrides: object, **options: object) -> Outcome:
        started = ScriptProcess(name, *overrides, **options)
        out, err = started.communicate(timeout=300)
        return Outcome(started.returncode, out, err)

    return run


@pytest.fixture(scope="session")
def trained(made_once, street_root) -> Path:
    """The run folder of a finished two-epoch training."""

    def train(run: Path) -> None:
        started = ScriptProcess("train", *SMALL, f"data.root={street_root}", f"hydra.run.dir={run}", cwd=run.parent)
        _, err = started.communicate(timeout=300)
        assert started.returncode == 0, err

    return made_once("trained", train)


@pytest.fixture(scope="session")
def count_alike() -> Callable[[dict, dict], bool]:
    """Whether two results score the same pixels alike, but for ties that round otherwise on another kernel.

    An IoU would be no measure: one pixel of a rare class moves it by a hundredth.
    """

    def alike(one: dict, other: dict) -> bool:
        import numpy as np

        first, second = np.array(one["confusion"]), np.array(other["confusion"])
        same_labels = (first.sum(1) == second.sum(1)).all()
        return bool(same_labels and np.abs(first - second).sum() <= 2 * LARGEST_TIES)

    return alike


@pytest.fixture(scope="session")
def camvid_like(tmp_path_factory) -> Path:
    """A data set of another class count: two images per split in CamVid's layout, void included."""
    import cv2
    import numpy as np

    root = tmp_path_factory.mktemp("camvid")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir()
        for number in range(2):
            labels = np.repeat(np.repeat(rng.integers(0, 12, (4, 6), np.uint8), 20, 0), 20, 1)
            image = np.stack([labels * 20] * 3, -1) + rng.integers(0, 10, (80, 120, 3), np.uint8)
            cv2.imwrite(str(root / split / f"0001TP_{number:06d}.png"), image)
            cv2.imwrite(str(root / f"{split}annot" / f"0001TP_{number:06d}.png"), labels)
    return root
