"""Writing a network as a program of torch.export: ``.pt2``."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from icnet.deploy.export.graph_spec import Exportable, GraphSpec
from icnet.deploy.runtimes.pt2_segmenter import METADATA_FILE
from icnet.errors import UserError
from icnet.models.modules import ImageNormalizer
from icnet.models.network import SegmentationNetwork
from icnet.run import files


def export_pt2(
    net: SegmentationNetwork, normalizer: ImageNormalizer, path: Path, spec: GraphSpec,
    metadata: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write a network's evaluation mode as a program.

    Args:
        net: The network; it stays as it is.
        normalizer: What turns uint8 images into the network's input.
        path: The file; written whole or not at all.
        spec: The graph to write; the opset means nothing here.
        metadata: Further entries for the file's metadata.

    Raises:
        UserError: If the network does not take the size, or torch.export cannot leave open what is to be.
        OSError: If the file can't be written.
    """
    spec.check_network(net)
    module = Exportable(net, normalizer, spec)
    axes: dict[int, Any] = {0: torch.export.Dim("batch", min=1)} if spec.batch is None else {}
    if spec.dynamic_size:
        for axis, name in ((2, "height"), (3, "width")):
            side = torch.export.Dim(name, min=-(-net.min_side // net.divisor))
            axes[axis] = net.divisor * side if net.divisor > 1 else side
    try:
        with torch.no_grad():
            program = torch.export.export(module, (spec.example(spec.batch or 2),), dynamic_shapes=(axes,))
    except Exception as error:  # of a private class; icnet_mmseg and icnet_zh320 fix the number of images (torch 2.13)
        if not axes:
            raise
        if spec.dynamic_size:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise UserError(
                f"torch.export cannot leave this network's sizes open ({reason[:200]}); leave out "
                "export.dynamic_size, or give export.target=onnx"
            ) from error
        raise UserError("torch.export fixes this network's batch; give export.batch a number") from error
    program.example_inputs = None  # 25 MB of zeros otherwise
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={METADATA_FILE: json.dumps(spec.metadata() | dict(metadata or {}))})
    files.write_bytes(path, content.getvalue())
