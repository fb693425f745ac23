"""Runs checks where torch_npu is, each file in one process, and reports each of them as a test."""

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSIDE = "tests/npu/inside"
ELSEWHERE = [
    ("tests/training/test_precision.py", "test_npu_trains_and_resumes_as_the_cpu_does")
]  # skipped where no NPU is


def checks() -> list[tuple[str, str]]:
    """(file, function) of every check."""
    found = []
    for path in sorted((ROOT / INSIDE).glob("check_*.py")):
        names = [getattr(node, "name", "") for node in ast.parse(path.read_text(encoding="utf-8")).body]
        found += [(f"{INSIDE}/{path.name}", name) for name in names if name.startswith("test_")]
    return found + ELSEWHERE


@pytest.fixture(scope="session")
def report(simulation, tmp_path_factory):
    """Run a file of checks once; returns its outcome per function and the whole output."""
    done: dict[str, tuple[dict[str, set[str]], str]] = {}

    def run(file: str) -> tuple[dict[str, set[str]], str]:
        if file not in done:
            result = subprocess.run(
                [
                    simulation.python, "-m", "pytest", file, "-v", "-o", "python_files=check_*.py test_*.py",
                    "-k", " or ".join(name for place, name in checks() if place == file),
                    "-p", "no:cacheprovider", "--basetemp", tmp_path_factory.mktemp("inside") / "tmp",
                ],
                capture_output=True, text=True, check=False, timeout=900, cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"},
            )  # fmt: skip
            outcomes: dict[str, set[str]] = {}
            for name, outcome in re.findall(
                r"::(test_\w+)(?:\[.*\])? (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)", result.stdout
            ):
                outcomes.setdefault(name, set()).add(outcome)
            done[file] = outcomes, result.stdout[-20000:] + result.stderr[-4000:]
        return done[file]

    return run


@pytest.mark.parametrize(("file", "name"), checks(), ids=lambda value: Path(value).stem)
def test_inside(report, file, name):
    outcomes, output = report(file)
    assert outcomes.get(name) == {"PASSED"}, output
