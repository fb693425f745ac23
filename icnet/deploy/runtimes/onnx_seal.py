"""The SHA-256 that an exported file carries of itself, so that changed bytes are noticed before anything runs."""

import hashlib
from pathlib import Path

from icnet.errors import UserError

CONTENT_SHA256 = "content_sha256"
"""Entry of the file's metadata: the SHA-256 of the whole file with ``UNSEALED`` in this entry's place."""

UNSEALED = "0" * 64

_BEFORE = CONTENT_SHA256.encode() + b"\x12\x40"  # protobuf's mark of a second field (the value) of 64 bytes


def seal(content: bytes) -> bytes:
    """Write the hash into a serialised model.

    Args:
        content: The model, with the entry ``CONTENT_SHA256`` = ``UNSEALED`` in its metadata.
    """
    place = _place(content)
    return b"".join((content[:place], _digest(content, place), content[place + len(UNSEALED) :]))


def refuse_changed(path: Path) -> None:
    """Compare a file with the hash in it; files without one, such as older ones, pass.

    Raises:
        UserError: If the file is not what was exported.
    """
    content = path.read_bytes()
    place = _place(content)
    if place and content[place : place + len(UNSEALED)] != _digest(content, place):
        raise UserError(
            f"{path} is not as export.py wrote it: its SHA-256 is not the one in its metadata; copy it or export it "
            f"again, or, if another program changed it on purpose, have that remove the entry {CONTENT_SHA256}"
        )


def _place(content: bytes) -> int:
    """Return where the hash begins, 0 if there is none; it lies behind the weights."""
    found = content.rfind(_BEFORE)
    return 0 if found < 0 else found + len(_BEFORE)


def _digest(content: bytes, place: int) -> bytes:
    digest = hashlib.sha256(memoryview(content)[:place])
    digest.update(UNSEALED.encode())
    digest.update(memoryview(content)[place + len(UNSEALED) :])
    return digest.hexdigest().encode()
