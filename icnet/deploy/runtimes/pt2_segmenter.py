"""Programs of torch.export, ``.pt2``, run by torch on any of its devices."""

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self, override

from icnet.deploy.runtimes.exported_segmenter import ExportedSegmenter
from icnet.errors import UserError

PT2_SUFFIX = ".pt2"
METADATA_FILE = "icnet.json"
"""The extra file with the metadata: a JSON object of texts."""

PLAIN = ("archive_format", "archive_version", "byteorder", ".data/", ".format_version", ".storage_alignment",
         "data/weights/", "data/constants/", "data/sample_inputs/", "models/", "extra/")  # fmt: skip
"""What a program of tensors consists of, below the archive's own folder; there are no libraries and no legacy files."""


class Pt2Segmenter(ExportedSegmenter):
    """Runs a program where the images are.

    Args:
        path: A file written by ``export.py``.

    Raises:
        UserError: If the file is missing, damaged or not from ``export.py``, or holds more than tensors.
    """

    runtime = "torch.export"
    on_cpu = False

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"there is no file {path}; give the path of a {PT2_SUFFIX} file written by export.py")
        refuse_damage_and_code(path)
        extra = {METADATA_FILE: ""}
        try:
            program = torch.export.load(path, extra_files=extra)
            meta = json.loads(extra[METADATA_FILE] or "{}")
            image = next(node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
            shape = list(image.meta["val"].shape)
        except Exception as error:  # damaged files make the reader raise many kinds
            raise _unreadable(path, str(error)) from error
        if not isinstance(meta, dict) or not all(isinstance(value, str) for value in meta.values()):
            raise _unreadable(path, f"{METADATA_FILE} in it is no object of texts")
        super().__init__(path, meta, shape)
        self._program, self._device = program, torch.device("cpu")
        self._call = program.module().__call__

    @classmethod
    @override
    def open(cls, path: Path, device: torch.device) -> Self:
        opened = cls(path)
        opened.follow(device)
        return opened

    @classmethod
    @override
    def suffix_of(cls, head: bytes) -> str:
        # The first entry of the archive, whose folder has the name of the file that was written.
        return PT2_SUFFIX if head.startswith(b"PK\x03\x04") and b"/data/weights/" in head[:300] else ""

    @override
    def follow(self, device: torch.device) -> None:
        if device != self._device:  # a program makes tensors on the device that it was exported on
            from torch.export.passes import move_to_device_pass  # only now: it takes a while

            self._program = move_to_device_pass(self._program, device)
            self._call, self._device = self._program.module().__call__, device

    @override
    def outputs(self, x: Tensor) -> Sequence[Tensor]:
        found: Any = self._call(x)
        return [found] if isinstance(found, Tensor) else list(found)


def refuse_damage_and_code(path: Path) -> None:
    """Compare a file's entries with their checksums, and look for pickled objects, which torch would run.

    Raises:
        UserError: If something is damaged, or there is more than tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            if damaged:
                raise _unreadable(path, f"the checksum of {damaged} differs")
            for name in archive.namelist():
                inside = name.partition("/")[2]
                if not inside.startswith(PLAIN) or "custom_obj" in inside or "opaque_obj" in inside:
                    raise _unreadable(path, f"it holds {name}, which is no tensor")
                if inside.startswith("data/sample_inputs/") and archive.getinfo(name).file_size:
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)  # torch.export.load would run it
                elif inside.endswith("_config.json"):
                    entries = json.loads(archive.read(name)).get("config", {})
                    pickled = [key for key, entry in entries.items() if entry.get("use_pickle")]
                    if pickled:
                        raise _unreadable(path, f"{pickled[0]} in it is pickled")
    except UserError:
        raise
    except Exception as error:  # no archive, or a damaged one, raises many kinds
        raise _unreadable(path, str(error)) from error


def _unreadable(path: Path, reason: str) -> UserError:
    told = " ".join(reason.split())[:200]
    return UserError(f"{path} can't be opened by torch {torch.__version__} ({told}); export it again")
