"""Show how the cost of training and evaluation grows: with batch, crop, threads, processes, workers and images.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --of batch crop --picture scaling.png

Each sweep changes one thing and keeps the others: a training step of two square crops, with all threads, in one
process. A step of several processes is one of a DDP group over gloo, whose threads and batch are shared out, so that
all of them do the same work. Workers load packed street scenes while nothing else runs. Memory is the most that was
taken beyond weights, gradients and optimizer state; of an evaluation, beyond what it holds before its first image.
"""

import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.progress import track
from rich.table import Table
from torch import distributed
from torch.multiprocessing import spawn
from torch.nn.parallel import DistributedDataParallel

from benchmarks import common
from benchmarks.memory import PeakMemory
from benchmarks.train_step import batch, build, parameters, training_step
from icnet import factory
from icnet.config import DataConfig
from icnet.data import street

CPU = torch.device("cpu")
DDP: dict[str, Any] = {"broadcast_buffers": False, "gradient_as_bucket_view": True, "static_graph": True}
"""How training wraps its networks: see ``icnet.factory.devices``."""


@dataclass(frozen=True)
class Point:
    """What was measured at one place of a sweep."""

    at: int
    seconds: float  # of a step, a batch of a loader, or an image of an evaluation
    images_per_s: float
    gib: float | None = None


@dataclass(frozen=True)
class Settings:
    """What a sweep does not change."""

    backbone: str
    crop: int
    batch: int
    threads: int
    repeats: int
    scale: tuple[int, ...]  # factors for batch and crop, in percent


def main() -> None:
    """Parse the command line, run the sweeps, print their tables and draw them."""
    parser = common.parser(__doc__, repeats=5, threads=len(os.sched_getaffinity(0)), reference=False)
    parser.add_argument("--of", nargs="+", default=list(SWEEPS), choices=SWEEPS, help="the sweeps to run")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--crop", type=int, default=480, help="side of a crop in pixels")
    parser.add_argument("--batch", type=int, default=2, help="images in a step")
    parser.add_argument("--scale", type=int, nargs="+", default=[50, 100, 150, 200], help="percent of batch and crop")
    parser.add_argument("--picture", type=Path, default=Path("outputs/scaling.png"), metavar="PATH")
    args = parser.parse_args()
    common.prepare(args.threads)
    settings = Settings(args.backbone, args.crop, args.batch, args.threads, args.repeats, tuple(args.scale))
    found = {name: list(SWEEPS[name](settings)) for name in track(args.of, "sweeps")}
    title = f"{args.backbone}, float32; unless swept: batch {args.batch}, crop {args.crop}, {args.threads} threads"
    common.show(table(found, title))
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    draw(found, title).savefig(args.picture, dpi=150)
    print(f"drawn in {args.picture}")


# ---------------------------------------------------------------- sweeps


def over_batch(settings: Settings) -> Iterator[Point]:
    """Images in a step."""
    for percent in settings.scale:
        size = max(settings.batch * percent // 100, 1)
        yield step_point(settings, size, size, settings.crop)


def over_crop(settings: Settings) -> Iterator[Point]:
    """Side of the crop in pixels, to the next multiple of 32."""
    for percent in settings.scale:
        side = max(settings.crop * percent // 100 // 32, 1) * 32
        yield step_point(settings, side, settings.batch, side)


def over_threads(settings: Settings) -> Iterator[Point]:
    """Threads of a step."""
    for threads in range(1, settings.threads + 1):
        torch.set_num_threads(threads)
        yield step_point(settings, threads, settings.batch, settings.crop)
    torch.set_num_threads(settings.threads)


def over_processes(settings: Settings) -> Iterator[Point]:
    """Processes that share batch and threads."""
    for processes in (count for count in range(1, settings.threads + 1) if settings.batch % count == 0):
        with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
            free.close()
            spawn(_rank, (processes, port, settings, folder), processes)
            seconds = float(Path(folder, "seconds").read_text())
        yield Point(processes, seconds, settings.batch / seconds)


def over_workers(settings: Settings) -> Iterator[Point]:
    """Loader processes, without a network; 0 loads in the process itself."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "scenes")
        street.generate(root, {"train": 16, "val": 1}, 512, 1024, seed=1)
        for workers in range(settings.threads + 1):
            config = DataConfig(
                name="cityscapes", root=str(root), cache="packed", cache_folder=str(Path(folder, "packed")),
                crop_size=[settings.crop, settings.crop], scale_range=[256, 1024], workers=workers,
            )  # fmt: skip
            module = factory.data_module(config, seed=0, batch_size=settings.batch)
            module.setup("fit")
            loader = module.train_dataloader()
            list(loader)  # workers that stay are started
            rounds = []
            for _ in range(settings.repeats):
                start = time.perf_counter()
                batches = sum(1 for _ in loader)
                rounds.append((time.perf_counter() - start) / batches)
            seconds = statistics.median(rounds)
            yield Point(workers, seconds, settings.batch / seconds)


def over_images(settings: Settings) -> Iterator[Point]:
    """Images of an evaluation, each twice as wide as high."""
    task = build(settings.backbone).eval()
    image, mask = batch(1, settings.crop, 2 * settings.crop)
    with torch.inference_mode():
        task.validation_step({"image": image, "mask": mask, "index": torch.tensor([0])}, 0)
        for images in (settings.repeats, 4 * settings.repeats, 16 * settings.repeats):

            def evaluate(count: int = images) -> None:
                for number in range(count):
                    sample = {"image": image, "mask": mask, "index": torch.tensor([number])}
                    task.validation_step(sample, number)

            memory = PeakMemory(CPU)
            start = time.perf_counter()
            memory.measure("images", evaluate)
            seconds = (time.perf_counter() - start) / images
            yield Point(images, seconds, 1 / seconds, memory.peaks["images"])
            task.metrics.reset()
            task.running_mean.reset()


SWEEPS: dict[str, Callable[[Settings], Iterator[Point]]] = {
    "batch": over_batch,
    "crop": over_crop,
    "threads": over_threads,
    "processes": over_processes,
    "workers": over_workers,
    "images": over_images,
}


def step_point(settings: Settings, at: int, images: int, side: int) -> Point:
    """Measure a training step of so many square crops in this process."""
    task = build(settings.backbone)
    image, mask = batch(images, side, side)
    step = training_step(lambda: task.criterion(task(image), mask)["loss"], parameters(task))
    seconds = median_seconds(step, settings.repeats)
    memory = PeakMemory(CPU)
    memory.measure("step", step)
    return Point(at, seconds, images / seconds, memory.peaks["step"])


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    """Time a call, the first one not counted."""
    rounds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        rounds.append(time.perf_counter() - start)
    return statistics.median(rounds[1:])


def _rank(rank: int, processes: int, port: int, settings: Settings, folder: str) -> None:
    """Be a process of a group that trains together."""
    torch.set_num_threads(max(settings.threads // processes, 1))
    address = f"tcp://localhost:{port}"
    distributed.init_process_group("gloo", address, rank=rank, world_size=processes)
    task = build(settings.backbone)
    network = DistributedDataParallel(task.net, **DDP) if processes > 1 else task.net
    image, mask = batch(settings.batch // processes, settings.crop, settings.crop)

    def loss() -> torch.Tensor:
        normalized = task.normalize(image).contiguous(memory_format=torch.channels_last)
        return task.criterion(network(normalized), mask)["loss"]

    seconds = median_seconds(training_step(loss, parameters(task)), settings.repeats)
    if rank == 0:
        Path(folder, "seconds").write_text(str(seconds))
    distributed.destroy_process_group()


# ---------------------------------------------------------------- showing


def table(found: dict[str, list[Point]], title: str) -> Table:
    """Return one row for each point; ratios are to the first point of its sweep."""
    built = Table(title=title, title_justify="left")
    for column in ("sweep", "at", "ms", "images/s", "to the first", "GiB"):
        built.add_column(column, justify="left" if column == "sweep" else "right")
    for name, points in found.items():
        for number, point in enumerate(points):
            built.add_row(
                "" if number else name, str(point.at), f"{1000 * point.seconds:.1f}", f"{point.images_per_s:.2f}",
                f"{point.images_per_s / points[0].images_per_s:.2f}x",
                "" if point.gib is None else f"{point.gib:.2f}",
                end_section=number == len(points) - 1,
            )  # fmt: skip
    return built


def draw(found: dict[str, list[Point]], title: str) -> Figure:
    """Draw images per second of every sweep, with the time of a step, and its memory where that was measured."""
    figure = Figure(figsize=(3.4 * min(len(found), 3), 2.6 * -(-len(found) // 3)), layout="constrained")
    figure.suptitle(title, fontsize=9)
    for number, (name, points) in enumerate(found.items()):
        axes = figure.add_subplot(-(-len(found) // 3), min(len(found), 3), number + 1)
        places = [point.at for point in points]
        axes.plot(places, [point.images_per_s for point in points], "o-", color="tab:blue")
        axes.set(xlabel=name, xticks=places)
        axes.margins(x=0.15)  # room for what is written beside the first and the last
        axes.set_ylabel("images/s", color="tab:blue")
        axes.set_ylim(0, 1.25 * max(point.images_per_s for point in points))
        for point in points:
            place, above = (point.at, point.images_per_s), (0, 5)
            axes.annotate(
                f"{1000 * point.seconds:.0f} ms", place, above, textcoords="offset points", ha="center", size=7
            )
        if all(point.gib is not None for point in points):
            other = axes.twinx()
            other.plot(places, [point.gib or 0.0 for point in points], "s--", color="tab:orange")
            other.set_ylabel("GiB", color="tab:orange")
            other.set_ylim(0, 1.1 * max(point.gib or 0.0 for point in points) or 1)
    return figure


if __name__ == "__main__":
    main()
