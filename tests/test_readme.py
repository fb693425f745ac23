"""What README and the documents say can be typed can be typed, and what they link to is there."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from icnet.config import DemoConfig, EvalConfig, ExportConfig, TrainConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {path: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
SCHEMAS = {"train": TrainConfig, "eval": EvalConfig, "export": ExportConfig, "demo": DemoConfig}
TEXT = "\n".join(PAGES.values())
COMMANDS = sorted({found.strip() for found in re.findall(r"python (?:train|eval|export|demo)\.py[^\n`#]*", TEXT)})


def single(word: str) -> list[str]:
    """One override for each value that a sweep tries."""
    override = OverridesParser.create().parse_override(word)
    if not override.is_sweep_override():
        return [word]
    return [f"{override.key_or_group}={value}" for value in override.sweep_string_iterator()]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_composes_to_a_valid_configuration(command):
    _, script, *words = shlex.split(command)
    if "--help" in words:
        return
    if "hparams=optuna" in words:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs hydra-optuna-sweeper")
    name = script.removesuffix(".py")
    ConfigStore.instance().store(name=f"{name}_schema", node=SCHEMAS[name])
    choices = [single(word) for word in words if word != "-m"]
    for number in range(max(map(len, choices), default=1)):
        overrides = [values[min(number, len(values) - 1)] for values in choices]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            composed = compose(name, [word for word in overrides if not word.startswith("hydra.")])
        for key in ("output_dir", "output"):
            if key in SCHEMAS[name].__dataclass_fields__ and OmegaConf.is_interpolation(composed, key):
                composed[key] = "outputs/readme"
        assert isinstance(OmegaConf.to_object(composed), SCHEMAS[name])


def test_readme_shows_all_four_scripts_and_stays_short():
    assert {command.split()[1] for command in COMMANDS} == {f"{name}.py" for name in SCHEMAS}
    assert len(README.splitlines()) < 200


@pytest.mark.parametrize(
    ("page", "link"),
    [(page, link) for page, text in PAGES.items() for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text)],
    ids=lambda value: value.name if isinstance(value, Path) else value,
)
def test_link_leads_to_a_file(page, link):
    assert (page.parent / link).exists()


def test_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make (\w+)", README, re.MULTILINE)) <= targets
