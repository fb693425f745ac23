"""The examples of CONTRIBUTING are commits that work: a copy of the project gets all of them, and its checks pass."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Adding something")[2]
ADDITIONS = re.findall(r"`([\w/.]+)`:\n\n```(\w+)\n(.*?)^```$", EXAMPLES, re.MULTILINE | re.DOTALL)
"""Path, kind and content of each file that an example adds, or of the diff that it applies to one."""

GUARDS = (
    "tests/test_architecture.py", "tests/run/test_results.py::test_page_describes_exactly_the_schema",
    "tests/test_config.py::test_option_composes_and_builds[model-tiny]",
    "tests/test_config.py::test_option_composes_and_builds[data-lanes]",
    "tests/test_config.py::test_option_composes_and_builds[amp-f64]",
    "tests/test_readme.py::test_options_of_a_group_are_documented",
    "tests/models/test_networks.py::test_network_keeps_its_promises[tiny]",
    "tests/models/test_networks.py::test_unknown_network_or_option_is_refused_with_what_is_allowed",
    "tests/doors/test_data_set_door.py::test_data_set_of_ones_own_is_refused_like_the_others",
    "tests/doors/test_network_door.py::test_what_does_not_suit_the_toy_is_one_line",
)  # fmt: skip
"""Tests of the project that an addition may break."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of this project with the examples in it."""
    copy = tmp_path_factory.mktemp("project")
    for name in ("icnet", "conf", "tests", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "benchmarks").mkdir()
    pages = ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")
    for name in ("train.py", "eval.py", "export.py", "demo.py", "pyproject.toml", *pages):
        shutil.copy(ROOT / name, copy / name)
    if (ROOT / ".mypy_cache").exists():  # a minute less
        shutil.copytree(ROOT / ".mypy_cache", copy / ".mypy_cache")
    for path, kind, content in ADDITIONS:
        file = copy / path
        if kind == "diff":
            file.write_text(patched(file.read_text(encoding="utf-8"), content), encoding="utf-8")
        else:
            assert not file.exists(), f"{path} is an example, and is here already"
            file.write_text(content, encoding="utf-8")
    return copy


def patched(text: str, diff: str) -> str:
    """Apply a diff without line numbers; hunks are told by what they replace, which has to be there once."""
    for hunk in diff.split("@@\n"):
        old, new = ("".join(line[1:] for line in hunk.splitlines(True) if line[0] in kinds) for kinds in (" -", " +"))
        assert text.count(old) == 1, f"found {text.count(old)} times:\n{old}"
        text = text.replace(old, new)
    return text


def run(project: Path, *words: object) -> str:
    """Run Python in the copy; returns what it printed."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_examples_pass_their_tests_and_those_of_the_project(project):
    own = [path for path, kind, _ in ADDITIONS if kind == "python" and path.startswith("tests/")]
    assert len(own) == 5  # network, data set, runtime, opt level, report
    printed = run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", *GUARDS, *own)
    assert " passed" in printed


def test_examples_pass_lint_and_types(project):
    added = [path for path, kind, _ in ADDITIONS if kind == "python"]
    run(project, "-m", "ruff", "check", *added)
    run(project, "-m", "ruff", "format", "--check", *added)
    run(project, "-m", "mypy", *(path for path, _, _ in ADDITIONS if path.startswith("icnet/")))


@pytest.mark.parametrize("command", re.findall(r"`python (\w+\.py [^`]+)`", EXAMPLES))
def test_command_of_an_example_composes(project, command):
    run(project, *shlex.split(command), "--cfg=job")


def test_examples_go_from_training_to_the_demo(project, tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        (tmp_path / split).mkdir()
        for number in range(count):
            mask = np.repeat(np.repeat(rng.integers(0, 3, (2, 3), np.uint8), 32, 0), 32, 1)
            cv2.imwrite(str(tmp_path / split / f"{number}.jpg"), np.repeat(80 * mask[..., None], 3, 2))
            cv2.imwrite(str(tmp_path / split / f"{number}_mask.png"), 10 * mask)
    folder, ckpt = tmp_path / "run", tmp_path / "run" / "checkpoints" / "last.ckpt"
    run(
        project, "train.py", "model=tiny", "model.options.width=8", "data=lanes", f"data.root={tmp_path}", "amp=f64",
        "data.workers=0", "data.crop_size=[64,64]", "data.scale_range=[64,80]", "trainer=cpu_1p",
        "trainer.batch_size=2", "trainer.max_epochs=1", "trainer.progress_bar=false", "logger.tensorboard=false",
        f"hydra.run.dir={folder}",
    )  # fmt: skip
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "tiny" in report
    assert "lane" in report
    run(project, "demo.py", f"ckpt={ckpt}", f"input={tmp_path / 'val' / '0.jpg'}", f"output={tmp_path / 'shown'}")
    painted = cv2.imread(str(tmp_path / "shown" / "0_labels.png"))[..., ::-1]
    assert {tuple(colour) for colour in painted.reshape(-1, 3).tolist()} <= {(128, 64, 128), (255, 255, 255)}
