"""One set of pins: pyproject.toml, constraints.txt and environment.yml must not drift apart."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import icnet

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it along where the standard library has none

ROOT = Path(__file__).parents[1]
CONTENT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = CONTENT["project"]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def pins(python: str) -> dict[str, Version]:
    found: dict[str, Version] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"python_version": python}):
            continue
        name = canonicalize_name(requirement.name)
        assert name not in found, f"{name} is pinned twice for Python {python}"
        (specifier,) = requirement.specifier
        assert specifier.operator == "=="
        found[name] = Version(specifier.version)
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_pin_every_dependency_within_its_bounds(python):
    pinned = pins(python)
    extras = PROJECT["optional-dependencies"]
    for text in (
        *PROJECT["dependencies"],
        *(word for name in ("dev", "fast", "int8", "npu", "joblib", "submitit", "optuna") for word in extras[name]),
    ):
        requirement = Requirement(text)
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not pinned for Python {python}"
        assert version in requirement.specifier, f"{requirement.name}=={version} is outside {requirement.specifier}"


def test_environment_has_the_same_dependencies_and_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(entry for entry in environment["dependencies"] if str(entry).startswith("python="))
    (by_pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    listed = {canonicalize_name(Requirement(text).name): Requirement(text) for text in by_pip}
    wanted = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert set(listed) == wanted
    pinned = pins(python.removeprefix("python="))
    for name, requirement in listed.items():
        assert str(requirement.specifier) == f"=={pinned[name]}"


@pytest.mark.parametrize("name", ["torchvision", "timm"])
def test_packages_that_break_cpu_installations_are_absent(name):
    assert all(name not in pins(python) for python in PYTHONS)
    assert not any(re.match(rf"{name}\b", text) for text in PROJECT["dependencies"])


def test_supported_pythons_are_3_10_to_3_13():
    marker = Marker("python_version >= '3.10' and python_version < '3.14'")
    assert PROJECT["requires-python"] == ">=3.10,<3.14"
    assert all(marker.evaluate({"python_version": python}) for python in PYTHONS)


def test_version_is_read_from_the_place_that_holds_it():
    module, _, name = CONTENT["tool"]["setuptools"]["dynamic"]["version"]["attr"].rpartition(".")
    assert (module, name) == ("icnet.version", "__version__")
    assert getattr(importlib.import_module(module), name) == icnet.__version__


def test_no_dependency_stands_twice():
    names = [canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]]
    assert len(set(names)) == len(names)
