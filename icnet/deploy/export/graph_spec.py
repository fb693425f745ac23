"""The graph that an export writes, whatever it is written as."""

import json
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from icnet.deploy.export.onnx_graph import newest_opset
from icnet.deploy.export.profiles import PROFILES
from icnet.deploy.runtimes.heads import HEADS
from icnet.errors import UserError
from icnet.models.folding import fold_batchnorm
from icnet.models.modules import ImageNormalizer
from icnet.models.network import SegmentationNetwork, describe_sides

OLDEST_OPSET = 11  # the first whose Resize aligns corners
PER_CHANNEL_OPSET = 13  # the first whose DequantizeLinear has an axis
PRECISIONS = {
    "fp32": "float32",
    "fp16": "float16",
    "int8": "int8 by NNCF, weights with a scale for each channel",
}
"""The numbers of ``export.precision`` and what the graph computes or is stored in."""


@dataclass(frozen=True)
class GraphSpec:
    """The graph to write.

    The input ``image`` is (N, 3, H, W): normalised float32 RGB, or uint8 RGB with ``normalize``. The outputs are those
    of the head. Labels are int32 with ``argmax``: what Ascend's ArgMax yields, and the narrowest integer that every
    runtime takes at every opset.

    Args:
        height: Rows of the input.
        width: Columns of the input.
        batch: Images per call; None leaves it open.
        dynamic_size: Leave height and width open too.
        opset: Of ONNX, 11 to ``newest_opset()``.
        head: A key of ``HEADS``.
        normalize: Put the normalisation into the graph.
        profile: A key of ``PROFILES``, whose target the ONNX graph is for.
        soc: The chip that Ascend's atc compiles for, as ``--soc_version`` takes it; only for ``.om``.
        precision: A key of ``PRECISIONS``.
        symmetric: int8 without zero points, as TensorRT takes it.

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
    profile: str = "generic"
    soc: str = "Ascend310P3"
    precision: str = "fp32"
    symmetric: bool = False

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
        if self.profile not in PROFILES:
            raise UserError(f"export.profile={self.profile} is unknown; choose one of {', '.join(PROFILES)}")
        if self.precision not in PRECISIONS:
            raise UserError(f"export.precision={self.precision} is unknown; choose one of {', '.join(PRECISIONS)}")
        if self.precision == "int8" and self.opset < PER_CHANNEL_OPSET:
            raise UserError(
                f"export.opset={self.opset} has no scale for each channel, which export.precision=int8 takes; give "
                f"{PER_CHANNEL_OPSET} or more"
            )
        if self.precision == "int8" and not PROFILES[self.profile].takes_int8(symmetric=self.symmetric):
            with_zeros = f" with export.symmetric={str(self.symmetric).lower()}; leave export.symmetric out, or"
            told = with_zeros if PROFILES[self.profile].takes_int8(symmetric=True) else ";"
            raise UserError(
                f"export.profile={self.profile} does not allow export.precision=int8{told} give export.precision=fp32"
            )

    def check_network(self, net: SegmentationNetwork) -> None:
        """Refuse what does not suit the network.

        Raises:
            UserError: If a side is too short, or no multiple of what the network asks for, or the head has no room for
                its classes.
        """
        most = HEADS[self.head].most_classes
        if net.num_classes > most:
            raise UserError(
                f"export.head={self.head} has room for {most} classes and the network has {net.num_classes}; "
                "give argmax or logits"
            )
        for key, side in (("height", self.height), ("width", self.width)):
            if side != net.allowed_side(side):
                wrong = "is too small" if side < net.min_side else "does not suit the network"
                raise UserError(f"export.{key}={side} {wrong}; give {describe_sides(net.min_side, net.divisor)}")

    def metadata(self) -> dict[str, str]:
        """Return what a file has to say of the graph in it."""
        return {"normalize": json.dumps(self.normalize), "head": self.head, "precision": self.precision}

    def describe_input(self) -> str:
        """Say what goes in, such as ``image uint8 (1, 3, 1024, 2048)``."""
        height, width = ("height", "width") if self.dynamic_size else (self.height, self.width)
        kind = "uint8" if self.normalize else "float32"
        return f"image {kind} ({'batch' if self.batch is None else self.batch}, 3, {height}, {width})"

    def example(self, batch: int) -> Tensor:
        """Return an input of zeros for so many images."""
        kind = torch.uint8 if self.normalize else torch.float32
        return torch.zeros(batch, 3, self.height, self.width, dtype=kind)


class Exportable(nn.Module):
    """What goes into the file: the folded network, perhaps with normalisation before, and a head behind."""

    def __init__(self, net: SegmentationNetwork, normalizer: ImageNormalizer, spec: GraphSpec) -> None:
        super().__init__()
        self.net = fold_batchnorm(net).float().cpu()
        self.net.prepare_export(dynamic_size=spec.dynamic_size)
        self.normalizer = normalizer if spec.normalize else nn.Identity()
        self.attach = HEADS[spec.head].attach
        self.eval()

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Compute the head's outputs."""
        return self.attach(self.net(self.normalizer(image)))
