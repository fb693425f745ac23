"""Writing a network as a program of torch.export: ``.pt2``."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

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
        UserError: If the network does not take the size, or that is left open.
        OSError: If the file can't be written.
    """
    spec.check_network(net)
    if spec.dynamic_size:  # torch.export makes a number of every side that a network looks at (seen in 2.13)
        raise UserError("export.dynamic_size=true is not for export.target=pt2; leave it out, or give target=onnx")
    module = Exportable(net, normalizer, spec)
    open_batch = {0: torch.export.Dim("batch", min=1)} if spec.batch is None else {}
    try:
        with torch.no_grad():
            program = torch.export.export(module, (spec.example(spec.batch or 2),), dynamic_shapes=(open_batch,))
    except Exception as error:  # of a private class; icnet_mmseg and icnet_zh320 fix the number of images (torch 2.13)
        if spec.batch is not None:
            raise
        raise UserError("torch.export fixes this network's batch; give export.batch a number") from error
    program.example_inputs = None  # 25 MB of zeros otherwise
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={METADATA_FILE: json.dumps(spec.metadata() | dict(metadata or {}))})
    files.write_bytes(path, content.getvalue())
