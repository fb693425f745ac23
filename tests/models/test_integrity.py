"""Damaged weight files: refused in one line, or what they give is what was written."""

import hashlib
import json
import struct
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from icnet.errors import UserError
from icnet.models import NETWORKS, SegmentationNetwork, build_network
from icnet.models.checkpoints import read_checkpoint
from icnet.models.imagenet_weights import read_backbone
from icnet.models.integrity import HASH_KEY
from icnet.models.weight_files import load_file
from icnet.training.checkpoint_io import AtomicCheckpointIO

COPIES = 150


class Tiny(SegmentationNetwork):
    """Weights of a few kilobytes."""

    loss_weights = {"main": 1.0}
    classifiers = ("main.",)

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        self.main = nn.Conv2d(8, num_classes, 1)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(NETWORKS, "tiny", Tiny)


@pytest.fixture
def ours(tmp_path) -> Path:
    """A checkpoint as train.py writes one, with a run's state."""
    torch.manual_seed(0)
    net = build_network("tiny", 3)
    path = tmp_path / "best.ckpt"
    content = {
        "state_dict": {f"net.{key}": value for key, value in net.state_dict().items()},
        "icnet": {
            "model": {"name": "tiny", "options": {}, "num_classes": 3},
            "classes": {"names": ["road", "sky", "tree"], "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]},
        },
        "loops": {}, "pytorch-lightning_version": "2.6.6",
        "optimizer_states": [{"momentum": [torch.randn(300, 40), torch.randn(70)]}],
    }  # fmt: skip
    AtomicCheckpointIO().save_checkpoint(content, path)
    return path


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip bits, zero a block, cut something out or off, or insert something, anywhere."""
    kind, place = rng.integers(5), int(rng.integers(len(content)))
    size = int(rng.integers(1, 600))
    if kind == 0:
        changed = bytearray(content)
        for _ in range(rng.integers(1, 9)):
            changed[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        return bytes(changed)
    if kind == 1:
        return content[:place] + bytes(len(content[place : place + size])) + content[place + size :]
    if kind == 2:
        return content[:place]
    if kind == 3:
        return content[:place] + content[place + size :]
    return content[:place] + rng.bytes(size) + content[place:]


def alike(one: object, other: object) -> bool:
    """Whether two contents are the same, tensors to the bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(alike(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(alike, one, other))
    return one == other


def refused(read, path: Path) -> str:
    """The one line with which a file is refused; empty if it is read."""
    message = ""
    try:
        read(path)
    except UserError as error:
        message = str(error)
    assert "\n" not in message
    assert not message or str(path) in message
    return message


def resume(path: Path) -> dict:
    return AtomicCheckpointIO().load_checkpoint(path, weights_only=True)


def test_damaged_checkpoint_is_refused_or_the_same(ours, tmp_path):
    whole, content = read_checkpoint(ours), ours.read_bytes()
    assert whole.resumable
    rng, path = np.random.default_rng(9), tmp_path / "damaged.ckpt"
    messages = []
    for _ in range(COPIES):
        path.write_bytes(damage(content, rng))
        messages.append(refused(read_checkpoint, path))
        assert bool(refused(resume, path)) == bool(messages[-1])
        if not messages[-1]:
            found = read_checkpoint(path)
            assert alike(found.state_dict, whole.state_dict)
            assert (found.kind, found.meta, found.resumable) == (whole.kind, whole.meta, whole.resumable)
            assert alike(load_file(path), load_file(ours))
    assert sum(map(bool, messages)) > 0.5 * COPIES  # the others hit what nobody reads, such as padding


def test_damaged_file_of_another_program_is_refused_or_the_same(tmp_path):
    torch.save(
        {"module.conv1.weight": torch.randn(20, 20), "bn.num_batches_tracked": torch.tensor(7)}, tmp_path / "a.pth"
    )
    whole, content = load_file(tmp_path / "a.pth"), (tmp_path / "a.pth").read_bytes()
    rng, path = np.random.default_rng(3), tmp_path / "damaged.pth"
    for _ in range(COPIES):
        path.write_bytes(damage(content, rng))
        assert refused(load_file, path) or alike(load_file(path), whole)


def flipped_weight(path: Path) -> Path:
    """Flip one bit of one weight in place."""
    content = bytearray(path.read_bytes())
    weight = read_checkpoint(path).state_dict["main.weight"].numpy().tobytes()
    content[content.index(weight) + 5] ^= 64
    path.write_bytes(content)
    return path


def test_one_flipped_bit_names_the_file_and_what_to_do(ours):
    message = refused(read_checkpoint, flipped_weight(ours))
    assert message.startswith(f"{ours} is damaged: its record 'archive/data/")
    assert message.endswith("is not what was written; copy or download it again")


def test_resuming_reads_no_damaged_checkpoint(ours):
    assert resume(ours)["loops"] == {}
    assert "is damaged" in refused(resume, flipped_weight(ours))


# ---------------------------------------------------------------- files without checksums


def test_older_format_is_read_with_a_warning_and_its_end_is_checked(tmp_path, caplog):
    path = tmp_path / "old.pth"
    torch.save({"a": torch.arange(50.0), "b": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    assert load_file(path)["a"][49] == 49
    assert f"{path} was written by a torch before 1.6, so that it holds no checksums" in caplog.text
    content = path.read_bytes()
    path.write_bytes(content + b"more")
    assert "4 bytes follow its last tensor" in refused(load_file, path)
    path.write_bytes(content[:-60] + bytes(8) + content[-60:])  # shifts what follows
    assert refused(load_file, path)


def test_archive_written_without_checksums_is_read_with_a_warning(tmp_path, caplog):
    path = tmp_path / "fast.pth"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(50.0)}, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert load_file(path)["a"][49] == 49
    assert "holds no checksums" in caplog.text


# ---------------------------------------------------------------- safetensors


@pytest.fixture
def hashed(tmp_path) -> Path:
    """A ``.safetensors`` file with the hash of ModelSpec, worked out here."""
    path, tensors = tmp_path / "a.safetensors", {"conv1.weight": torch.randn(4, 5)}
    save_file(tensors, path)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    save_file(tensors, path, {HASH_KEY: "0x" + hashlib.sha256(content[8 + length :]).hexdigest()})
    return path


def test_tensors_with_the_hash_of_the_metadata_load(hashed, caplog):
    assert load_file(hashed)["conv1.weight"].shape == (4, 5)
    assert not caplog.text
    content = hashed.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert HASH_KEY in json.loads(content[8 : 8 + length])["__metadata__"]


def test_tensors_without_the_hash_of_the_metadata_are_refused(hashed):
    content = bytearray(hashed.read_bytes())
    content[-3] ^= 1
    hashed.write_bytes(content)
    assert refused(load_file, hashed).startswith(f"{hashed} is damaged: its tensors do not have its {HASH_KEY}")


@pytest.mark.parametrize("metadata", [None, {HASH_KEY: ""}])
def test_tensors_without_any_hash_load_with_a_warning(tmp_path, caplog, metadata):
    save_file({"a": torch.ones(3)}, tmp_path / "a.safetensors", metadata)
    assert load_file(tmp_path / "a.safetensors")["a"].tolist() == [1, 1, 1]
    assert f"has no {HASH_KEY} in its metadata, so that it holds no checksums" in caplog.text


@pytest.mark.parametrize("change", [b"", b"x"])
def test_download_whose_cache_calls_it_by_another_hash_is_refused(tmp_path, monkeypatch, change):
    save_file({"a": torch.ones(3)}, tmp_path / "file")
    content = (tmp_path / "file").read_bytes()
    blob = tmp_path / hashlib.sha256(content + change).hexdigest()
    blob.write_bytes(content)
    (tmp_path / "model.safetensors").symlink_to(blob)
    hub = ModuleType("huggingface_hub")
    hub.hf_hub_download = lambda *_: str(tmp_path / "model.safetensors")
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    if change:
        with pytest.raises(UserError, match="does not have the SHA-256 .*; remove it to download it again"):
            read_backbone("timm/some.net")
    else:
        assert read_backbone("timm/some.net")["a"].tolist() == [1, 1, 1]


def test_packed_archive_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    torch.save({"x": torch.zeros(1 << 20)}, tmp_path / "whole.pth")
    path = tmp_path / "packed.pth"
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for record in whole.infolist():
            packed.writestr(record.filename, whole.read(record))
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("a record was unpacked"))
    with pytest.raises(UserError, match=r"packed\.pth \(\d+ bytes\) unpacks to 419\d{4} bytes; give it as torch\.save"):
        load_file(path)
