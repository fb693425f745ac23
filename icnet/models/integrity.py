"""Telling damaged weight files from whole ones, as far as their format has the means; torch's reader does not look."""

import hashlib
import json
import logging
import re
import zipfile
from pathlib import Path

from icnet.errors import UserError

log = logging.getLogger(__name__)

BLOCK = 1 << 20  # bytes read at a time
ZIP_HEAD = b"PK\x03\x04"
HASH_KEY = "modelspec.hash_sha256"
"""Metadata of a ``.safetensors`` file: ``0x`` and the SHA-256 of what follows its header
(https://github.com/Stability-AI/ModelSpec, 1.0)."""


def sha256(path: Path, start: int = 0) -> str:
    """Return the SHA-256 of a file, or of what it holds from a position on, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def is_archive(path: Path) -> bool:
    """Tell whether a file is a zip archive, as ``torch.save`` writes them since torch 1.6."""
    with path.open("rb") as file:
        return file.read(len(ZIP_HEAD)) == ZIP_HEAD


def refuse_damaged(path: Path) -> None:
    """Compare a file with the checksums in it; for one that has none, say in the log that nothing can be told.

    An archive has the CRC-32 of each record, which finds any change of up to 32 bits in a row and all but one in four
    billion of the others. torch (2.13) never compares it. What no checksum covers is read by nobody. For 100 MB it
    takes 0.07 s on one CPU core, beside 0.12 s of ``torch.load``. A ``.safetensors`` file may have a hash in its
    metadata.

    Args:
        path: A file that exists. One in torch's older format has no checksums at all.

    Raises:
        UserError: If the file is not what was written.
    """
    if path.suffix == ".safetensors":
        wrong = _wrong_tensors(path)
    elif is_archive(path):
        wrong = _wrong_record(path)
    else:
        wrong = ""
    if wrong:
        raise UserError(f"{path} is damaged: {wrong}; copy or download it again")


def no_checkpoint(path: Path) -> UserError:
    """Return the error for a file that no reader makes anything of."""
    return UserError(
        f"{path} ({path.stat().st_size} bytes) is truncated or not a checkpoint; copy or download it again"
    )


def refuse_rest(path: Path, position: int) -> None:
    """Refuse a file in torch's older format that goes on behind its last tensor, and warn of what cannot be told.

    Args:
        path: The file, which has been read.
        position: Where reading ended.

    Raises:
        UserError: If there is more.
    """
    more = path.stat().st_size - position
    if more:
        raise UserError(f"{path} is damaged: {more} bytes follow its last tensor; copy or download it again")
    warn_unchecked(path, "was written by a torch before 1.6")


def _wrong_record(path: Path) -> str:
    """Say which record of an archive is not what was written; empty if all are.

    Raises:
        UserError: If it is no archive, or its records are packed.
    """
    try:
        archive = zipfile.ZipFile(path)
    except PermissionError:
        raise
    except Exception as error:  # BadZipFile, and what damaged names and numbers make of its directory
        raise no_checkpoint(path) from error
    with archive:
        records, size = archive.infolist(), path.stat().st_size
        unpacked = sum(record.file_size for record in records)
        if unpacked > size:  # which torch writes never: a few bytes could fill the memory
            raise UserError(f"{path} ({size} bytes) unpacks to {unpacked} bytes; give it as torch.save wrote it")
        if not any(record.CRC for record in records):
            warn_unchecked(path, "was saved without the CRC-32 of its records (torch.serialization.set_crc32_options)")
            return ""
        for record in records:
            try:
                with archive.open(record) as content:  # which compares at the end
                    while content.read(BLOCK):
                        pass
            except Exception:  # whatever the damage hits: its name, its place, its compression
                return f"its record {record.filename!r} is not what was written"
    return ""


def _wrong_tensors(path: Path) -> str:
    """Say whether a ``.safetensors`` file's tensors are not those of its hash; empty if they are, or it has none."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, path.stat().st_size)))
        wanted = str(header.get("__metadata__", {}).get(HASH_KEY, "")).lower().removeprefix("0x")
    except (AttributeError, ValueError):
        return ""  # the reader says so
    if not re.fullmatch("[0-9a-f]{64}", wanted):  # some programs leave it empty
        warn_unchecked(path, f"has no {HASH_KEY} in its metadata")
        return ""
    return "" if wanted == sha256(path, 8 + length) else f"its tensors do not have its {HASH_KEY}"


def warn_unchecked(path: Path, reason: str) -> None:
    """Say in the log that damage to a file cannot be told, and why."""
    log.warning("%s %s, so that it holds no checksums: changed bytes in it would not be noticed", path, reason)
