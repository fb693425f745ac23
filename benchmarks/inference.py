"""Time what runs a trained network, from a uint8 image to its labels: runtimes, precisions and networks in turns.

    python -m benchmarks.inference
    python -m benchmarks.inference --reference ../ICNet-pytorch --repeats 20
    python -m benchmarks.inference --networks icnet icnet_paper best.ckpt --files ICNet_int8.onnx ICNet_int8.xml
    python -m benchmarks.inference --networks best.ckpt --data cityscapes --root PATH

Each network, by its name (untrained) or as a checkpoint, is run by torch (eager, compiled, and eager in bfloat16), and
exported for ONNX Runtime and OpenVINO, with logits and with labels as the result, and for torch.export; further files
are run beside the first network. Each of these is a process of its own, so that its peak memory is its own. "median ms"
is from the image to the labels; "before" and "after" are the parts of it that are not the network: normalisation, and
logits to labels. With --reference the first network gets the initial weights of a clone of liminn/ICNet-pytorch, whose
forward pass is timed alone, without either: "speed-up" divides that by the others' whole. Labels are compared with
those of torch in float32. Without --data the images are drawn street scenes.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from omegaconf import OmegaConf

from benchmarks import common
from benchmarks.contender import Contender, data_config, worker
from benchmarks.reference import import_reference
from icnet import factory
from icnet.config import DataConfig
from icnet.data.labels import CITYSCAPES_CLASSES
from icnet.data.street import draw_scene
from icnet.deploy.export import TARGETS, GraphSpec, describe
from icnet.deploy.export.guard import size
from icnet.deploy.trained_network import TORCH_SUFFIXES, read_network
from icnet.errors import UserError
from icnet.models import build_network, network_options
from icnet.models.published import from_reference

EAGER = "torch float32"
TORCH = {"compiled": "torch float32, compiled", "bfloat16": "torch bfloat16"}
LABELS_OUT = {"head": "argmax_u8", "normalize": True, "profile": "cpu"}
EXPORTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "onnx": ("onnxruntime float32", "onnx", {}),
    "onnx-labels": ("onnxruntime float32, labels out", "onnx", LABELS_OUT),
    "openvino": ("openvino float32", "openvino", {}),
    "openvino-labels": ("openvino float32, labels out", "openvino", LABELS_OUT),
    "pt2": ("torch.export float32", "pt2", {}),
}
"""What ``--runtimes`` calls the exports: title, target and what its graph has."""


@dataclass
class Measured:
    """What is known of a contender: seconds of each round and part of it, and what was asked for afterwards."""

    whole: list[float] = field(default_factory=list)
    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)


def main() -> None:
    """Parse the command line, run, print."""
    parser = common.parser(__doc__, repeats=10, threads=2)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--networks", nargs="+", default=["icnet"], help="names, or files of checkpoints")
    parser.add_argument(
        "--backbone", default="", help="of the networks that have a choice; the first has to be the reference's"
    )
    parser.add_argument(
        "--files", nargs="*", default=[], type=Path, help="exported files to run beside the first network"
    )
    known = [*TORCH, *EXPORTS]
    parser.add_argument("--runtimes", nargs="*", default=known, choices=known, help="that run beside torch in float32")
    parser.add_argument("--images", type=int, default=4, help="that take turns, and whose labels are compared")
    parser.add_argument(
        "--data", help="a data set, the name of a file in conf/data: its validation images, and mIoU on all"
    )
    parser.add_argument("--root", help="where the data set is")
    args = parser.parse_args()
    common.prepare(args.threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            run(args, Path(folder))
    except UserError as error:
        sys.exit(f"error: {error}")


def run(args: argparse.Namespace, folder: Path) -> None:
    """Measure and print a table for each network.

    Args:
        args: The command line.
        folder: Where everything is written.
    """
    data = configured_data(args.data, args.root) if args.data else None
    images = folder / "images.npy"
    np.save(images, pictures(data, args.images, args.height, args.width))
    for number, name in enumerate(args.networks):
        place = folder / str(number)
        place.mkdir()
        reference = args.reference if number == 0 else None
        contenders = contenders_of(name, args, place, reference)
        if number == 0:
            contenders |= {file.name: Contender(str(file)) for file in args.files}
        compare(f"{Path(name).name}, {args.height}x{args.width}", contenders, args, images, data, place)


def configured_data(name: str, root: str | None) -> DataConfig:
    """Return the configuration of a data set as ``data=NAME data.root=PATH`` makes it."""
    file = common.ROOT / "conf" / "data" / f"{name}.yaml"
    if not file.is_file():
        raise UserError(f"--data {name} is no data set; give the name of a file in conf/data")
    given = {} if root is None else {"root": root}
    data = data_config(OmegaConf.load(file), given)
    factory.prepare_data(data)
    return data


def pictures(data: DataConfig | None, count: int, height: int, width: int) -> np.ndarray:
    """Return (count, height, width, 3) uint8 RGB: the first validation images, or street scenes."""
    if data is None:
        return np.stack([draw_scene(seed, height, width)[0] for seed in range(count)])
    val = factory.data_module(data, seed=1).val
    found = [val[index]["image"].permute(1, 2, 0).numpy() for index in range(min(count, len(val)))]
    return np.stack([cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in found])


def contenders_of(
    name: str, args: argparse.Namespace, folder: Path, reference: Path | None
) -> dict[str, Contender]:  # fmt: skip
    """Write a network in every form that can be written here, and say which could not.

    Args:
        name: A name in ``NETWORKS``, or a checkpoint.
        args: The command line.
        folder: Where to.
        reference: Clone of the reference that the weights are to be from; None for no such.
    """
    found: dict[str, Contender] = {}
    if name.endswith(TORCH_SUFFIXES):
        if reference:
            raise UserError(
                f"--reference gives the first network its weights, and {name} has its own; give icnet first"
            )
        checkpoint = Path(name)
    else:
        options = network_options(name, {})
        if args.backbone and "backbone" in options:
            options = network_options(name, {"backbone": args.backbone})
        torch.manual_seed(0)
        net = build_network(name, len(CITYSCAPES_CLASSES), **options)
        if reference:
            (kind,) = import_reference(reference, "models.icnet:ICNet")
            torch.manual_seed(0)
            weights = kind(len(CITYSCAPES_CLASSES), options["backbone"], pretrained_base=False).state_dict()
            net.load_state_dict(from_reference(weights))
            torch.save(weights, folder / "reference.pth")
            found[common.REFERENCE] = Contender(
                str(folder / "reference.pth"), reference=str(reference), backbone=str(options["backbone"])
            )
        described = {"name": name, "options": options, "num_classes": len(CITYSCAPES_CLASSES)}
        checkpoint = folder / f"{name}.ckpt"
        states = {f"net.{key}": value for key, value in net.state_dict().items()}
        torch.save({"state_dict": states, "icnet": {"model": described, "version": "benchmark"}}, checkpoint)
    network = read_network(checkpoint)
    found[EAGER] = Contender(str(checkpoint))
    for key in (key for key in TORCH if key in args.runtimes):
        found[TORCH[key]] = Contender(str(checkpoint), key if key in common.DTYPES else "float32", key == "compiled")
    for key, (title, target, given) in EXPORTS.items():
        if key not in args.runtimes:
            continue
        spec = GraphSpec(args.height, args.width, **given)
        file = folder / f"{key}{TARGETS[target].suffix}"
        try:
            TARGETS[target].write(network.net, network.normalizer, file, spec, describe(network))
        except UserError as error:
            print(f"left out: {title}: {error}", flush=True)
        else:
            found[title] = Contender(str(file))
    return found


def compare(
    title: str, contenders: Mapping[str, Contender], args: argparse.Namespace, images: Path, data: DataConfig | None,
    folder: Path,
) -> None:  # fmt: skip
    """Run the contenders in turns, each in a process of its own, and print what they took."""
    with contextlib.ExitStack() as stack:
        asks: dict[str, Callable[..., dict[str, Any]]] = {}
        for name, contender in contenders.items():
            ask = stack.enter_context(worker(contender, args.threads, images))
            first = ask(do="run", image=0)  # compiled in it; and what opens nothing here says so
            if "error" in first:
                print(f"left out: {name}: {first['error']}", flush=True)
            else:
                asks[name] = ask
        count = len(np.load(images, mmap_mode="r"))
        measured = {name: Measured() for name in asks}

        def turn_of(name: str) -> Callable[[int], None]:
            def take(turn: int) -> None:
                parts = asks[name](do="run", image=turn % count)
                if turn >= 0:
                    for part in ("whole", "before", "after"):
                        getattr(measured[name], part).append(parts[part])

            return take

        common.take_turns({name: turn_of(name) for name in asks}, args.repeats)
        peaks = {name: ask(do="memory")["GiB"] for name, ask in asks.items()}
        labels = {name: _labels(ask, count, folder) for name, ask in asks.items()}
        scores = {name: ask(do="score", data=asdict(data)) for name, ask in asks.items()} if data else {}
    seconds = {name: found.whole for name, found in measured.items()}
    more = {
        "p99": {name: _ms(np.quantile(rounds, 0.99)) for name, rounds in seconds.items()},
        "images/s": {name: f"{1 / statistics.median(rounds):.2f}" for name, rounds in seconds.items()},
        "before": {name: _ms(statistics.median(found.before)) for name, found in measured.items()},
        "after": {name: _ms(statistics.median(found.after)) for name, found in measured.items()},
        "peak GiB": {name: f"{peak:.2f}" for name, peak in peaks.items()},
        "file MB": {name: f"{size(Path(contenders[name].file)) / 1e6:.1f}" for name in asks},
    }
    if EAGER in labels:
        same = {name: 100 * float((found == labels[EAGER]).mean()) for name, found in labels.items()}
        more["labels %"] = {name: f"{share:.2f}" for name, share in same.items()}
    if scores:
        more["mIoU %"] = {
            name: "-" if "error" in score else f"{100 * score['miou']:.2f}" for name, score in scores.items()
        }
        for name, score in scores.items():
            if "error" in score:
                print(f"not scored: {name}: {score['error']}", flush=True)
    baseline = common.REFERENCE if common.REFERENCE in seconds else EAGER
    print(f"speed-up: to {baseline}; before, after: without the network; labels: equal to those of {EAGER}")
    common.print_table(title, seconds, baseline=baseline, more=more)


def _labels(ask: Callable[..., dict[str, Any]], count: int, folder: Path) -> np.ndarray:
    """Return the labels that a contender gives all images."""
    file = folder / "labels.npy"
    parts = []
    for index in range(count):
        ask(do="run", image=index, labels=str(file))
        parts.append(np.load(file))
    return np.concatenate(parts)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"


if __name__ == "__main__":
    main()
