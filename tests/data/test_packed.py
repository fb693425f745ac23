"""Packed samples equal decoded ones, whatever happened to sources, processes and disks in between."""

import errno
import json
import logging
import mmap
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from icnet.config import DataConfig
from icnet.data.base import SamplePaths
from icnet.data.datamodule import SegmentationDataModule
from icnet.data.device_augmentation import WindowTransform
from icnet.data.packed import PackedSamples, SamplesInMemory
from icnet.data.transforms import TrainTransform
from icnet.errors import UserError
from icnet.factory import data_module
from icnet.run import files

SIZES = [(4, 6), (5, 3), (8, 8), (1, 1)]


def decode_of(samples, calls=None):
    def decode(index):
        if calls is not None:
            calls.append(index)
        sample = samples[index]
        return cv2.imread(str(sample.image))[..., ::-1], cv2.imread(str(sample.mask), cv2.IMREAD_UNCHANGED) + 1

    return decode


def write(sample, seed):
    rng = np.random.default_rng(seed)
    height, width = SIZES[seed % len(SIZES)]
    cv2.imwrite(str(sample.image), rng.integers(0, 256, (height, width, 3), np.uint8))
    cv2.imwrite(str(sample.mask), rng.integers(0, 5, (height, width), np.uint8))


@pytest.fixture
def samples(tmp_path):
    names = ["a", "b/c", "ä ö", "d"]  # a name may hold what a file's name may not
    found = [SamplePaths(name, tmp_path / f"{n}.png", tmp_path / f"{n}_mask.png") for n, name in enumerate(names)]
    for seed, sample in enumerate(found):
        write(sample, seed)
    return found


def packed(tmp_path, samples, calls=None, labels=b"19"):
    return PackedSamples(tmp_path / "packed", samples, decode_of(samples, calls), labels, "toys, train")


def assert_equal(store, samples):
    decode = decode_of(samples)
    for index in range(len(samples)):
        for ours, theirs in zip(store[index], decode(index), strict=True):
            assert ours.dtype == np.uint8
            assert np.array_equal(ours, theirs)


def test_samples_of_all_sizes_equal_their_sources_and_are_mapped(tmp_path, samples):
    store = packed(tmp_path, samples)
    store.pack(2)
    assert_equal(store, samples)
    assert all(isinstance(array.base, mmap.mmap) and not array.flags.writeable for array in store[2])
    plain = np.load(next((tmp_path / "packed").glob("a.image.npy")))  # a standard file, for anybody
    assert np.array_equal(plain, decode_of(samples)(0)[0])


def test_memory_equals_the_sources(samples):
    store = SamplesInMemory(samples, decode_of(samples), "toys")
    store.pack(2)
    assert_equal(store, samples)


def test_only_what_changed_is_packed_again(tmp_path, samples):
    packed(tmp_path, samples).pack(2)
    calls = []
    packed(tmp_path, samples, calls).pack(2)
    assert calls == []
    write(samples[1], seed=6)  # another size
    os.utime(samples[3].mask, ns=(5, 5))  # touched
    store = packed(tmp_path, samples, calls)
    store.pack(2)
    assert sorted(calls) == [1, 3]
    assert_equal(store, samples)
    next((tmp_path / "packed").glob("d.mask.npy")).unlink()
    calls.clear()
    packed(tmp_path, samples, calls).pack(2)
    assert calls == [3]


def test_other_samples_and_other_labels(tmp_path, samples):
    packed(tmp_path, samples).pack(2)
    calls = []
    packed(tmp_path, samples[::-1][:2], calls).pack(2)  # fewer, in another order
    assert calls == []
    packed(tmp_path, samples, calls, labels=b"2").pack(2)  # train ids that mean something else
    assert sorted(calls) == [0, 1, 2, 3]


def test_other_files_of_the_same_name_size_and_time_are_not_taken_for_these(tmp_path, samples):
    others = [SamplePaths(sample.name, sample.image, sample.mask.with_suffix(".bmp")) for sample in samples]
    for sample, other in zip(samples, others, strict=True):
        plain = sample._replace(mask=sample.mask.with_name(f"{sample.mask.stem}_plain.bmp"))
        labels = cv2.imread(str(sample.mask), cv2.IMREAD_UNCHANGED)
        for path, values in ((plain.mask, labels), (other.mask, labels + 7)):
            cv2.imwrite(str(path), values)
            os.utime(path, ns=(5, 5))
        samples[samples.index(sample)] = plain
    packed(tmp_path, samples).pack(2)
    store = packed(tmp_path, others)
    store.pack(2)
    assert_equal(store, others)


def test_runs_on_other_masks_below_the_same_root_do_not_share_a_folder(tmp_path):
    (tmp_path / "classes.yaml").write_text("classes:\n- {name: a, color: [1, 2, 3]}\n- {name: b, color: [3, 2, 1]}\n")
    for name, value in (("images", 9), ("fine", 0), ("coarse", 1)):
        for split in ("train", "val"):
            (tmp_path / name / split).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / name / split / "1.bmp"), np.full((8, 8), value, np.uint8))
    fine, coarse = (
        data_module(
            DataConfig(
                name="folder",
                root=str(tmp_path),
                masks=f"{name}/{{split}}/{{stem}}",
                cache="packed",
                cache_folder=str(tmp_path / "cache"),
            ),
            seed=1,
        )
        for name in ("fine", "coarse")
    )
    for module in (fine, coarse):  # the first is still reading when the second packs
        module.setup("test")
    assert int(fine.val[0]["mask"].max()) == 0
    assert int(coarse.val[0]["mask"].min()) == 1


@pytest.fixture
def cityscapes(tmp_path):
    """Make a folder in Cityscapes' layout, of which every pixel has one value and one label."""

    def make(name, value, label):
        for kind, suffix, content in (("leftImg8bit", "leftImg8bit", value), ("gtFine", "gtFine_labelIds", label)):
            for split in ("train", "val"):
                folder = tmp_path / name / kind / split / "town"
                folder.mkdir(parents=True)
                cv2.imwrite(str(folder / f"town_000000_000019_{suffix}.png"), np.full((8, 8), content, np.uint8))
        return tmp_path / name

    return make


def opened(root, tmp_path):
    config = DataConfig(name="cityscapes", root=root, cache="packed", cache_folder=str(tmp_path / "cache"))
    module = data_module(config, seed=1)
    module.setup("test")
    return module


def test_roots_that_the_environment_names_do_not_share_a_folder(cityscapes, tmp_path, monkeypatch):
    one, other = cityscapes("one", 10, 7), cityscapes("other", 200, 8)
    monkeypatch.setenv("CITYSCAPES_DATASET", str(one))
    first = opened(None, tmp_path)
    monkeypatch.setenv("CITYSCAPES_DATASET", str(other))
    second = opened(None, tmp_path)
    assert (int(first.val[0]["image"].max()), int(first.val[0]["mask"].max())) == (10, 0)
    assert (int(second.val[0]["image"].max()), int(second.val[0]["mask"].max())) == (200, 1)


def test_one_root_however_it_is_spelled_is_packed_once(cityscapes, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    root = cityscapes("one", 10, 7)
    opened(str(root), tmp_path)
    assert caplog.text.count("packing 1 of 1") == 1
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CITYSCAPES_DATASET", "one")
    for spelled in (str(tmp_path / "link"), f"{root}/../one", "one", None):
        opened(spelled, tmp_path)
    assert caplog.text.count("packing") == 1


@pytest.mark.parametrize("left", [None, 0, 5, 90, 140])
def test_a_damaged_file_is_named(tmp_path, samples, left):
    store = packed(tmp_path, samples)
    store.pack(2)
    path = tmp_path / "packed" / "a.image.npy"
    if left is None:
        path.unlink()
    else:
        os.truncate(path, left)
    with pytest.raises(UserError, match=r"a\.image\.npy or its mask is missing or damaged; delete both"):
        store[0]


def test_what_is_packed_already_needs_no_writing(tmp_path, samples, monkeypatch):
    packed(tmp_path, samples).pack(2)

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(PackedSamples, "_locked", refuse)  # what opens a file for writing
    store = packed(tmp_path, samples)
    store.pack(2)
    assert_equal(store, samples)


def test_names_that_are_too_long_for_files_once_they_are_written_in_ascii(tmp_path, samples):
    samples[:2] = [sample._replace(name="街" * 80 + str(n)) for n, sample in enumerate(samples[:2])]
    store = packed(tmp_path, samples)
    store.pack(2)
    assert_equal(store, samples)


def _pack_slowly(folder, samples, marker):
    decode = decode_of(samples)

    def slow(index):
        with open(marker, "a") as file:
            file.write(f"{index}\n")
        time.sleep(0.1)
        return decode(index)

    PackedSamples(folder, samples, slow, b"19", "toys").pack(1)


def test_eight_processes_at_once_decode_each_sample_once(tmp_path, samples):
    context = multiprocessing.get_context("fork")
    marker = tmp_path / "decoded.txt"
    processes = [context.Process(target=_pack_slowly, args=(tmp_path / "packed", samples, marker)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    assert sorted(marker.read_text().split()) == ["0", "1", "2", "3"]
    assert_equal(packed(tmp_path, samples), samples)


def test_killed_while_packing_it_goes_on(tmp_path, samples, monkeypatch):
    monkeypatch.setattr("icnet.data.packed.SAVE_EVERY", 0)
    marker = tmp_path / "decoded.txt"
    process = multiprocessing.get_context("fork").Process(
        target=_pack_slowly, args=(tmp_path / "packed", samples, marker)
    )
    process.start()
    while not (tmp_path / "packed" / "index.json").exists():
        assert process.is_alive()
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (tmp_path / "packed" / f".a.image.npy.1{files.SUFFIX}").write_bytes(b"half")  # as by one that was killed in writing
    calls = []
    store = packed(tmp_path, samples, calls)
    store.pack(2)
    assert 1 <= len(calls) < len(samples)
    assert not [path for path in (tmp_path / "packed").iterdir() if path.suffix == files.SUFFIX]
    assert_equal(store, samples)


@pytest.mark.parametrize(
    ("room", "needed"),
    [
        (0, 4 * (4 * 6 * 4)),  # four samples as large as the first
        (5, 2 * (352 + 316) // 2),  # two as large as the mean file of the first two, headers of 128 bytes included
    ],
)
def test_a_full_disk_leaves_nothing_half_made_and_names_the_space(tmp_path, samples, monkeypatch, room, needed):
    write_array, written = np.lib.format.write_array, []

    def fill(file, array, **kwargs):
        written.append(file.name)
        if len(written) > room:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write_array(file, array, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "write_array", fill)
        told = rf"no room for the rest of toys, train: about {needed} bytes are needed and .* free"
        with pytest.raises(UserError, match=told):
            packed(tmp_path, samples).pack(1)
    left = [path.name for path in (tmp_path / "packed").iterdir() if path.suffix == files.SUFFIX]
    assert left == []
    calls = []
    store = packed(tmp_path, samples, calls)
    store.pack(1)
    assert len(calls) == len(samples) - room // 2
    assert_equal(store, samples)


def test_too_little_space_is_said_before_it_is_used_up(tmp_path, samples, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    calls = []
    with pytest.raises(UserError, match=r"data.cache_folder, or data.cache=off"):
        packed(tmp_path, samples, calls).pack(2)
    assert calls == [0]


def test_what_is_replaced_makes_its_own_room(tmp_path, samples, monkeypatch):
    packed(tmp_path, samples).pack(2)
    for sample in samples:
        os.utime(sample.mask, ns=(5, 5))
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    calls = []
    packed(tmp_path, samples, calls).pack(2)
    assert sorted(calls) == [0, 1, 2, 3]


def test_a_bad_source_is_named_and_the_rest_stays(tmp_path, samples):
    decode = decode_of(samples)

    def broken(index):
        if index == 2:
            raise UserError("2.png is damaged; copy it again")
        return decode(index)

    with pytest.raises(UserError, match="2.png is damaged"):
        PackedSamples(tmp_path / "packed", samples, broken, b"19", "toys").pack(1)
    assert json.loads((tmp_path / "packed" / "index.json").read_text())["samples"].keys() >= {"a", "b/c"}


def test_memory_that_does_not_suffice_is_refused(samples, monkeypatch):
    monkeypatch.setattr("icnet.data.packed._free_memory", lambda: 10)
    with pytest.raises(UserError, match=r"data.cache=memory needs about .* use data.cache=packed"):
        SamplesInMemory(samples, decode_of(samples), "toys").pack(2)


def test_the_cost_is_said_before_it_starts(tmp_path, samples, caplog):
    caplog.set_level(logging.INFO)
    packed(tmp_path, samples).pack(2)
    told = r"toys, train: packing 4 of 4 samples into .*packed, about 288 bytes and \d+ s with 2 threads"
    assert re.search(told, caplog.text)
    assert Path(tmp_path / "packed" / "index.json").is_file()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["packed", "memory"])
@pytest.mark.parametrize("augment_on", [lambda transform: transform, WindowTransform], ids=["host", "device"])
def test_batches_equal_those_from_files_in_mid_epoch_too(make_dataset, tmp_path, augment_on, kind, workers):
    def module(cache):
        train, val = (
            make_dataset(7, transform=transform, seed=8)
            for transform in (augment_on(TrainTransform((16, 24), (16, 40), color_jitter=0.2)), None)
        )
        for dataset in (train, val):
            if cache == "packed":
                folder = tmp_path / "packed"
                dataset.cache = PackedSamples(folder, dataset.samples, dataset.decode, dataset.coding, "toys")
            elif cache == "memory":
                dataset.cache = SamplesInMemory(dataset.samples, dataset.decode, "toys")
        made = SegmentationDataModule(train, val, batch_size=2, workers=workers, seed=3)
        made.setup("fit")
        for sample in train.samples if cache else ():
            sample.image.rename(sample.image.with_suffix(".gone"))  # nobody reads it any more
        batches = [batch for loader in (made.train_dataloader(), made.val_dataloader()) for batch in loader]
        loader = made.train_dataloader()
        loader.position = lambda: (1, 2)
        batches += list(loader)
        for sample in train.samples if cache else ():
            sample.image.with_suffix(".gone").rename(sample.image)
        return [made.on_after_batch_transfer(batch, 0) for batch in batches]

    plain, cached = module(None), module(kind)
    assert len(plain) == len(cached) == 3 + 7 + 1
    for ours, theirs in zip(cached, plain, strict=True):
        assert ours["name"] == theirs["name"]
        assert torch.equal(ours["image"], theirs["image"])
        assert torch.equal(ours["mask"], theirs["mask"])
