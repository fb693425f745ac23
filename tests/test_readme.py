"""What README and the documents say can be typed can be typed, and what they link to is there."""

import importlib.machinery
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from icnet.config import DataConfig, DemoConfig, EvalConfig, ExportConfig, TrainConfig
from icnet.data.classes_file import read_classes
from icnet.data.street.scene import draw_scene
from icnet.factory.data import data_set
from icnet.launch.overrides import readable
from icnet.report.published import ROWS, Row
from tests.test_contributing import EXAMPLES

ROOT = Path(__file__).parents[1]
NAMES = ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")
PAGES = {path: path.read_text(encoding="utf-8") for path in (*map(ROOT.joinpath, NAMES), *(ROOT / "docs").glob("*.md"))}
PAGES |= {
    path: path.read_text(encoding="utf-8")
    for name in ("tests", "web", "weights")
    for path in (ROOT / name).glob("**/README.md")
    if "node_modules" not in path.parts
}
SCHEMAS = {"train": TrainConfig, "eval": EvalConfig, "export": ExportConfig, "demo": DemoConfig}
TEXT = "\n".join(PAGES.values()).replace(EXAMPLES, "")  # their files are not here; tests/test_contributing.py has them
PROSE = {page: re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL) for page, text in PAGES.items()}
COMMAND = re.compile(rf"(?:python|torchrun[^\n`#]*?) ((?:{'|'.join(SCHEMAS)})\.py[^\n`#]*)")
COMMANDS = sorted({found.strip() for found in COMMAND.findall(TEXT)})
OLD = ROOT / "tests" / "old_checkpoints"


def single(word: str) -> list[str]:
    """One override for each value that a sweep tries."""
    override = OverridesParser.create().parse_override(word)
    if not override.is_sweep_override():
        return [word]
    return [f"{override.key_or_group}={value}" for value in override.sweep_string_iterator()]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_composes_to_a_valid_configuration(command):
    script, *words = shlex.split(command)
    if "--help" in words:
        return
    if "hparams=optuna" in words:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs hydra-optuna-sweeper")
    name = script.removesuffix(".py")
    ConfigStore.instance().store(name=f"{name}_schema", node=SCHEMAS[name])
    choices = [single(word) for word in readable(words, SCHEMAS[name]) if word != "-m"]
    for number in range(max(map(len, choices), default=1)):
        overrides = [values[min(number, len(values) - 1)] for values in choices]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            composed = compose(name, [word for word in overrides if not word.startswith("hydra.")])
        for key in ("output_dir", "output"):
            if key in SCHEMAS[name].__dataclass_fields__ and OmegaConf.is_interpolation(composed, key):
                composed[key] = "outputs/readme"
        assert isinstance(OmegaConf.to_object(composed), SCHEMAS[name])


def test_readme_shows_all_four_scripts():
    shown = COMMAND.findall(PAGES[ROOT / "README.md"])
    assert {command.split()[0] for command in shown} == {f"{name}.py" for name in SCHEMAS}


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_readme_stays_short(name):
    lines = PAGES[ROOT / name].splitlines()
    assert len(lines) <= 110
    assert [line for line in lines if len(line) > 110] == []


@pytest.mark.parametrize(
    ("page", "link"),
    [(page, link) for page, text in PROSE.items() for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text)],
    ids=lambda value: str(value.relative_to(ROOT)) if isinstance(value, Path) else value,
)
def test_link_leads_to_a_file_and_a_heading(page, link):
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    assert target.exists()
    if anchor:
        assert anchor in [slug(heading) for heading in re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)]


def slug(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_rooms_are_those_of_the_package():
    (rooms,) = re.findall(
        r"^## The rooms\n\n```\n(.*?)^```$", PAGES[ROOT / "CONTRIBUTING.md"], re.MULTILINE | re.DOTALL
    )
    inside = {path for path in (ROOT / "icnet").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    names = {f"{path.name}/" if path.is_dir() else path.name for path in inside}
    assert names - set(re.findall(r"[\w.]+/?", rooms)) == set()


def test_every_page_is_reached_from_the_readme():
    reached = {ROOT / "README.md"}
    for _ in PAGES:
        links = [(page, link) for page in reached for link in re.findall(r"\]\(([^)#]+)", PROSE[page])]
        reached |= {(page.parent / link).resolve() for page, link in links} & PAGES.keys()
    assert PAGES.keys() - reached == set()


def test_make_targets_of_the_documents_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make (\w+)", TEXT, re.MULTILINE)) <= targets


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m ([\w.]+)", TEXT))))
def test_module_of_a_command_exists(module):
    # Where setuptools' hook hears of pip, it gives up its own distutils for as long as the process lasts, and torch
    # cannot compile any more: modules at the top are asked for past all hooks.
    find = importlib.util.find_spec if "." in module else importlib.machinery.PathFinder.find_spec
    assert find(module)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"(?<![\w/])((?:scripts|tests)/[\w./]+[\w/])", TEXT))))
def test_file_or_folder_of_the_documents_exists(name):
    assert (ROOT / name).exists()


def test_single_test_of_the_documents_exists():
    for file, word in re.findall(r"pytest (tests/\S+\.py) -k (\w+)", TEXT):
        assert re.search(rf"def test_\w*{word}", (ROOT / file).read_text())


@pytest.mark.parametrize(
    ("page", "block"),
    [
        (page, block)
        for page, text in PAGES.items()
        if page.name in {"README.md", "deploy.md", "results.md"}
        for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ],
    ids=lambda value: value.name if isinstance(value, Path) else "",
)
def test_python_of_the_documents_runs(page, block, tmp_path, monkeypatch):
    shutil.copy(OLD / "v0.1_resnet18.ckpt", tmp_path / "best.ckpt")
    (tmp_path / "RUN" / "checkpoints").mkdir(parents=True)
    shutil.copy(OLD / "v0.1_resnet18.ckpt", tmp_path / "RUN" / "checkpoints" / "best.ckpt")
    shutil.copy(OLD / "v0.1_results.json", tmp_path / "RUN" / "results.json")
    image, _ = draw_scene(seed=1, height=64, width=128)
    for name in ("photo.jpg", "other.png"):
        assert cv2.imwrite(str(tmp_path / name), image[..., ::-1])
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(page), "exec"), {})  # noqa: S102 - a document of our own


def test_list_of_classes_of_the_documents_is_one(tmp_path):
    blocks = re.findall(r"^```yaml\n(.*?)^```$", PAGES[ROOT / "docs" / "data.md"], re.MULTILINE | re.DOTALL)
    names = []
    for block in blocks:
        (tmp_path / "classes.yaml").write_text(block)
        names.append(read_classes(tmp_path / "classes.yaml").classes.names)
    assert names == [("road", "car"), ("background", "crack"), ("road", "vehicle")]


@pytest.mark.parametrize(
    "group", sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != "classes")
)
def test_options_of_a_group_are_documented(group):
    options = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")} - {"checkpoint"}  # eval.py's default
    pages = (PAGES[ROOT / "docs" / name] for name in ("training.md", "published-tables.md"))
    named = set(re.findall(r"`([\w.]+)`", "\n".join(pages)))
    assert options - named == set()


def test_published_figures_are_those_of_the_reports():
    line = r"^\| `(\w+?)_lr\S+` \| (\S+) \| (\S+) \| `o(\d)` \| (\S+) \| (\S+) \|$"
    shown = re.findall(line, PAGES[ROOT / "docs" / "published-tables.md"], re.MULTILINE)
    assert [Row(kind, float(lr), float(scale), f"O{level}", float(final), float(best))
            for kind, lr, scale, level, final, best in shown] == list(ROWS)  # fmt: skip


# ---------------------------------------------------------------- docs/data.md

DATA_PAGE = PAGES[ROOT / "docs" / "data.md"]
LAYOUTS = re.findall(r"^\| (`[^|]*`) \| `(python train\.py data=folder [^`]*)` \|$", DATA_PAGE, re.MULTILINE)


def write_layout(root: Path, files: str) -> None:
    """Write what a row of the table shows, for both splits and two images each."""
    (root / "classes.yaml").write_text(
        "classes: [{name: road, color: [128, 64, 128]}, {name: car, color: [0, 0, 142]}]", encoding="utf-8"
    )
    for split in ("train", "val"):
        stems = [f"{split}{number}" for number in range(2)]
        for name in re.findall(r"`([^`]+)`", files):
            place = root / re.sub(r"\btrain\b", split, name)
            if place.suffix == ".txt":
                place.write_text("\n".join(stems))
                continue
            for stem in stems:
                file = root / re.sub(r"(?<=/)a(?=[._/])", stem, str(place.relative_to(root)))
                file.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.full((64, 64, 3), 90, np.uint8)
                if file.suffix == ".png":
                    pixels = np.repeat(np.arange(2, dtype=np.uint8), 32)[None].repeat(64, 0)
                assert cv2.imwrite(str(file), pixels)


def test_six_layouts_are_shown():
    assert len({files for files, _ in LAYOUTS}) == 6


@pytest.mark.slow
@pytest.mark.parametrize(("files", "command"), LAYOUTS)
def test_layout_of_the_documents_is_trained(files, command, script, tmp_path):
    write_layout(tmp_path, files)
    _, *words = shlex.split(command.replace("PATH", str(tmp_path)))[1:]
    small = (
        "model=icnet_resnet18", "trainer=cpu_1p", "trainer.batch_size=2", "trainer.max_epochs=1", "data.workers=0",
        "trainer.progress_bar=false", "data.crop_size=[64,64]", "data.scale_range=[64,80]", "logger.tensorboard=false",
    )  # fmt: skip
    done = script("train", *words, *small, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.status == 0, done.err
    assert "left out" not in done.err + done.out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["val_images"], list(results["iou"])) == (2, ["road", "car"])
    if "data.lists" in command:  # the checkpoint knows where its data lie
        words = (
            f"ckpt={tmp_path / 'run' / 'checkpoints' / 'best.ckpt'}",
            "trainer=cpu_1p",
            "trainer.progress_bar=false",
        )
        done = script("eval", *words, "data.val_split=train", f"hydra.run.dir={tmp_path / 'eval'}")
        assert done.status == 0, done.err
        assert json.loads((tmp_path / "eval" / "results.json").read_text())["split"] == "train"


def test_lines_that_write_lists_write_them(tmp_path):
    (lines,) = re.findall(r"^```bash\n(ls images .*?)^```$", DATA_PAGE, re.MULTILINE | re.DOTALL)
    write_layout(tmp_path, "`images/a.jpg`, `labels/a.png`")
    for number in range(6):
        shutil.copy(tmp_path / "images" / "val0.jpg", tmp_path / "images" / f"x{number}.jpg")
        shutil.copy(tmp_path / "labels" / "val0.png", tmp_path / "labels" / f"x{number}.png")
    subprocess.run(["bash", "-ec", lines], cwd=tmp_path, check=True)
    data = DataConfig(
        name="folder", root=str(tmp_path), images="images/{stem}", masks="labels/{stem}", lists="{split}.txt"
    )
    found = {split: [sample.name for sample in data_set(data).list_samples(split)] for split in ("train", "val")}
    assert found["val"] == ["x0", "x5"]
    assert sorted(found["train"]) == ["train0", "train1", "val0", "val1", "x1", "x2", "x3", "x4"]


def test_every_well_known_data_set_is_shown_with_its_number_of_classes():
    shown = re.findall(r"`python train\.py data=(\w+) data\.root=PATH[^`]*` \| (\d+) \|", DATA_PAGE)
    lists = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "conf" / "classes").glob("*.yaml")}
    assert {name: int(count) for name, count in shown} == {name: len(held["classes"]) for name, held in lists.items()}
