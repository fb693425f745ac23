"""Writing a network as ONNX.

Every opset goes one way: torch's TorchScript exporter (the only one that writes the old opsets that Ascend's converter
takes), then, for opsets newer than that exporter knows, onnx's own version converter. Batch normalisation is folded
into the convolutions first, and with fixed sizes all arithmetic on shapes is computed beforehand, so that ICNet's graph
holds nothing but Conv, Relu, MaxPool, Resize, MatMul and Add.
"""

import contextlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from icnet.data import public_description
from icnet.deploy.onnx_graph import complete, compute_shapes, convert, import_onnx, newest_opset
from icnet.deploy.onnx_seal import CONTENT_SHA256, UNSEALED, seal
from icnet.deploy.onnx_session import HEADS, ONNX_SUFFIX
from icnet.deploy.trained_network import Network, trained_on
from icnet.deploy.verify import Agreement, sample_images, verify_onnx
from icnet.errors import UserError
from icnet.models import name_in_files
from icnet.models.folding import fold_batchnorm
from icnet.models.modules import ImageNormalizer
from icnet.models.network import SegmentationNetwork, describe_sides
from icnet.run import files
from icnet.version import __version__

OLDEST_OPSET = 11  # the first whose Resize aligns corners
TRACED_OPSET = 20  # the newest that torch's TorchScript exporter writes (torch 2.9 to 2.13)


@dataclass(frozen=True)
class GraphSpec:
    """The graph to write.

    The input ``image`` is (N, 3, H, W): normalised float32 RGB, or uint8 RGB with ``normalize``. The output is
    ``logits``, (N, C, H, W) float32, or ``labels``, (N, H, W) int32: what Ascend's ArgMax yields, and the narrowest
    integer that every runtime takes at every opset.

    Args:
        height: Rows of the input.
        width: Columns of the input.
        batch: Images per call; None leaves it open.
        dynamic_size: Leave height and width open too.
        opset: 11 to ``newest_opset()``.
        head: ``logits`` or ``argmax``.
        normalize: Put the normalisation into the graph.

    Raises:
        UserError: If a value is out of its range, or onnx is missing.
    """

    height: int = 1024
    width: int = 2048
    batch: int | None = 1
    dynamic_size: bool = False
    opset: int = 17
    head: str = "logits"
    normalize: bool = False

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.batch is not None and self.batch < 1:
            raise UserError(f"export.batch={self.batch} is out of range; give a number from 1, or dynamic")
        if not OLDEST_OPSET <= self.opset <= newest_opset():
            raise UserError(
                f"export.opset={self.opset} is out of range; give {OLDEST_OPSET} to {newest_opset()} "
                "(the newest that the installed onnx writes)"
            )
        if self.head not in HEADS:
            raise UserError(f"export.head={self.head} is unknown; choose one of {', '.join(HEADS)}")

    def check_size(self, net: SegmentationNetwork) -> None:
        """Refuse a size that the network does not take.

        Raises:
            UserError: If a side is too short, or no multiple of what the network asks for.
        """
        for key, side in (("height", self.height), ("width", self.width)):
            if side != net.allowed_side(side):
                wrong = "is too small" if side < net.min_side else "does not suit the network"
                raise UserError(f"export.{key}={side} {wrong}; give {describe_sides(net.min_side, net.divisor)}")


def export_onnx(
    net: SegmentationNetwork, normalizer: ImageNormalizer, path: Path, spec: GraphSpec,
    metadata: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write a network's evaluation mode as ONNX.

    Args:
        net: The network; it stays as it is.
        normalizer: What turns uint8 images into the network's input.
        path: The file; written whole or not at all.
        spec: The graph to write.
        metadata: Further entries for the file's metadata.

    Raises:
        UserError: If onnx is missing, the network does not take the size, or the file can't be written.
    """
    spec.check_size(net)
    onnx = import_onnx()
    model = _trace(net, normalizer, spec)
    if spec.head == "logits":  # older opsets lose the number of classes in the last Resize
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = net.num_classes
    if not spec.dynamic_size:
        compute_shapes(model)
    if spec.opset > TRACED_OPSET:
        model = convert(model, spec.opset)
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)
    model.producer_name = "icnet"
    model.producer_version = __version__
    own = {CONTENT_SHA256: UNSEALED, "normalize": json.dumps(spec.normalize), "head": spec.head}
    onnx.helper.set_model_props(model, own | dict(metadata or {}))
    _write(seal(complete(model).SerializeToString()), path)


def default_file(model: Network) -> Path:
    """Return the file that a network is exported to where nothing is given, in the current folder."""
    return Path(name_in_files(model.checkpoint.network.name) + ONNX_SUFFIX)


def export_verified(model: Network, path: Path, spec: GraphSpec, images: str | None = None) -> Agreement:
    """Export a checkpoint's network and keep the file only if ONNX Runtime reproduces the network.

    Args:
        model: The checkpoint's network.
        path: The file; an older one is replaced only after everything has succeeded.
        spec: The graph to write.
        images: Real images to compare on, a file, folder or glob; None chooses, see ``sample_images``.

    Returns:
        How well both agree.

    Raises:
        UserError: If they disagree, onnx or onnxruntime is missing, or the file can't be written.
    """
    if path.suffix != ONNX_SUFFIX or path.is_dir():
        raise UserError(f"output={path} is no name for an ONNX file; give one that ends in {ONNX_SUFFIX}")
    spec.check_size(model.net)
    _make_folder(path.parent)  # before the minutes that an export may take
    pictures = sample_images(images, (model.checkpoint.meta.get("data") or {}).get("root"))
    sizes = [(spec.height, spec.width)]
    if spec.dynamic_size:  # the sizes nobody traced are what it is about
        sizes.append((model.net.allowed_side(spec.height // 2 + 1), model.net.allowed_side(spec.width // 2 + 33)))
    candidate = path.with_name(f".{path.stem}.{os.getpid()}.candidate.onnx")
    try:
        export_onnx(model.net, model.normalizer, candidate, spec, describe(model))
        agreement = verify_onnx(candidate, model.net, model.normalizer, pictures, sizes)
        candidate.replace(path)
    finally:
        with contextlib.suppress(OSError):  # where writing failed there is nothing to remove
            candidate.unlink(missing_ok=True)
    return agreement


def describe(model: Network) -> dict[str, str]:
    """Return the metadata that make an ``.onnx`` file independent of its checkpoint: plain strings or JSON."""
    meta = model.checkpoint.meta
    return {
        "names": json.dumps(model.classes.names),
        "palette": json.dumps(model.classes.palette),
        "categories": json.dumps(model.classes.categories),
        "mean": json.dumps(_numbers(model.normalizer.mean)),
        "std": json.dumps(_numbers(model.normalizer.std)),
        "model": json.dumps(asdict(model.checkpoint.network)),
        "min_side": str(model.net.min_side),
        "divisor": str(model.net.divisor),
        "icnet_version": __version__,
        "trained_with_version": str(meta.get("version", "unknown")),
        "data": json.dumps(public_description(meta.get("data") or {})),
        "data_title": trained_on(meta),
        "checkpoint": model.checkpoint.path.name,
        "checkpoint_sha256": model.checkpoint.sha256,
    }


class _Exportable(nn.Module):
    """What goes into the file: the folded network, perhaps with normalisation before and ArgMax behind."""

    def __init__(self, net: SegmentationNetwork, normalizer: ImageNormalizer, spec: GraphSpec) -> None:
        super().__init__()
        self.net = fold_batchnorm(net).float().cpu()
        self.net.prepare_export(dynamic_size=spec.dynamic_size)
        self.normalizer = normalizer if spec.normalize else nn.Identity()
        self.argmax = spec.head == "argmax"

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.net(self.normalizer(image))
        return logits.argmax(1).to(torch.int32) if self.argmax else logits


def _trace(net: SegmentationNetwork, normalizer: ImageNormalizer, spec: GraphSpec) -> Any:
    image = torch.zeros(
        spec.batch or 1, 3, spec.height, spec.width, dtype=torch.uint8 if spec.normalize else torch.float32
    )
    batch = {0: "batch"} if spec.batch is None else {}
    image_axes = batch | ({2: "height", 3: "width"} if spec.dynamic_size else {})
    label_axes = batch | ({1: "height", 2: "width"} if spec.dynamic_size else {})
    labels = spec.head == "argmax"
    output = "labels" if labels else "logits"
    with tempfile.TemporaryDirectory() as folder, _quiet_exporter(), torch.inference_mode():
        file = Path(folder) / "traced.onnx"
        torch.onnx.export(
            _Exportable(net, normalizer, spec).eval(),
            (image,),
            str(file),
            dynamo=False,
            opset_version=min(spec.opset, TRACED_OPSET),
            input_names=["image"],
            output_names=[output],
            dynamic_axes={"image": image_axes, output: label_axes if labels else image_axes},
        )
        return import_onnx().load(file)


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter's remarks: that it is the older one, and that the network looks at its input's size."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _numbers(buffer: Tensor) -> list[float]:
    return [float(f"{float(value) / 255:.6g}") for value in buffer.flatten()]  # the buffers hold 255 times float32


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"{folder} cannot be written to ({error.strerror}); choose a place with output=FILE")


def _write(content: bytes, path: Path) -> None:
    _make_folder(path.parent)
    try:
        files.write_bytes(path, content)
    except OSError as error:
        raise _unwritable(path.parent, error) from error
