"""Exporting a checkpoint: one entry of ``TARGETS`` for each form, compared with the network before it is kept."""

import contextlib
import glob
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from icnet.data import public_description
from icnet.deploy.export.graph_spec import GraphSpec
from icnet.deploy.export.guard import ProvingGround, quantize_guarded
from icnet.deploy.export.om_export import export_om, graph_file, script_file
from icnet.deploy.export.onnx_export import build_onnx, export_onnx, save_onnx
from icnet.deploy.export.openvino_export import export_openvino, save_openvino
from icnet.deploy.export.profiles import PROFILES
from icnet.deploy.export.pt2_export import export_pt2
from icnet.deploy.export.quantize import import_nncf
from icnet.deploy.export.verify import TOLERANCES, Agreement, open_exported, sample_images, verify
from icnet.deploy.runtimes.exported_segmenter import ExportedSegmenter
from icnet.deploy.runtimes.heads import HEADS
from icnet.deploy.runtimes.om_segmenter import OM_SUFFIX
from icnet.deploy.runtimes.onnx_session import ONNX_SUFFIX
from icnet.deploy.runtimes.openvino_segmenter import OPENVINO_SUFFIX
from icnet.deploy.runtimes.pt2_segmenter import PT2_SUFFIX
from icnet.deploy.trained_network import Network, trained_on
from icnet.errors import UserError
from icnet.models import name_in_files
from icnet.models.integrity import sha256
from icnet.models.modules import ImageNormalizer
from icnet.models.network import SegmentationNetwork
from icnet.run import files
from icnet.run.exports import SCORES, ExportScores, facts_file
from icnet.run.schema import plain
from icnet.version import __version__


@dataclass(frozen=True)
class Target:
    """A form that a network is exported in.

    Args:
        suffix: Of its files.
        write: Writes a network's evaluation mode into a file, perhaps with others of its name beside it, and says what
            it is in its metadata. May raise ``UserError`` and ``OSError``.
        head: The head where none is chosen.
        profiles: The profiles that it may have, first that where none is chosen.
        checked: The file that is compared with the network, where it is not the one that is written.
        script: What makes the file of those beside it, where it could not be made here.
        save: Writes a graph of ONNX (``onnx.ModelProto``) with the arguments path, spec and metadata, for forms that
            are made of one: these take every precision.
        advice: What to do about other precisions where there is no ``save``.
    """

    suffix: str
    write: Callable[[SegmentationNetwork, ImageNormalizer, Path, GraphSpec, Mapping[str, str]], None]
    head: str = "logits"
    profiles: tuple[str, ...] = ("generic",)
    checked: Callable[[Path], Path] = lambda path: path
    script: Callable[[Path], Path] | None = None
    save: Callable[..., None] | None = None
    advice: str = ""


TARGETS = {
    "onnx": Target(ONNX_SUFFIX, export_onnx, profiles=tuple(PROFILES), save=save_onnx),
    "pt2": Target(PT2_SUFFIX, export_pt2, advice="give export.target=onnx or openvino"),
    "openvino": Target(OPENVINO_SUFFIX, export_openvino, profiles=("generic", "cpu"), save=save_openvino),
    "om": Target(
        OM_SUFFIX,
        export_om,
        "argmax_u8",
        ("ascend", "generic"),
        graph_file,
        script_file,
        advice="leave it out: atc computes in float16 by itself, and Ascend's AMCT makes int8 of the .om.onnx file",
    ),
}
"""The forms by the name of ``export.target``."""


def default_file(model: Network, target: str = "onnx") -> Path:
    """Return the file that a network is exported to where nothing is given, in the current folder."""
    return Path(name_in_files(model.checkpoint.network.name) + TARGETS[target].suffix)


def export_verified(
    model: Network, path: Path, spec: GraphSpec, images: str | None = None, target: str = "onnx",
    ground: ProvingGround | None = None,
) -> Agreement:  # fmt: skip
    """Export a checkpoint's network and keep the file only if it reproduces the network.

    In int8 it is the same graph in float32 that has to reproduce the network; the file in int8 may lose so much mIoU.

    Beside it, ``NAME.json`` (such as ``ICNet.onnx.json``) tells what it is: see ``facts``.

    Args:
        model: The checkpoint's network.
        path: The file; an older one is replaced only after everything has succeeded.
        spec: The graph to write.
        images: Real images to compare on, a file, folder or glob; None chooses, see ``sample_images``.
        target: A key of ``TARGETS``.
        ground: What int8 is calibrated and scored on; other precisions need none.

    Returns:
        How well both agree.

    Raises:
        UserError: If they disagree, int8 costs too much, a package is missing, or the folder can't be written to.
        OSError: If a file can't be written.
    """
    kind = TARGETS[target]
    if path.is_dir():
        raise UserError(f"output={path} is a folder; give a file in it or beside it that ends in {kind.suffix}")
    if path.suffix != kind.suffix:
        raise UserError(f"output={path} is no name for export.target={target}; give one that ends in {kind.suffix}")
    if spec.profile not in kind.profiles:
        raise UserError(
            f"export.profile={spec.profile} is not for export.target={target}; give {' or '.join(kind.profiles)}"
        )
    if spec.precision != "fp32" and kind.save is None:
        raise UserError(f"export.precision={spec.precision} is not for export.target={target}; {kind.advice}")
    if (spec.precision == "int8") != (ground is not None):
        raise ValueError("int8 takes a proving ground, and nothing else does")
    spec.check_network(model.net)
    _refuse_folder(facts_file(path))
    pictures = sample_images(images, (model.checkpoint.meta.get("data") or {}).get("root"))
    sizes = [(spec.height, spec.width)]
    if spec.dynamic_size:  # the sizes nobody traced are what it is about
        sizes.append((model.net.allowed_side(spec.height // 2 + 1), model.net.allowed_side(spec.width // 2 + 33)))
    with _folder_beside(path) as folder:  # before the minutes that an export may take
        candidate = folder / path.name
        whole = candidate if ground is None else folder / "float32" / path.name  # what reproduces the network
        if ground is None:
            kind.write(model.net, model.normalizer, candidate, spec, describe(model))
        else:
            import_nncf()  # before the minutes that the graph may take
            whole.parent.mkdir()
            kind.write(model.net, model.normalizer, whole, replace(spec, precision="fp32"), describe(model))
        if path.exists() and not whole.exists():
            raise UserError(
                f"{path} cannot be made here and there is an older one; remove it, or choose another output=FILE"
            )
        exported = open_exported(kind.checked(whole))
        agreement = verify(exported, model.net, model.normalizer, pictures, sizes, TOLERANCES[spec.precision])
        scores = None
        if ground is not None and kind.save is not None:
            save = partial(kind.save, spec=spec, metadata=describe(model))
            graph = build_onnx(model.net, model.normalizer, spec)
            scores = quantize_guarded(graph, whole, candidate, save, ground, symmetric=spec.symmetric)
            exported = open_exported(candidate)
        made = sorted(folder.glob(f"{glob.escape(path.stem)}.*"))  # atc leaves others behind
        told = facts(target, spec, agreement, exported, made, scores)
        files.write_text(facts_file(candidate), json.dumps(told, indent=2) + "\n")
        ready = sorted([*made, facts_file(candidate)], key=lambda file: file == candidate)  # the file itself last
        for file in ready:
            _refuse_folder(path.parent / file.name)
        for file in ready:
            file.replace(path.parent / file.name)
    return agreement


def facts(
    target: str, spec: GraphSpec, agreement: Agreement, exported: ExportedSegmenter, made: list[Path],
    scores: ExportScores | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return what is known of an export: what it is, what it was made of, how it was checked, the files' hashes.

    With scores, what was checked is the graph in float32 that the file was made of.
    """
    return {
        "target": target,
        "graph": asdict(spec),
        "outputs": HEADS[spec.head].about,
        "metadata": exported.meta,
        "checked": {"runtime": exported.runtime, **asdict(agreement)},
        **({SCORES: plain(scores)} if scores else {}),
        "files": {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in made},
    }


def describe(model: Network) -> dict[str, str]:
    """Return the metadata that make an exported file independent of its checkpoint: plain strings or JSON."""
    meta = model.checkpoint.meta
    return {
        "names": json.dumps(model.classes.names),
        "palette": json.dumps(model.classes.palette),
        "categories": json.dumps(model.classes.categories),
        "mean": json.dumps(_numbers(model.normalizer.mean)),
        "std": json.dumps(_numbers(model.normalizer.std)),
        "model": json.dumps(model.checkpoint.network.plain()),
        "min_side": str(model.net.min_side),
        "divisor": str(model.net.divisor),
        "icnet_version": __version__,
        "trained_with_version": str(meta.get("version", "unknown")),
        "data": json.dumps(public_description(meta.get("data") or {})),
        "data_title": trained_on(meta),
        "checkpoint": model.checkpoint.path.name,
        "checkpoint_sha256": model.checkpoint.sha256,
    }


def _numbers(buffer: Tensor) -> list[float]:
    return [float(f"{float(value) / 255:.6g}") for value in buffer.flatten()]  # the buffers hold 255 times float32


def _refuse_folder(file: Path) -> None:
    if file.is_dir():
        raise UserError(f"{file} is a folder, and a file of that name is to be written; move it, or choose output=FILE")


@contextlib.contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """Make a folder beside a file that is to be written, and remove it afterwards."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{path.stem}.", dir=path.parent)
    except OSError as error:
        raise UserError(
            f"{path.parent} cannot be written to ({error.strerror}); choose a place with output=FILE"
        ) from error
    with folder as name:
        yield Path(name)
