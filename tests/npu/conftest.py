"""The simulated NPUs, built on first use. Tests that need them are skipped, with the reason, where that cannot be."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SMALL, Outcome
from tests.npu.simulation.build import Simulation, Unavailable, build

ROOT = Path(__file__).parents[2]
COMMON = (*(word for word in SMALL if not word.startswith(("trainer=", "trainer.batch_size", "optim.lr"))),)
TINY = ("trainer.batch_size=1", "callbacks.pictures=0", "trainer.log_every_n_steps=1")


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> tuple[str, ...]:
    """Overrides for eight cards: two steps of eight scenes an epoch, and one validation image per card."""
    root = tmp_path_factory.mktemp("npu") / "scenes"
    return ("data.street.train=16", "data.street.val=8", f"data.root={root}", "trainer.max_epochs=1")


@pytest.fixture(scope="session")
def simulation() -> Simulation:
    """Build the simulated CANN and the environment with the real torch_npu beside it."""
    try:
        return build(ROOT / ".simulated_npu")
    except Unavailable as reason:
        pytest.skip(f"no simulated NPUs: {reason}")


@pytest.fixture
def on_npu(simulation) -> Callable[..., Outcome]:
    """Run a script of the project on the simulated NPUs: ``on_npu("train", "trainer=npu_1p", ...)``.

    ``bare=True`` leaves out the wrapper that sets CANN's variables; ``env`` is set beside what is set here.
    """

    def run(name: str, *overrides: object, bare: bool = False, **env: str) -> Outcome:
        python = simulation.folder / "venv" / "bin" / "python" if bare else simulation.python
        done = subprocess.run(
            [python, ROOT / f"{name}.py", *map(str, overrides)],
            capture_output=True, text=True, check=False, timeout=600,
            env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        )  # fmt: skip
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run
