"""Imports point down only: scripts, then launch and factory, then the packages, then run, config and errors."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ("train", "eval", "export", "demo")
STARTED_BY_PYTHON_M = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "icnet").rglob("__main__.py"))

# Each room and the rooms below it that it may import; a module of the package's top is a room of its own.
STANDS_ON = {"icnet.errors", "icnet.config", "icnet.run"}
BELOW = {
    "icnet": {"icnet.deploy", "icnet.errors", "icnet.version"},
    "icnet.errors": set(),
    "icnet.version": set(),
    "icnet.keys": {"icnet.errors"},
    "icnet.config": {"icnet.errors", "icnet.keys"},
    "icnet.run": {"icnet.config", "icnet.errors"},
    "icnet.npu": set(),
    "icnet.data": {"icnet.errors", "icnet.run"},
    "icnet.models": {"icnet.errors"},
    "icnet.training": {"icnet.data", "icnet.errors", "icnet.models", "icnet.run"},
    "icnet.deploy": {
        "icnet.data", "icnet.errors", "icnet.models", "icnet.npu", "icnet.run", "icnet.training",
        "icnet.version",
    },
    "icnet.report": {"icnet.errors", "icnet.run"},
    "icnet.factory": {
        "icnet.data", "icnet.deploy", "icnet.models", "icnet.npu", "icnet.training", "icnet.version", *STANDS_ON,
    },
    "icnet.launch": {"icnet.report", *STANDS_ON},
}  # fmt: skip
SCRIPT = "a package's __main__.py"
"""What ``python -m`` starts stands above all rooms, as the scripts of the project's root do."""
BELOW[SCRIPT] = set(BELOW)
KNOW_HYDRA = {"icnet.config", "icnet.factory", "icnet.launch", "icnet.run"}


def room(module: str) -> str:
    """The listed room that a module lies in."""
    return ".".join(module.split(".")[:2])


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = sorted((ROOT / "icnet").rglob("*.py"))
NAMES = {name_of(path) for path in MODULES}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:  # the one package that can be lifted out under another name
                assert room(name_of(path)) == "icnet.npu", f"{path} imports relatively"
                continue
            inside = {f"{node.module}.{name.name}" for name in node.names} & NAMES if node.module == "icnet" else set()
            found |= inside if len(inside) == len(node.names) else inside | {node.module}
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_imports_only_from_below(path):
    own = SCRIPT if path.name == "__main__.py" else room(name_of(path))
    assert not any(name.endswith(".__main__") for name in imports(path)), "nothing uses a script"
    used = {room(name) for name in imports(path) if name.split(".")[0] == "icnet"} - {own}
    assert own in BELOW, f"{own} is new: say in BELOW what it may import"
    assert used <= BELOW[own], f"{name_of(path)} imports {sorted(used - BELOW[own])}"


def test_no_room_stands_above_itself():
    TopologicalSorter(BELOW).prepare()  # raises for a circle


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_knows_hydra_only_where_it_may(path):
    if room(name_of(path)) not in KNOW_HYDRA:
        assert not {name.split(".")[0] for name in imports(path)} & {"hydra", "omegaconf"}


def test_no_optional_package_is_imported_by_the_whole_project():
    for path in MODULES:
        top = {
            node.names[0].name.split(".")[0] if isinstance(node, ast.Import) else (node.module or "").split(".")[0]
            for node in ast.parse(path.read_text()).body
            if isinstance(node, (ast.Import, ast.ImportFrom))
        }
        assert not top & {"torch_npu", "wandb", "mlflow", "optuna", "huggingface_hub", "torchvision", "timm"}, path


@pytest.mark.parametrize("script", [*(f"{name}.py" for name in SCRIPTS), *STARTED_BY_PYTHON_M])
def test_script_is_a_short_recipe(script):
    assert len((ROOT / script).read_text().splitlines()) <= 60


def test_command_is_short():
    assert len((ROOT / "icnet" / "launch" / "command.py").read_text().splitlines()) <= 120
