"""The drawn street scenes: what they hold, and how the data set on disk behaves."""

import itertools
import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from icnet.config import StreetConfig
from icnet.data import street
from icnet.data.labels import CITYSCAPES_CLASSES, CITYSCAPES_LABELS, IGNORE_INDEX, LABEL_ID_TO_TRAIN_ID
from icnet.data.street import data_set, draw_scene, generate, scene_seed, writer
from icnet.data.street.data_set import DEFAULT_ROOT, DEFAULT_SCENES, Street
from icnet.errors import UserError

SCENES = {"train": 3, "val": 2}
SIZE = (32, 64)


@pytest.fixture(scope="module")
def twelve_masks() -> np.ndarray:
    """(12, 256, 512) uint8 label ids of twelve scenes."""
    return np.stack([draw_scene(seed, 256, 512)[1] for seed in range(12)])


def _scribble(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Stand in for ``draw_scene`` where only files matter: as determined by its arguments, and quick."""
    rng = np.random.default_rng(seed)
    image = rng.integers(256, size=(height, width, 3), dtype=np.uint8)
    return image, rng.integers(34, size=(height, width), dtype=np.uint8)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Scribble instead of drawing, and collect the seed of every scene that ``generate`` asks for."""
    seeds: list[int] = []

    def _draw(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        seeds.append(seed)
        return _scribble(seed, height, width)

    monkeypatch.setattr(writer, "draw_scene", _draw)
    return seeds


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_scene_has_documented_shapes_and_types() -> None:
    image, labels = draw_scene(5, 60, 100)
    assert (image.shape, image.dtype) == ((60, 100, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((60, 100), np.uint8)


def test_scene_same_seed_is_identical() -> None:
    first, second = draw_scene(7, 64, 128), draw_scene(7, 64, 128)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_scene_same_seed_is_identical_in_another_process() -> None:
    code = (
        "import zlib; from icnet.data.street import draw_scene; a, b = draw_scene(7, 64, 128); "
        "print(zlib.crc32(a.tobytes()), zlib.crc32(b.tobytes()))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }  # fmt: skip
    assert len(outputs) == 1


def test_scene_other_seeds_differ() -> None:
    masks = [draw_scene(seed, 64, 128)[1] for seed in range(6)]
    for one, other in itertools.combinations(masks, 2):
        assert (one != other).mean() > 0.1


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_scene_at_two_sizes_is_the_same_scene(seed: int) -> None:
    small_image, small = draw_scene(seed, 128, 256)
    large_image, large = draw_scene(seed, 512, 1024)
    shrunk = cv2.resize(large, (256, 128), interpolation=cv2.INTER_NEAREST)
    assert (shrunk == small).mean() > 0.9
    shrunk_image = cv2.resize(large_image, (256, 128), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk_image.astype(int) - small_image).mean() < 12


def test_scene_labels_are_only_known_ids(twelve_masks: np.ndarray) -> None:
    known = {row.label_id for row in CITYSCAPES_LABELS if row.label_id >= 0}
    assert set(np.unique(twelve_masks).tolist()) <= known


def test_scene_every_pixel_is_labelled(twelve_masks: np.ndarray) -> None:
    assert (twelve_masks != 0).all()


def test_scene_ego_vehicle_is_in_part_of_the_scenes(twelve_masks: np.ndarray) -> None:
    with_hood = (twelve_masks == 1).any(axis=(1, 2))
    assert 0 < with_hood.sum() < len(with_hood)
    assert not (twelve_masks == 1)[:, :200].any()


@pytest.mark.parametrize("train_id", range(19), ids=CITYSCAPES_CLASSES.names)
def test_scene_every_class_is_frequent(twelve_masks: np.ndarray, train_id: int) -> None:
    mask = LABEL_ID_TO_TRAIN_ID[twelve_masks] == train_id
    assert mask.mean() > 0.005
    assert (mask.mean(axis=(1, 2)) > 0.001).sum() >= 7


def test_scene_ignored_share_is_small(twelve_masks: np.ndarray) -> None:
    assert (LABEL_ID_TO_TRAIN_ID[twelve_masks] == IGNORE_INDEX).mean() < 0.08


def test_scene_sky_is_above_road(twelve_masks: np.ndarray) -> None:
    rows = np.arange(256)[None, :, None]
    sky, road = twelve_masks == 23, twelve_masks == 7
    assert (rows * sky).sum() / sky.sum() < 90 < 160 < (rows * road).sum() / road.sum()


def test_scene_image_shows_what_labels_say() -> None:
    """Along label borders the picture has edges: image and labels are not shifted against each other."""
    image, labels = draw_scene(3, 256, 512)
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 1.0).astype(float)
    step = np.abs(np.diff(grey, axis=1))
    border = np.diff(labels.astype(int), axis=1) != 0
    on = step[border].mean()
    off = [step[np.roll(border, shift, axis=1)].mean() for shift in (-6, 6)]
    assert on > 1.6 * max(off)


def test_scene_seeds_of_splits_share_none() -> None:
    seeds = [scene_seed(0, split, index) for split in ("train", "val", "test") for index in range(500)]
    assert len(set(seeds)) == len(seeds)
    assert scene_seed(0, "train", 0) != scene_seed(1, "train", 0)


@pytest.mark.usefixtures("drawn")
def test_generate_layout_is_cityscapes(tmp_path: Path) -> None:
    generate(tmp_path, SCENES, *SIZE, seed=1)
    names = set(_files(tmp_path)) - {"street.json"}
    image = re.compile(r"leftImg8bit/(train|val)/([a-z]+)/\2_\d{6}_\d{6}_leftImg8bit\.png")
    mask = re.compile(r"gtFine/(train|val)/([a-z]+)/\2_\d{6}_\d{6}_gtFine_labelIds\.png")
    images, masks = ({name for name in names if pattern.fullmatch(name)} for pattern in (image, mask))
    assert names == images | masks
    assert {
        name.replace("leftImg8bit", "gtFine", 1).replace("leftImg8bit", "gtFine_labelIds") for name in images
    } == masks
    assert "leftImg8bit/train/streetville/streetville_000002_000019_leftImg8bit.png" in images
    assert "gtFine/val/gardenham/gardenham_000001_000019_gtFine_labelIds.png" in masks
    assert len(images) == 5


def test_generate_files_hold_the_scenes(tmp_path: Path) -> None:
    generate(tmp_path, {"val": 2}, *SIZE, seed=1)
    image, labels = draw_scene(scene_seed(1, "val", 1), *SIZE)
    stem = "val/gardenham/gardenham_000001_000019"
    stored = cv2.imread(str(tmp_path / f"leftImg8bit/{stem}_leftImg8bit.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(stored[..., ::-1], image)
    stored = cv2.imread(str(tmp_path / f"gtFine/{stem}_gtFine_labelIds.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(stored, labels)


def test_generate_splits_share_no_scene(tmp_path: Path) -> None:
    generate(tmp_path, {"train": 3, "val": 3}, *SIZE, seed=1)
    pictures = [data for name, data in _files(tmp_path).items() if name.startswith("leftImg8bit")]
    assert len(set(pictures)) == 6


@pytest.mark.usefixtures("drawn")
def test_generate_record_tells_the_parameters(tmp_path: Path) -> None:
    generate(tmp_path, SCENES, *SIZE, seed=1)
    record = json.loads((tmp_path / "street.json").read_text())
    assert (record["scenes"], record["height"], record["width"], record["seed"]) == (SCENES, 32, 64, 1)
    assert record["version"] == street.VERSION
    assert "synthetic" in record["note"]


def test_generate_again_draws_nothing(tmp_path: Path, drawn: list[int]) -> None:
    generate(tmp_path, SCENES, *SIZE, seed=1)
    assert len(drawn) == 5
    before = _files(tmp_path)
    generate(tmp_path, SCENES, *SIZE, seed=1)
    assert len(drawn) == 5
    assert _files(tmp_path) == before


OTHERS = [({"train": 2, "val": 1}, SIZE, 1), (SCENES, (16, 32), 1), (SCENES, SIZE, 2)]


@pytest.mark.parametrize(("scenes", "size", "seed"), OTHERS)
def test_generate_other_parameters_alter_no_scene_that_is_there(
    tmp_path: Path, drawn: list[int], scenes: dict[str, int], size: tuple[int, int], seed: int
) -> None:
    generate(tmp_path, SCENES, *SIZE, seed=1)
    before = _files(tmp_path)
    drawn.clear()
    with pytest.raises(UserError, match=re.escape(f"data.root={tmp_path} holds other street (synthetic) scenes")) as no:
        generate(tmp_path, scenes, *size, seed=seed)
    assert "which runs may be using; give the data.street keys" in str(no.value)
    assert drawn == []
    assert _files(tmp_path) == before


def test_generate_scenes_of_another_version_are_other_scenes(
    tmp_path: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    generate(tmp_path, SCENES, *SIZE, seed=1)
    monkeypatch.setattr(writer, "VERSION", street.VERSION + 1)
    with pytest.raises(UserError, match=r"other street \(synthetic\) scenes \(version 1 instead of 2\)"):
        generate(tmp_path, SCENES, *SIZE, seed=1)
    assert len(drawn) == 5


NUMBERS = {"train": 3, "val": 2, "height": 32, "width": 64, "seed": 1}


def _scenes_of(**numbers: int) -> Street:
    return Street(DEFAULT_ROOT, NUMBERS | numbers)


@pytest.mark.usefixtures("drawn")
def test_street_of_each_set_of_numbers_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {}
    for name, numbers in (("few", {}), ("other seed", {"seed": 2}), ("more", {"val": 3}), ("small", {"height": 16})):
        scenes = _scenes_of(**numbers)
        scenes.prepare()
        folders[name] = scenes.folder()
        assert len(scenes.list_samples("val")) == numbers.get("val", 2)
    assert folders["few"] == Path("data/street_3_2_32x64_seed1")
    assert folders["other seed"] == Path("data/street_3_2_32x64_seed2")
    assert len(set(folders.values())) == 4
    before = _files(tmp_path)
    for numbers in ({}, {"seed": 2}):
        _scenes_of(**numbers).prepare()
    assert _files(tmp_path) == before


@pytest.mark.usefixtures("drawn")
def test_street_of_the_default_numbers_is_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asdict(StreetConfig()) == DEFAULT_SCENES
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data_set, "DEFAULT_SCENES", NUMBERS)
    _scenes_of().prepare()
    assert _scenes_of().folder() == DEFAULT_ROOT
    assert _scenes_of(seed=2)._place() == Path("data/street_3_2_32x64_seed2")


@pytest.mark.usefixtures("drawn")
def test_street_takes_what_the_default_folder_holds_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generate(DEFAULT_ROOT, SCENES, *SIZE, seed=7)  # as versions before this one drew whatever was asked for
    before = _files(tmp_path)
    assert _scenes_of(seed=7)._place() == DEFAULT_ROOT
    default = Street(DEFAULT_ROOT, DEFAULT_SCENES)
    assert default._place() == Path("data/street_96_24_256x512_seed1")
    _scenes_of(seed=7).prepare()
    assert _files(tmp_path) == before


def _generate_elsewhere(root: Path, counter: Path) -> None:
    def draw(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        with counter.open("a") as file:
            file.write(".")
        return _scribble(seed, height, width)

    writer.draw_scene = draw
    generate(root, SCENES, *SIZE, seed=1)


def test_generate_by_several_processes_at_once_draws_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    arguments = (tmp_path / "scenes", tmp_path / "count")
    ranks = [context.Process(target=_generate_elsewhere, args=arguments) for _ in range(4)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0] * 4
    assert len((tmp_path / "count").read_text()) == 5
    assert len(_files(tmp_path / "scenes")) == 11


@pytest.mark.usefixtures("drawn")
def test_generate_missing_file_is_drawn_again(tmp_path: Path) -> None:
    generate(tmp_path, SCENES, *SIZE, seed=1)
    before = _files(tmp_path)
    lost, kept = sorted((tmp_path / "gtFine" / "val").rglob("*.png"))
    lost.unlink()
    written = kept.stat().st_mtime_ns
    generate(tmp_path, SCENES, *SIZE, seed=1)
    assert _files(tmp_path) == before
    assert kept.stat().st_mtime_ns == written


@pytest.mark.usefixtures("drawn")
def test_generate_interrupted_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()

    def _interrupt(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return _scribble(seed, height, width)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "draw_scene", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path / "cut", SCENES, *SIZE, seed=1)
    left_over = tmp_path / "cut/leftImg8bit/train/streetville/streetville_000009_000019_leftImg8bit.png.123.tmp"
    left_over.write_bytes(b"half a picture")
    os.utime(left_over, (time.time() - 3600,) * 2)
    generate(tmp_path / "cut", SCENES, *SIZE, seed=1)
    generate(tmp_path / "whole", SCENES, *SIZE, seed=1)
    assert _files(tmp_path / "cut") == _files(tmp_path / "whole")


def test_generate_interrupted_set_is_no_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: list[int]) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_write_scene", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path, SCENES, *SIZE, seed=2)
    assert not writer.holds_scenes(tmp_path)
    generate(tmp_path, SCENES, *SIZE, seed=1)  # of other parameters than those that nobody could use
    assert len(drawn) == 5
    assert writer.describes(tmp_path, SCENES, *SIZE, seed=1)


@pytest.mark.usefixtures("drawn")
def test_generate_failed_write_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path, SCENES, *SIZE, seed=1)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.usefixtures("drawn")
def test_generate_keeps_files_of_others(tmp_path: Path) -> None:
    generate(tmp_path, SCENES, *SIZE, seed=1)
    foreign = [tmp_path / "notes.txt", tmp_path / "leftImg8bit/train/streetville/holiday.png",
               tmp_path / "leftImg8bit/val/bonn/bonn_000000_000019_leftImg8bit.png"]  # fmt: skip
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    (tmp_path / "street.json").write_text(json.dumps({"name": street.NAME, "version": 1, "unfinished": True}))
    generate(tmp_path, {"train": 1}, *SIZE, seed=2)
    assert [path.read_text() for path in foreign] == ["mine"] * 3
    assert len(list((tmp_path / "gtFine").rglob("*.png"))) == 1  # what an interrupted drawing had left has gone


@pytest.mark.parametrize("record", [None, "{}", "not json", '{"name": "other"}'])
@pytest.mark.parametrize("folder", ["leftImg8bit", "gtFine"])
def test_generate_refuses_foreign_folder(tmp_path: Path, record: str | None, folder: str) -> None:
    picture = tmp_path / folder / "train/aachen/aachen_000000_000019_leftImg8bit.png"
    picture.parent.mkdir(parents=True)
    picture.write_text("real data")
    if record is not None:
        (tmp_path / "street.json").write_text(record)
    before = _files(tmp_path)
    with pytest.raises(UserError, match=re.escape(str(tmp_path))) as caught:
        generate(tmp_path, SCENES, *SIZE, seed=1)
    assert "\n" not in str(caught.value)
    assert _files(tmp_path) == before


def test_generate_unwritable_root_names_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    root = tmp_path / "file" / "street"
    with pytest.raises(UserError, match=re.escape(str(root))) as caught:
        generate(root, SCENES, *SIZE, seed=1)
    assert "\n" not in str(caught.value)
