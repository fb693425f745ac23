"""Writing a checkpoint's network in another form: ``python -m icnet.models FILE --to FORM OUT``."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save
from torch import Tensor

from icnet.deploy.trained_network import model_title, read_network
from icnet.errors import UserError
from icnet.models import network_options
from icnet.models.checkpoints import Checkpoint
from icnet.models.integrity import HASH_KEY
from icnet.models.published import LAYOUTS, to_reference
from icnet.models.weight_files import META_KEY, NET_PREFIX
from icnet.run.files import atomic_file
from icnet.version import __version__


def convert(path: Path, form: str, out: Path, *, half: bool = False) -> str:
    """Write the network of a checkpoint in another form; every number stays, and so does its format unless ``half``.

    Args:
        path: A checkpoint of a whole network.
        form: A key of ``FORMS``.
        out: The file to write; there must be none.
        half: Round the weights to float16, for a file of half the size; vectors, such as the statistics of batch
            normalisation, whose range float16 may lack, stay.

    Returns:
        What was written, in one line.

    Raises:
        UserError: If the checkpoint cannot be read or its network has no such form, or ``out`` exists, cannot be
            written, or has another suffix than such files have.
    """
    if form not in FORMS:
        raise UserError(f"--to {form} is unknown; choose one of {', '.join(FORMS)}")
    suffix, write = FORMS[form]
    if out.suffix != suffix:
        raise UserError(f"{out} is no name for --to {form}; give one that ends in {suffix}")
    checkpoint = read_network(path).checkpoint
    if half:
        checkpoint = replace(checkpoint, state_dict=_halved(checkpoint))
    write_new(out, lambda file: write(checkpoint, file))
    left = ["the state of its training"] if checkpoint.resumable else []
    if form == "reference" and checkpoint.meta:
        left.append("what it tells of its classes and data")
    without = f", without {' and '.join(left)}" if left else ""
    rounded = ", weights in float16" if half else ""
    return f"{out} holds the {len(checkpoint.state_dict)} tensors of {path} in the form {form}{rounded}{without}"


def _halved(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Round the weights to float16.

    Raises:
        UserError: If one is too large for that.
    """
    halved = {
        key: value.half() if value.is_floating_point() and value.dim() > 1 else value
        for key, value in checkpoint.state_dict.items()
    }
    lost = [
        key for key, value in halved.items() if not torch.equal(value.isfinite(), checkpoint.state_dict[key].isfinite())
    ]
    if lost:
        raise UserError(f"{checkpoint.path} has weights beyond the range of float16 ({lost[0]}); leave out --half")
    return halved


def write_new(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file that does not exist, whole or not at all.

    Args:
        path: The file.
        write: Writes the content into the open file.

    Raises:
        UserError: If it exists or cannot be written.
    """
    if path.exists():
        raise UserError(f"{path} exists and would be overwritten; remove it or give another name")
    try:
        with atomic_file(path) as file:
            write(file)
    except (OSError, RuntimeError) as error:  # torch wraps some errors of writing in a RuntimeError
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"{path} cannot be written ({reason}); make room there or give another name") from error


def described(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a checkpoint of ours tells of its network: all that this one tells, or what its tensors do.

    Classes that a published file does not name stay without names.
    """
    return checkpoint.meta or {"version": __version__, "model": checkpoint.network.plain()}


def write_safetensors(checkpoint: Checkpoint, file: BinaryIO) -> None:
    """Write the network's tensors under our names, with its description and their SHA-256 in the metadata.

    The same network gives the same bytes: the library's own metadata come in any order.
    """
    content = memoryview(save(_tensors(checkpoint)))
    start = 8 + int.from_bytes(content[:8], "little")
    digest = hashlib.sha256(content[start:]).hexdigest()
    metadata = {"format": "pt", META_KEY: json.dumps(described(checkpoint)), HASH_KEY: f"0x{digest}"}
    header = json.dumps({"__metadata__": metadata, **json.loads(bytes(content[8:start]))}).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8
    for part in (len(header).to_bytes(8, "little"), header, content[start:]):
        file.write(part)


def _write_checkpoint(checkpoint: Checkpoint, file: BinaryIO) -> None:
    tensors = {f"{NET_PREFIX}{key}": value for key, value in _tensors(checkpoint).items()}
    torch.save({"state_dict": tensors, META_KEY: described(checkpoint)}, file)


def _write_reference(checkpoint: Checkpoint, file: BinaryIO) -> None:
    network = checkpoint.network
    wanted = network.name, network_options(network.name, network.options)
    try:
        fits = LAYOUTS["reference"].describe(checkpoint.state_dict, checkpoint.path)
        has_form = not network.widths and (fits.name, network_options(fits.name, fits.options)) == wanted
    except UserError:  # its tensors are those of another network
        has_form = False
    if not has_form:
        raise UserError(
            f"{checkpoint.path} holds {model_title({'model': network.plain()})}, which is no network of "
            "liminn/ICNet-pytorch; choose --to safetensors or --to icnet"
        )
    torch.save(to_reference(_tensors(checkpoint)), file)


def _tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Copy the tensors, each into memory of its own, in the usual order: files hold all of what a tensor is cut of."""
    return {
        key: value.detach().clone(memory_format=torch.contiguous_format)
        for key, value in checkpoint.state_dict.items()
    }  # fmt: skip


FORMS: dict[str, tuple[str, Callable[[Checkpoint, BinaryIO], None]]] = {
    "reference": (".pth", _write_reference),
    "safetensors": (".safetensors", write_safetensors),
    "icnet": (".ckpt", _write_checkpoint),
}
"""What a checkpoint can be written as: the suffix of such files, and what writes one."""
