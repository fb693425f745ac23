"""Writing a network as a model of OpenVINO: ``.xml`` with ``.bin``, by way of its ONNX graph."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from icnet.deploy.export.graph_spec import GraphSpec
from icnet.deploy.export.onnx_export import build_onnx, finish
from icnet.deploy.runtimes.onnx_seal import CONTENT_SHA256, UNSEALED
from icnet.deploy.runtimes.openvino_segmenter import RUNTIME_INFO, import_openvino, seal
from icnet.errors import UserError
from icnet.models.modules import ImageNormalizer
from icnet.models.network import SegmentationNetwork


def export_openvino(
    net: SegmentationNetwork, normalizer: ImageNormalizer, path: Path, spec: GraphSpec,
    metadata: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write a network's evaluation mode as a model of OpenVINO.

    Args:
        net: The network; it stays as it is.
        normalizer: What turns uint8 images into the network's input.
        path: The ``.xml`` file; the weights get the same name with ``.bin``.
        spec: The graph to write.
        metadata: Further entries for the file's metadata.

    Raises:
        UserError: If openvino or onnx is missing, the network does not take the size, or a file can't be written.
    """
    import_openvino()  # before the minutes that the graph may take
    save_openvino(build_onnx(net, normalizer, spec), path, spec, metadata)


def save_openvino(model: Any, path: Path, spec: GraphSpec, metadata: Mapping[str, str] | None = None) -> None:
    """Write a graph of ONNX as a model of OpenVINO, its weights in float16 where the spec says so.

    Raises:
        UserError: As ``export_openvino``.
    """
    openvino = import_openvino()
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "graph.onnx"  # without metadata, which would stand in each branch of the model too
        graph.write_bytes(finish(model, replace(spec, precision="fp32")).SerializeToString())
        converted = openvino.convert_model(graph)
    for key in list(converted.get_rt_info()):  # what the conversion tells of the graph's file
        if key not in ("version", "Runtime_version"):
            del converted.rt_info[key]
    for key, value in ({CONTENT_SHA256: UNSEALED} | spec.metadata() | dict(metadata or {})).items():
        converted.set_rt_info(value, [RUNTIME_INFO, key])
    try:
        openvino.save_model(converted, path, compress_to_fp16=spec.precision == "fp16")
    except RuntimeError as error:  # a full disk is one too
        reason = " ".join(str(error).split())[-200:]
        raise UserError(f"{path} cannot be written by openvino ({reason}); make room there") from error
    seal(path)
