"""What the benchmarks share: options, timing in turns, the table, the machine's description."""

import argparse
import contextlib
import gc
import importlib
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import icnet

Timings = dict[str, list[float]]  # seconds of every round, by contender

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = "reference"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
VERSIONS_OF = ("torch", "torch_npu", "onnxruntime", "openvino", "opencv-python-headless", "pillow", "numpy")
INSTRUCTION_SETS = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
)
"""Those that decide how fast a CPU multiplies, as ``/proc/cpuinfo`` calls them."""


# ---------------------------------------------------------------- command line


def parser(description: str | None, *, repeats: int, threads: int, reference: bool = True) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark of torch code has; ``--reference`` where it is of use."""
    built = argparse.ArgumentParser(description=(description or "").split("\n\n")[0])
    if reference:
        built.add_argument(
            "--reference", type=Path, metavar="PATH", help="clone of liminn/ICNet-pytorch to compare with"
        )
    built.add_argument("--repeats", type=int, default=repeats, help="rounds; in each, everything runs once in turn")
    built.add_argument("--threads", type=int, default=threads, help="CPU threads")
    return built


def add_size_options(built: argparse.ArgumentParser, *, height: int, width: int, backbone: str) -> None:
    """Add the size of the image and of the network."""
    built.add_argument("--height", type=int, default=height)
    built.add_argument("--width", type=int, default=width)
    built.add_argument("--backbone", default=backbone, help="the reference knows resnet50, resnet101 and resnet152")


def add_network_options(built: argparse.ArgumentParser, *, height: int, width: int) -> None:
    """Add the options of the benchmarks that run a network on any device."""
    add_size_options(built, height=height, width=width, backbone="resnet50")
    built.add_argument("--device", default="cpu", help="cpu, cuda or npu")
    built.add_argument("--dtype", default="float32", choices=DTYPES, help="other than float32: autocast")


def prepare(threads: int, device: str = "cpu") -> torch.device:
    """Set the number of threads and seed, and return the device."""
    if device.startswith("npu"):
        importlib.import_module("torch_npu")
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    return torch.device(device)


def autocast(device: torch.device, dtype: str) -> torch.autocast:
    """Return a context in which networks run in ``dtype``."""
    return torch.autocast(device.type, DTYPES[dtype], enabled=dtype != "float32")


# ---------------------------------------------------------------- timing


def synchronize(device: torch.device | None) -> None:
    """Wait until the device has done everything."""
    if device is not None and device.type != "cpu":
        getattr(torch, device.type).synchronize()


def take_turns(
    contenders: Mapping[str, Callable[[int], object]], repeats: int, device: torch.device | None = None
) -> Timings:
    """Time the contenders in turns, A B A B ..., so that whatever else the machine does hits all of them alike.

    Args:
        contenders: What to call, with the number of the round; round -1, the first, is not counted.
        repeats: Number of rounds.
        device: Where they run.
    """
    seconds: Timings = {name: [] for name in contenders}
    gc.freeze()  # what is there now stays, and need not be looked at in every turn
    with Progress(transient=True) as progress:
        bar = progress.add_task("", total=(repeats + 1) * len(contenders))
        for turn in range(-1, repeats):
            for name, run in contenders.items():
                progress.update(bar, description=f"{'warm-up' if turn < 0 else f'round {turn + 1}'}: {name}")
                gc.collect()
                synchronize(device)
                start = time.perf_counter()
                run(turn)
                synchronize(device)
                if turn >= 0:
                    seconds[name].append(time.perf_counter() - start)
                progress.advance(bar)
    return seconds


def speedups(seconds: Timings, name: str, baseline: str) -> tuple[float, float]:
    """Return how many times faster than the baseline: by the medians, and the median of the rounds' ratios."""
    by_round = [slow / fast for slow, fast in zip(seconds[baseline], seconds[name], strict=True)]
    return statistics.median(seconds[baseline]) / statistics.median(seconds[name]), statistics.median(by_round)


def print_table(
    title: str,
    seconds: Timings,
    *,
    baseline: str | None,
    device: torch.device | None = None,
    per_run: int = 1,
    more: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Print one row for each contender and what it was measured on.

    Args:
        title: What was measured.
        seconds: The rounds.
        baseline: The contender that ratios refer to; None for no ratios.
        device: Where they ran.
        per_run: Samples in one call; above 1, times are per sample and samples per second are shown.
        more: Further columns: title to contender to text.
    """
    table = Table(title=title, title_justify="left")
    columns = ["median ms", "best ms"] + (["samples/s"] if per_run > 1 else [])
    columns += ["speed-up", "by rounds"] if baseline in seconds else []
    for column in ["", *columns, *(more or {})]:
        table.add_column(column, justify="right" if column else "left")
    for name, rounds in seconds.items():
        median = statistics.median(rounds) / per_run
        cells = [f"{1000 * median:.1f}", f"{1000 * min(rounds) / per_run:.1f}"]
        cells += [f"{1 / median:.1f}"] if per_run > 1 else []
        if baseline is not None and baseline in seconds:
            cells += [f"{ratio:.2f}x" for ratio in speedups(seconds, name, baseline)]
        table.add_row(name, *cells, *(column.get(name, "") for column in (more or {}).values()))
    show(table, device)


def show(table: Table, device: torch.device | None = None) -> None:
    """Print a table and what it was measured on."""
    console = Console(width=max(Console().width, 120, Console(width=500).measure(table).maximum))
    console.print(table)
    console.print(machine(device), style="dim", highlight=False, soft_wrap=True)


def machine(device: torch.device | None = None) -> str:
    """Describe hardware, versions, date and load in one line; a load above the threads used means disturbed numbers."""
    parts = [
        " ".join([_processor(), *instruction_sets()]),
        f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads",
    ]
    if device is not None and device.type != "cpu":
        parts.append(getattr(torch, device.type).get_device_name(device))
    if hasattr(os, "getloadavg"):
        parts.append(f"load {os.getloadavg()[0]:.1f}")
    parts.append(f"Python {platform.python_version()}, icnet {_commit()}")
    for package in VERSIONS_OF:
        with contextlib.suppress(PackageNotFoundError):
            parts.append(f"{package} {version(package)}")
    return ", ".join([*parts, f"{datetime.now(timezone.utc):%Y-%m-%d}"])


def instruction_sets() -> list[str]:
    """Return those of ``INSTRUCTION_SETS`` that the CPU has, where that can be told."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(("flags", "features")):
                has = set(line.partition(":")[2].split())
                return [name for name in INSTRUCTION_SETS if name in has]
    return []


def _commit() -> str:
    """Return the commit that is measured, with ``-dirty`` where files have changed since."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "describe", "--always", "--dirty"]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    return icnet.__version__


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
