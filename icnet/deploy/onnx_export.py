"""Writing a network as ONNX, and proving that ONNX Runtime gets the same numbers out of it.

Every opset goes one way: torch's TorchScript exporter (the only one that writes the old opsets that Ascend's converter
takes), then, for opsets newer than that exporter knows, onnx's own version converter. Batch normalisation is folded
into the convolutions first, and with fixed sizes all arithmetic on shapes is computed here, so that the graph holds
nothing but Conv, Relu, MaxPool, Resize, MatMul and Add.
"""

import contextlib
import glob
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

import icnet
from icnet.data.street import draw_scene
from icnet.deploy.segmenter import ONNX_SUFFIX, Network, fold_batchnorm, open_session
from icnet.errors import UserError
from icnet.models.checkpoints import sha256
from icnet.models.icnet import MIN_SIDE, ICNet
from icnet.models.modules import ImageNormalizer

OLDEST_OPSET = 11  # the first whose Resize aligns corners
TRACED_OPSET = 20  # the newest that torch's TorchScript exporter writes (torch 2.9 to 2.13)
TOLERANCE = 1e-3  # largest allowed difference of a logit
HEADS = ("logits", "argmax")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Agreement:
    """How well ONNX Runtime and the network agree.

    Args:
        max_difference: Largest absolute difference of two logits; for label maps the most that the logit of the
            exported graph's label falls short of the network's best (0 if all labels agree).
        label_agreement: Share of pixels with the same label, 0-1.
        samples: Number of images compared.
    """

    max_difference: float
    label_agreement: float
    samples: int


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
        for key, side in (("height", self.height), ("width", self.width)):
            if side < MIN_SIDE:
                raise UserError(f"export.{key}={side} is too small; give at least {MIN_SIDE} pixels")
        if self.batch is not None and self.batch < 1:
            raise UserError(f"export.batch={self.batch} is out of range; give a number from 1, or dynamic")
        if not OLDEST_OPSET <= self.opset <= newest_opset():
            raise UserError(
                f"export.opset={self.opset} is out of range; give {OLDEST_OPSET} to {newest_opset()} "
                "(the newest that the installed onnx writes)"
            )
        if self.head not in HEADS:
            raise UserError(f"export.head={self.head} is unknown; choose one of {', '.join(HEADS)}")


def newest_opset() -> int:
    """Return the newest opset that the installed onnx writes.

    Raises:
        UserError: If onnx is missing.
    """
    return int(_import_onnx().defs.onnx_opset_version())


def export_onnx(
    net: ICNet, normalizer: ImageNormalizer, path: Path, spec: GraphSpec, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a network's evaluation mode as ONNX.

    Args:
        net: The network; it stays as it is.
        normalizer: What turns uint8 images into the network's input.
        path: The file; written whole or not at all.
        spec: The graph to write.
        metadata: Further entries for the file's metadata.

    Raises:
        UserError: If onnx is missing or the file can't be written.
    """
    onnx = _import_onnx()
    model = _trace(net, normalizer, spec)
    if spec.head == "logits":  # older opsets lose the number of classes in the last Resize
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = net.num_classes
    if not spec.dynamic_size:
        _compute_shapes(model)
    if spec.opset > TRACED_OPSET:
        model = onnx.version_converter.convert_version(model, spec.opset)
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)
    model.producer_name = "icnet"
    model.producer_version = icnet.__version__
    onnx.helper.set_model_props(model, {"normalize": json.dumps(spec.normalize), "head": spec.head, **(metadata or {})})
    onnx.checker.check_model(model, full_check=True)
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    _write(model.SerializeToString(), path)


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
    pictures = sample_images(images, (model.checkpoint.meta.get("data") or {}).get("root"))
    sizes = [(spec.height, spec.width)]
    if spec.dynamic_size:  # the sizes nobody traced are what it is about
        sizes.append((max(spec.height // 2 + 1, MIN_SIDE), max(spec.width // 2 + 33, MIN_SIDE)))
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
        "backbone": model.checkpoint.backbone,
        "icnet_version": icnet.__version__,
        "trained_with_version": str(meta.get("version", "unknown")),
        "data": json.dumps(meta.get("data", {})),
        "checkpoint": model.checkpoint.path.name,
        "checkpoint_sha256": sha256(model.checkpoint.path),
    }


def describe_ports(path: Path) -> tuple[str, str]:
    """Return name, type and shape of a file's input and output, such as ``image uint8 (1, 3, 1024, 2048)``."""
    session = open_session(path)
    types = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int32)": "int32"}
    given, taken = (
        f"{port.name} {types.get(port.type, port.type)} ({', '.join(map(str, port.shape))})"
        for port in (*session.get_inputs(), *session.get_outputs())
    )
    return given, taken


def verify_onnx(
    path: Path,
    net: ICNet,
    normalizer: ImageNormalizer,
    pictures: Sequence[np.ndarray],
    sizes: Sequence[tuple[int, int]],
) -> Agreement:
    """Compare ONNX Runtime with the network in float32, on random noise and on real images.

    Args:
        path: The exported file.
        net: The network in evaluation mode, as it was before anything was folded.
        normalizer: What turns uint8 images into its input.
        pictures: (h, w, 3) uint8 RGB of any size; resized.
        sizes: The (height, width) to compare at; the first is used for every picture, the others for the first one.

    Returns:
        The agreement.

    Raises:
        UserError: If a logit differs by more than 1e-3, or a label where its logit is that far below the best.
    """
    session = open_session(path)
    properties = session.get_modelmeta().custom_metadata_map
    inside, labels = properties["normalize"] == "true", properties["head"] == "argmax"
    fixed = session.get_inputs()[0].shape[0]
    batch = fixed if isinstance(fixed, int) else 2  # open: more than the one traced
    worst, same, pixels, samples = torch.zeros(()), 0, 0, 0
    for image in _samples(pictures, sizes, batch):
        with torch.inference_mode():
            x = normalizer(image)
            expected: Tensor = net(x)
        (result,) = session.run(None, {session.get_inputs()[0].name: (image if inside else x).numpy()})
        actual = torch.from_numpy(result)
        if labels:
            # A rounding error may swap two classes that score alike, and only those.
            chosen = expected.gather(1, actual.long().unsqueeze(1)).squeeze(1)
            gap = expected.amax(1) - chosen
        else:
            gap = (expected - actual).abs()
            actual = actual.argmax(1)
        worst = torch.maximum(worst, gap.max())  # keeps NaN, unlike Python's max
        same += int((expected.argmax(1) == actual).sum())
        pixels += actual.numel()
        samples += len(image)
    if not worst.item() <= TOLERANCE:  # also refuses NaN
        import onnxruntime

        raise UserError(
            f"the exported graph differs from the network by {worst.item():.2g} on a logit in onnxruntime "
            f"{onnxruntime.__version__}, more than {TOLERANCE:g}, and was not kept; "
            "try another export.opset, or check the checkpoint's weights"
        )
    return Agreement(worst.item(), same / pixels, samples)


def sample_images(given: str | None, root: str | None, count: int = 2) -> list[np.ndarray]:
    """Find real images to verify an export on.

    Args:
        given: A file, folder or glob chosen by the user.
        root: The folder of the data set that the checkpoint was trained on.
        count: How many to return at most.

    Returns:
        (h, w, 3) uint8 RGB each: from ``given``, or else from ``root`` if it exists, or else synthetic street scenes.

    Raises:
        UserError: If ``given`` yields nothing readable.
    """
    if given is not None:
        place = Path(given).expanduser()
        paths = sorted(_pictures(place) if place.is_dir() else map(Path, glob.glob(str(place), recursive=True)))
        pictures = [(path, cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)) for path in paths[:count]]
        if not pictures:
            raise UserError(f"export.images={given} matches no image; give a file, a folder or a quoted glob of images")
        for path, picture in pictures:
            if picture is None:
                raise UserError(f"export.images={given}: {path} is not a readable image; remove it or give others")
        return [picture for _, picture in pictures if picture is not None]
    found = []
    if root is not None and Path(root).is_dir():
        for path in _pictures(Path(root)):
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
            if picture is not None:
                found.append(picture)
            if len(found) == count:
                break
    return found or [draw_scene(seed, 512, 1024)[0] for seed in range(count)]


class _Exportable(nn.Module):
    """What goes into the file: the folded network, perhaps with normalisation before and ArgMax behind."""

    def __init__(self, net: ICNet, normalizer: ImageNormalizer, spec: GraphSpec) -> None:
        super().__init__()
        self.net = fold_batchnorm(net).float().cpu()
        self.net.pyramid_pooling.symbolic_size = spec.dynamic_size
        self.normalizer = normalizer if spec.normalize else nn.Identity()
        self.argmax = spec.head == "argmax"

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.net(self.normalizer(image))
        return logits.argmax(1).to(torch.int32) if self.argmax else logits


def _trace(net: ICNet, normalizer: ImageNormalizer, spec: GraphSpec) -> Any:
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
        return _import_onnx().load(file)


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


def _compute_shapes(model: Any) -> None:
    """Replace all arithmetic on known shapes by its result, in place.

    The exporter leaves chains like Shape-Slice-Concat before every Resize even where all sizes are fixed; converters
    for NPUs want to see constants there.
    """
    before = -1
    while before != len(model.graph.node):  # a Resize with a constant size lets the next pass know the shape behind it
        before = len(model.graph.node)
        _compute_shapes_once(model)


def _compute_shapes_once(model: Any) -> None:
    onnx = _import_onnx()
    # Weights become inputs here: their values say nothing about shapes, and 100 MB would be copied at every pass.
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.graph.name = model.graph.name
    light.graph.node.extend(model.graph.node)
    light.graph.input.extend(model.graph.input)
    light.graph.output.extend(model.graph.output)
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.INT64:
            light.graph.initializer.append(weight)
        else:
            light.graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    graph = onnx.shape_inference.infer_shapes(light, strict_mode=True, data_prop=True).graph
    shapes = {}
    for value in (*graph.input, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = np.array([dim.dim_value for dim in dims], np.int64)
    weights = {weight.name: weight for weight in model.graph.initializer}
    known = {
        name: onnx.numpy_helper.to_array(weight)
        for name, weight in weights.items()
        if weight.data_type == onnx.TensorProto.INT64  # sizes that an earlier pass computed
    }
    kept = []
    for node in model.graph.node:
        if node.op_type == "Constant":
            known[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Shape" and node.input[0] in shapes:
            known[node.output[0]] = shapes[node.input[0]]
        elif node.input and all(name in known for name in node.input if name):
            body = onnx.helper.make_graph(
                [node],
                "one_node",
                [],
                [onnx.helper.make_empty_tensor_value_info(name) for name in node.output],
                [onnx.numpy_helper.from_array(known[name], name) for name in node.input if name],
            )
            one_node = onnx.helper.make_model(body, opset_imports=model.opset_import)
            results = onnx.reference.ReferenceEvaluator(one_node).run(None, {})
            known.update(zip(node.output, map(np.asarray, results), strict=True))
        else:
            kept.append(node)
    used = {name for node in kept for name in node.input}
    computed = [onnx.numpy_helper.from_array(known[name], name) for name in used & (known.keys() - weights.keys())]
    remaining = [weight for name, weight in weights.items() if name in used]
    del model.graph.node[:], model.graph.value_info[:], model.graph.initializer[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend([*remaining, *sorted(computed, key=lambda tensor: tensor.name)])


def _samples(pictures: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]], batch: int) -> Iterator[Tensor]:
    """Yield (batch, 3, H, W) uint8: noise and every picture at the first size, noise and one picture at the others."""
    for i, (height, width) in enumerate(sizes):
        generator = torch.Generator().manual_seed(i)
        noise = torch.randint(0, 256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)
        yield noise
        for picture in pictures if i == 0 else pictures[:1]:
            resized = cv2.resize(picture, (width, height))
            # The rest of a batch stays noise: an export that mixes up its images would show.
            yield torch.cat([torch.from_numpy(resized).permute(2, 0, 1)[None], noise[1:]]).contiguous()


def _pictures(folder: Path) -> Iterator[Path]:
    """Yield the image files below a folder, not the ground truth of the data sets' layouts."""
    for place, folders, files in os.walk(folder):
        # gtFine (Cityscapes), masks (folder), trainannot (CamVid)
        folders[:] = sorted(f for f in folders if f not in ("gtFine", "gtCoarse", "masks") and not f.endswith("annot"))
        for file in sorted(files):
            if file.lower().endswith(PICTURE_SUFFIXES):
                yield Path(place) / file


def _numbers(buffer: Tensor) -> list[float]:
    return [round(float(value) / 255, 6) for value in buffer.flatten()]  # the buffers hold 255 times float32


def _write(content: bytes, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"{path.parent} cannot be written to ({error.strerror}); choose a place with output=FILE"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _import_onnx() -> Any:
    try:
        import onnx
        import onnx.reference
        import onnx.version_converter
    except ImportError as error:
        raise UserError("the export takes onnx; run 'pip install onnx onnxruntime'") from error
    return onnx
