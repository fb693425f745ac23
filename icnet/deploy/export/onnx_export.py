"""Writing a network as ONNX.

Every opset goes one way: torch's TorchScript exporter (the only one that writes the old opsets that Ascend's converter
takes), then, for opsets newer than that exporter knows, onnx's own version converter. Batch normalisation is folded
into the convolutions first, and with fixed sizes all arithmetic on shapes is computed beforehand, so that ICNet's graph
holds nothing but Conv, Relu, MaxPool, Resize, Reshape, MatMul and Add.
"""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from icnet.deploy.export.graph_spec import Exportable, GraphSpec
from icnet.deploy.export.label_borders import label_at_borders
from icnet.deploy.export.onnx_graph import complete, compute_shapes, convert, fold_padding, import_onnx, to_float16
from icnet.deploy.export.profiles import PROFILES, check_graph
from icnet.deploy.runtimes.heads import HEADS
from icnet.deploy.runtimes.onnx_seal import CONTENT_SHA256, UNSEALED, seal
from icnet.models.modules import ImageNormalizer
from icnet.models.network import SegmentationNetwork
from icnet.run import files
from icnet.version import __version__

TRACED_OPSET = 20  # the newest that torch's TorchScript exporter writes (torch 2.9 to 2.13)


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
        UserError: If onnx is missing, the network does not take the size, or the profile does not allow the graph.
        OSError: If the file can't be written.
    """
    save_onnx(build_onnx(net, normalizer, spec), path, spec, metadata)


def build_onnx(net: SegmentationNetwork, normalizer: ImageNormalizer, spec: GraphSpec) -> Any:
    """Return a network's evaluation mode as a graph of ONNX (``onnx.ModelProto``) in float32.

    Raises:
        UserError: As ``export_onnx``.
    """
    spec.check_network(net)
    model = _trace(net, normalizer, spec)
    if spec.head == "logits":  # older opsets lose the number of classes in the last Resize
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = net.num_classes
    if not spec.dynamic_size:
        compute_shapes(model)
        fold_padding(model)
    return convert(model, spec.opset) if spec.opset > TRACED_OPSET else model


def save_onnx(model: Any, path: Path, spec: GraphSpec, metadata: Mapping[str, str] | None = None) -> None:
    """Write a graph of ONNX, in float16 where the spec says so: see ``export_onnx``; ``model`` may change."""
    model = finish(model, spec)
    own = {CONTENT_SHA256: UNSEALED} | spec.metadata()
    import_onnx().helper.set_model_props(model, own | dict(metadata or {}))
    files.write_bytes(path, seal(model.SerializeToString()))


def finish(model: Any, spec: GraphSpec) -> Any:
    """Return a graph of ONNX as its precision and profile want it, checked; ``model`` may change.

    Raises:
        UserError: If the profile does not allow it.
    """
    if spec.precision == "fp16":
        model = to_float16(model)
    if PROFILES[spec.profile].labels_at_borders:
        model = label_at_borders(model)
    model.ir_version = import_onnx().helper.find_min_ir_version_for(model.opset_import)
    model.producer_name = "icnet"
    model.producer_version = __version__
    model = complete(model)
    check_graph(model, spec.profile)
    return model


def _trace(net: SegmentationNetwork, normalizer: ImageNormalizer, spec: GraphSpec) -> Any:
    batch = {0: "batch"} if spec.batch is None else {}
    image_axes = batch | ({2: "height", 3: "width"} if spec.dynamic_size else {})
    label_axes = batch | ({1: "height", 2: "width"} if spec.dynamic_size else {})
    names = HEADS[spec.head].outputs
    axes = {name: image_axes if name == "logits" else label_axes for name in names}
    with tempfile.TemporaryDirectory() as folder, _quiet_exporter(), torch.inference_mode():
        file = Path(folder) / "traced.onnx"
        torch.onnx.export(
            Exportable(net, normalizer, spec),
            (spec.example(spec.batch or 1),),
            str(file),
            dynamo=False,
            opset_version=min(spec.opset, TRACED_OPSET),
            input_names=["image"],
            output_names=list(names),
            dynamic_axes={"image": image_axes, **axes},
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
