"""One face over everything that segments an image: our checkpoints, reference ``.pth`` files, exported ``.onnx``."""

import copy
import json
import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from icnet.data.labels import CITYSCAPES_CLASSES, ClassTable
from icnet.errors import UserError
from icnet.models.checkpoints import Checkpoint, load_weights, read_checkpoint
from icnet.models.icnet import ICNet
from icnet.models.modules import ImageNormalizer

log = logging.getLogger(__name__)

TORCH_SUFFIXES = (".ckpt", ".pth", ".pt", ".safetensors")
ONNX_SUFFIX = ".onnx"
REQUIRED_METADATA = ("names", "palette", "mean", "std", "normalize", "head")
"""What an ``.onnx`` file has to say about itself; ``icnet.deploy.onnx_export`` writes it."""


class Segmenter(nn.Module, ABC):
    """Segments uint8 RGB images, whatever runs it.

    Args:
        classes: The classes in channel order.
        meta: What is known about the model: a checkpoint's description or an ``.onnx`` file's metadata.
        path: The file it came from; None if it was built in memory.

    Shape:
        (N, 3, H, W) uint8 RGB to (N, C, H, W) floating point logits on the image's device.
    """

    runtime: str

    def __init__(self, classes: ClassTable, meta: dict[str, Any], path: Path | None) -> None:
        super().__init__()
        self.classes = classes
        self.meta = meta
        self.path = path

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Segment; see the class for shapes."""


class TorchSegmenter(Segmenter):
    """Runs an ICNet in evaluation mode, on any device that ``.to(device)`` moves it to.

    The given network stays as it is: a copy gets its batch normalisation folded into the convolutions and channels-last
    weights. On one CPU core, a 1024x2048 image took a ResNet-50 ICNet 2.6 s before, 2.4 s with either and 2.3 s with
    both (best of 3, torch 2.13); the logits differ by rounding, at most 7e-6 of their standard deviation.

    Args:
        net: The network.
        normalizer: What turns uint8 images into its input.
        classes: The classes in channel order.
        meta: What is known about the model.
        path: The checkpoint's file, if there is one.
    """

    runtime = "torch"

    def __init__(
        self, net: ICNet, normalizer: ImageNormalizer, classes: ClassTable, meta: dict[str, Any] | None = None,
        path: Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__(classes, meta or {}, path)
        self.net = fold_batchnorm(net).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.normalizer = copy.deepcopy(normalizer)
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def forward(self, image: Tensor) -> Tensor:
        """Segment; see the base class for shapes."""
        x: Tensor = self.normalizer(image)
        if x.device.type in ("cpu", "cuda"):  # NPUs choose their own layout
            x = x.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.net(x)
        return logits


class OnnxSegmenter(Segmenter):
    """Runs an exported ``.onnx`` file with ONNX Runtime on the CPU.

    A file with a fixed input size gets images resized to it and its logits resized back; one with a fixed batch gets
    chunks, the last one filled up. Labels (``export.head=argmax``) come out as one-hot logits, so that everything
    downstream works alike; their "probabilities" mean nothing, of course.

    Args:
        path: A file written by ``export.py``.

    Raises:
        UserError: If onnxruntime is missing, or the file is missing, broken or not from ``export.py``.
    """

    runtime = "onnxruntime"

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"there is no file {path}; give the path of an .onnx file written by export.py")
        session = open_session(path)
        meta = dict(session.get_modelmeta().custom_metadata_map)
        missing = [key for key in REQUIRED_METADATA if key not in meta]
        if missing:
            raise UserError(f"{path} lacks the metadata {', '.join(missing)}; give an .onnx file written by export.py")
        super().__init__(_classes(json.loads(meta["names"]), json.loads(meta["palette"]), _list(meta)), meta, path)
        self._session = session
        self._argmax = meta["head"] == "argmax"
        self._normalizer = (
            None if meta["normalize"] == "true" else ImageNormalizer(json.loads(meta["mean"]), json.loads(meta["std"]))
        )
        # Dynamic sides have a name instead of a number.
        batch, _, height, width = session.get_inputs()[0].shape
        self._batch = batch if isinstance(batch, int) else None
        self._height = height if isinstance(height, int) else None
        self._width = width if isinstance(width, int) else None

    @torch.inference_mode()
    def forward(self, image: Tensor) -> Tensor:
        """Segment; see the base class for shapes."""
        given = image.shape[-2:]
        wanted = (self._height or given[0], self._width or given[1])
        x = image.cpu()
        if wanted != tuple(given):
            x = F.interpolate(x.float(), wanted, mode="bilinear", antialias=True).round().clamp(0, 255).byte()
        if self._normalizer is not None:
            x = self._normalizer(x)
        logits = torch.cat([self._run(chunk) for chunk in x.split(self._batch or len(x))])
        if wanted != tuple(given):
            logits = F.interpolate(logits, tuple(given), mode="bilinear")
        return logits.to(image.device)

    def _run(self, x: Tensor) -> Tensor:
        missing = (self._batch or len(x)) - len(x)
        if missing:
            x = torch.cat([x, x[-1:].expand(missing, -1, -1, -1)])
        (result,) = self._session.run(None, {self._session.get_inputs()[0].name: x.contiguous().numpy()})
        out = torch.from_numpy(result)[: len(x) - missing]
        if self._argmax:
            return F.one_hot(out.long(), len(self.classes)).permute(0, 3, 1, 2).float()
        return out


def open_session(source: Path | bytes) -> Any:
    """Open a model with ONNX Runtime on the CPU, with as many threads as torch uses.

    Args:
        source: An ``.onnx`` file, or its content.

    Returns:
        An ``onnxruntime.InferenceSession``.

    Raises:
        UserError: If onnxruntime is missing or refuses the model.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("running an .onnx file takes onnxruntime; run 'pip install onnxruntime'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only: its warnings are about its own optimizer
    try:
        return onnxruntime.InferenceSession(
            source if isinstance(source, bytes) else str(source), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises many kinds of its own; all mean the same to the user
        name = source if isinstance(source, Path) else "the exported graph"
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name} can't be opened by onnxruntime {onnxruntime.__version__} ({reason}); "
            "export it again with a smaller export.opset, or install a newer onnxruntime"
        ) from error


@dataclass(frozen=True)
class Network:
    """A network as its checkpoint describes it.

    Args:
        net: The network with its weights, in evaluation mode, on the CPU.
        normalizer: What turns uint8 images into its input.
        classes: The classes in channel order.
        checkpoint: Where it came from.
    """

    net: ICNet
    normalizer: ImageNormalizer
    classes: ClassTable
    checkpoint: Checkpoint


def read_network(path: Path) -> Network:
    """Build the network that a checkpoint holds.

    Args:
        path: One of our ``.ckpt`` files, or a ``.pth`` of the base implementation or its Ascend port.

    Raises:
        UserError: If the file is no such checkpoint.
    """
    if path.suffix not in TORCH_SUFFIXES:
        raise UserError(f"{path} is no checkpoint; give a file that ends in {', '.join(TORCH_SUFFIXES)}")
    checkpoint = read_checkpoint(path)
    net = ICNet(checkpoint.num_classes, checkpoint.backbone)
    load_weights(net, checkpoint.state_dict, path)
    return Network(net.eval().requires_grad_(False), ImageNormalizer(), _classes_of(checkpoint), checkpoint)


def open_segmenter(path: Path, device: torch.device) -> Segmenter:
    """Open a model by its file's suffix.

    Args:
        path: ``.onnx``, or anything that ``read_network`` takes.
        device: Where a network runs; an ``.onnx`` file runs on the CPU and returns its logits to the image's device.

    Raises:
        UserError: If the file is missing, unknown or broken.
    """
    if path.suffix == ONNX_SUFFIX:
        return OnnxSegmenter(path)
    if path.suffix not in TORCH_SUFFIXES:
        raise UserError(f"{path} is no model; give a file that ends in {', '.join((*TORCH_SUFFIXES, ONNX_SUFFIX))}")
    model = read_network(path)
    meta = {**model.checkpoint.meta, "backbone": model.checkpoint.backbone}
    return TorchSegmenter(model.net, model.normalizer, model.classes, meta, path).to(device)


def find_checkpoint(given: str | None, outputs: Path = Path("outputs")) -> Path:
    """Choose the model file to use, and log its name where the user left the choice open.

    Args:
        given: What the user gave as ``ckpt``; None for the newest best checkpoint.
        outputs: Where training runs lie; sweeps lie beside it in ``multirun``.

    Returns:
        The given file, or the ``best.ckpt`` below ``outputs`` and ``multirun`` that was written last.

    Raises:
        UserError: If the given file does not exist, or there is no best checkpoint.
    """
    if given is not None:
        path = Path(given).expanduser()
        if not path.is_file():
            raise UserError(f"ckpt={given} does not exist; give the path of a .ckpt, .pth or .onnx file")
        return path
    folders = (outputs, outputs.with_name("multirun"))
    found = [path for folder in folders for path in folder.rglob("checkpoints/best.ckpt")]
    if not found:
        raise UserError(
            f"ckpt is not given and there is no best checkpoint below {outputs}/; "
            "train first with 'python train.py', or give ckpt=PATH"
        )
    newest = max(found, key=lambda path: path.stat().st_mtime_ns)
    log.info("ckpt is not given: using the newest best checkpoint, %s", newest)
    return newest


def choose_device(name: str) -> torch.device:
    """Turn a device's name into a device that is there.

    Args:
        name: ``auto`` for an accelerator where there is one, or what ``torch.device`` takes: ``cpu``, ``cuda:1``, ...

    Raises:
        UserError: If there is no such device.
    """
    here = [kind for kind in ("npu", "cuda") if hasattr(torch, kind) and getattr(torch, kind).is_available()]
    if name == "auto":
        return torch.device(here[0] if here else "cpu")
    kind, _, index = name.partition(":")
    known = kind in ("cpu", *here) and (not index or index.isdecimal())
    if not known or (index and kind != "cpu" and int(index) >= getattr(torch, kind).device_count()):
        raise UserError(f"device={name} is not available here; give one of auto, {', '.join((*here, 'cpu'))}")
    return torch.device(name)


def fold_batchnorm(net: ICNet) -> ICNet:
    """Fold every batch normalisation into the convolution before it.

    Args:
        net: A network; it stays as it is.

    Returns:
        A copy in evaluation mode that gives the same logits up to rounding, without batch normalisation.

    Raises:
        ValueError: If a batch normalisation follows no convolution that it could be folded into.
    """
    folded = copy.deepcopy(net).eval()
    for module in folded.modules():
        children = dict(module.named_children())
        for name, conv in children.items():
            # conv and bn, conv1 and bn1, or neighbours in a Sequential
            follower = str(int(name) + 1) if name.isdecimal() else name.replace("conv", "bn")
            norm = children.get(follower)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, follower, nn.Identity())
    left = [name for name, module in folded.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if left:
        raise ValueError(f"no convolution found to fold {', '.join(left)} into")
    return folded


def distinct_palette(count: int) -> tuple[tuple[int, int, int], ...]:
    """Make colours that differ well: hues a golden angle apart, in three brightnesses.

    Args:
        count: How many.

    Returns:
        One RGB colour (0-255) each; never black, which stands for ignored pixels.
    """
    import colorsys

    colours = []
    for i in range(count):
        rgb = colorsys.hsv_to_rgb((i * 0.618034) % 1, (0.85, 0.55)[i % 2], (0.95, 0.75, 0.55)[i % 3])
        colours.append(tuple(round(255 * value) for value in rgb))
    return tuple(colours)  # type: ignore[arg-type]


def _classes_of(checkpoint: Checkpoint) -> ClassTable:
    described = checkpoint.meta.get("classes")
    if described:
        return _classes(described["names"], described["palette"], described.get("categories") or ())
    count = checkpoint.num_classes
    if count == len(CITYSCAPES_CLASSES):  # what the published checkpoints were trained on
        return CITYSCAPES_CLASSES
    return ClassTable(tuple(f"class_{i}" for i in range(count)), distinct_palette(count))


def _classes(names: Any, palette: Any, categories: Any) -> ClassTable:
    colours = tuple((int(red), int(green), int(blue)) for red, green, blue in palette)
    return ClassTable(tuple(map(str, names)), colours, tuple(map(str, categories)))


def _list(meta: dict[str, str]) -> Any:
    return json.loads(meta.get("categories", "[]"))
