"""What runs in the benchmark of inference: a process for each contender, which answers requests about it."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from benchmarks import common
from benchmarks.memory import PeakMemory
from benchmarks.reference import import_reference
from icnet import factory
from icnet.config import DataConfig
from icnet.data.labels import CITYSCAPES_CLASSES, IGNORE_INDEX
from icnet.deploy import open_segmenter
from icnet.deploy.runtimes.exported_segmenter import ExportedSegmenter
from icnet.deploy.runtimes.segmenter import Segmenter
from icnet.deploy.runtimes.torch_segmenter import TorchSegmenter
from icnet.errors import UserError
from icnet.models import build_network
from icnet.training.metrics import segmentation_metrics

DEVICE = torch.device("cpu")


@dataclass(frozen=True)
class Contender:
    """What a process runs.

    Args:
        file: What it opens.
        precision: A key of ``common.DTYPES``; other than float32: autocast.
        compiled: Whether torch compiles it.
        reference: Clone of the reference, whose forward pass is run instead, with its initial weights.
        backbone: Of the reference.
    """

    file: str
    precision: str = "float32"
    compiled: bool = False
    reference: str = ""
    backbone: str = ""


def data_config(*parts: Any) -> DataConfig:
    """Merge parts of the configuration of a data set: dictionaries or what OmegaConf loads."""
    merged: DataConfig = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), *parts))  # type: ignore[assignment]
    return merged


@contextlib.contextmanager
def worker(contender: Contender, threads: int, images: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Start a process that runs a contender, and end it.

    Yields:
        What asks it: see ``answers``; a dictionary with ``error`` alone where it cannot.
    """
    words = [json.dumps(asdict(contender)), str(threads), str(images)]
    program = "from benchmarks.contender import serve; serve()"
    with subprocess.Popen(
        [sys.executable, "-c", program, *words],
        cwd=common.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        requests, replies = process.stdin, process.stdout

        def ask(**request: object) -> dict[str, Any]:
            try:
                requests.write(json.dumps(request) + "\n")
                requests.flush()
                reply = replies.readline()
            except BrokenPipeError:
                reply = ""
            if not reply:
                sys.exit(f"error: the process that runs {contender.file} has ended")
            answer: dict[str, Any] = json.loads(reply)
            return answer

        try:
            yield ask
        finally:
            with contextlib.suppress(BrokenPipeError):
                requests.close()  # its loop over standard input ends


def serve() -> None:
    """Be a worker: read requests from standard input, a JSON object in each line, and answer likewise."""
    contender, threads, images = Contender(**json.loads(sys.argv[1])), int(sys.argv[2]), np.load(sys.argv[3])
    out, sys.stdout = sys.stdout, sys.stderr  # libraries may print
    common.prepare(threads)
    answer: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    for line in sys.stdin:
        try:
            answer = answer or answers(contender, images)
            reply = answer(json.loads(line))
        except UserError as error:
            reply = {"error": str(error)}
        print(json.dumps(reply), file=out, flush=True)


def answers(contender: Contender, images: np.ndarray) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Open a contender and return what answers requests.

    ``run`` computes the labels of an image, writes them where ``labels`` says, and tells the seconds that it took,
    whole, before and after the network; ``memory`` tells the peak; ``score`` the mIoU on ``data``.
    """
    opened = (reference_network if contender.reference else segmenter)(contender)
    peak = PeakMemory(DEVICE)

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        casts = common.autocast(DEVICE, contender.precision)
        with torch.inference_mode(), casts:
            if request["do"] == "memory":
                return {"GiB": peak.process()}
            if request["do"] == "score":
                return {"miou": score(opened, data_config(request["data"]))}
            pixels = torch.from_numpy(images[request["image"]]).permute(2, 0, 1)[None]
            start = time.perf_counter()
            labels = opened.label(pixels)
            end = time.perf_counter()
        if "labels" in request:
            np.save(request["labels"], labels.numpy())
        began, ended = opened.watch
        if contender.reference:  # its forward pass alone
            return {"whole": ended - began, "before": 0.0, "after": 0.0}
        return {"whole": end - start, "before": began - start, "after": end - ended}

    return answer


@dataclass(frozen=True)
class Opened:
    """What labels images.

    Args:
        label: (N, 3, H, W) uint8 RGB to (N, H, W) uint8 labels.
        watch: When the network began and ended last.
        num_classes: Number of classes.
    """

    label: Callable[[torch.Tensor], torch.Tensor]
    watch: list[float]
    num_classes: int


def segmenter(contender: Contender) -> Opened:
    """Open what the project runs."""
    found = open_segmenter(Path(contender.file), DEVICE, compiled=contender.compiled)
    watch = [0.0, 0.0]
    _watch(found, watch)
    return Opened(found.labels, watch, len(found.classes))


def _watch(found: Segmenter, watch: list[float]) -> None:
    """Note when the network begins and ends: what a runtime computes, normalisation too where it is compiled in."""

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any) -> Any:
            watch[0] = time.perf_counter()
            result = function(*values)
            watch[1] = time.perf_counter()
            return result

        return call

    if isinstance(found, ExportedSegmenter):
        found.outputs = timed(found.outputs)  # type: ignore[method-assign]
    elif isinstance(found, TorchSegmenter) and found._compiled is not None:
        found._compiled = timed(found._compiled)
    elif isinstance(found, TorchSegmenter):
        found.net.forward = timed(found.net.forward)


def reference_network(contender: Contender) -> Opened:
    """Open the reference's network."""
    (kind,) = import_reference(Path(contender.reference), "models.icnet:ICNet")
    torch.manual_seed(0)  # the weights that the others were given
    net = kind(len(CITYSCAPES_CLASSES), contender.backbone, pretrained_base=False).eval()
    normalizer = build_network("icnet", len(CITYSCAPES_CLASSES), backbone=contender.backbone).normalizer()
    watch = [0.0, 0.0]

    def label(pixels: torch.Tensor) -> torch.Tensor:
        image = normalizer(pixels)
        watch[0] = time.perf_counter()
        logits = net(image)[0]
        watch[1] = time.perf_counter()
        labels: torch.Tensor = logits.argmax(1).to(torch.uint8)
        return labels

    return Opened(label, watch, len(CITYSCAPES_CLASSES))


def score(opened: Opened, data: DataConfig) -> float:
    """Return the mIoU on all validation images, 0-1.

    Raises:
        UserError: If the data have other classes.
    """
    module = factory.data_module(data, seed=1)
    if len(module.classes) != opened.num_classes:
        raise UserError(f"it knows {opened.num_classes} classes and --data {data.name} has {len(module.classes)}")
    metrics = segmentation_metrics(len(module.classes), IGNORE_INDEX)
    for index in range(len(module.val)):
        sample = module.val[index]
        metrics.update(opened.label(sample["image"][None]).long(), sample["mask"][None].long())
    return float(metrics.compute()["miou"])
