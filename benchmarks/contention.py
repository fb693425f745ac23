"""Time a forward pass and a training step alone and beside one busy process, by how long idle threads spin.

    python -m benchmarks.contention
    python -m benchmarks.contention --spin-counts 1000 3000 10000 --threads 2

The threads of OpenMP wait for the next operation in a busy loop before they sleep. On an idle machine that saves time;
where others want the same cores it takes them away from the very thread that is waited for. "library" is what OpenMP
does by itself, "icnet" what ``icnet/__init__.py`` sets, a number is tried as GOMP_SPINCOUNT. Each is a process of its
own, for the variable is read when torch is loaded; they take turns, and those whose turn it is not sleep. Compare
"quiet" only where the load in the last line is not above the number of threads.
"""

import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from benchmarks import common, train_step
from icnet.data.labels import CITYSCAPES_CLASSES
from icnet.deploy.runtimes.torch_segmenter import TorchSegmenter
from icnet.models.modules import ImageNormalizer

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = "library"
OURS = "icnet"
VARIABLES = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY")
WORK = {"f": "forward", "t": "training step"}


def main() -> None:
    """Parse the command line, run, print."""
    parser = common.parser(__doc__, repeats=5, threads=2, reference=False)
    common.add_size_options(parser, height=256, width=512, backbone="resnet18")
    parser.add_argument("--batch", type=int, default=2, help="images in a training step; a forward pass has one")
    parser.add_argument("--samples", type=int, default=4, help="forward passes, or training steps, of a turn")
    parser.add_argument("--spin-counts", type=int, nargs="*", default=[], metavar="N", help="GOMP_SPINCOUNT to try")
    args = parser.parse_args()
    settings = [LIBRARY, OURS, *map(str, args.spin_counts)]
    sizes = [str(number) for number in (args.threads, args.height, args.width, args.batch, args.samples)]
    torch.set_num_threads(args.threads)  # for the description of the machine; nothing is computed here

    timings: dict[bool, dict[str, common.Timings]] = {}
    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(worker(name, args.backbone, *sizes)) for name in settings}
        for busy in (False, True):
            with busy_process() if busy else contextlib.nullcontext():
                timings[busy] = {
                    what: common.take_turns({name: workers[name](letter) for name in settings}, args.repeats)
                    for letter, what in WORK.items()
                }
    size = f"{args.height}x{args.width}, batch {args.batch} in training, {args.threads} threads"
    print_table(f"alone and beside one busy process, {args.backbone}, {size}", timings, args.samples)


@contextlib.contextmanager
def worker(setting: str, *sizes: str) -> Iterator[Callable[[str], Callable[[int], None]]]:
    """Start a process in which OpenMP has a setting, and end it.

    Args:
        setting: ``library``, ``icnet`` or a spin count.
        sizes: Backbone, threads, height, width, batch, calls in a turn.

    Yields:
        What makes a contender for ``take_turns`` of a key of ``WORK``.
    """
    environment = {key: value for key, value in os.environ.items() if key not in VARIABLES}  # icnet has set them here
    if setting not in {LIBRARY, OURS}:
        environment["GOMP_SPINCOUNT"] = setting
    first = "torch" if setting == LIBRARY else "icnet"  # torch before icnet: too late for what icnet sets
    program = f"import {first}; from benchmarks.contention import serve; serve()"
    with subprocess.Popen(
        [sys.executable, "-c", program, *sizes],
        cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin
        assert process.stdout
        requests, answers = process.stdin, process.stdout

        def contender(letter: str) -> Callable[[int], None]:
            def run(turn: int) -> None:
                requests.write(f"{letter}\n")
                requests.flush()
                if not answers.readline():
                    sys.exit(f"error: the process for {setting} has ended")

            return run

        try:
            yield contender
        finally:
            requests.close()  # its loop over standard input ends


def serve() -> None:
    """Be a worker: read letters of ``WORK`` from standard input, do that much, answer with a line."""
    backbone = sys.argv[1]
    threads, height, width, batch, samples = map(int, sys.argv[2:])
    common.prepare(threads)
    image, mask = train_step.batch(batch, height, width)
    task = train_step.build(backbone)
    step = train_step.training_step(lambda: task.criterion(task(image), mask)["loss"], train_step.parameters(task))
    segmenter = TorchSegmenter(train_step.build(backbone).net.eval(), ImageNormalizer(), CITYSCAPES_CLASSES)

    @torch.inference_mode()
    def forward() -> Tensor:
        return segmenter(image[:1])

    calls: dict[str, Callable[[], Tensor]] = {"f": forward, "t": step}
    for letter in map(str.strip, sys.stdin):
        for _ in range(samples):
            calls[letter]()
        print(letter, flush=True)


@contextlib.contextmanager
def busy_process() -> Iterator[subprocess.Popen[bytes]]:
    """Keep one core busy meanwhile; it ends by itself if this process is killed."""
    program = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        try:
            yield process
        finally:
            process.kill()


def print_table(title: str, timings: dict[bool, dict[str, common.Timings]], samples: int) -> None:
    """Print a row for each kind of work and setting.

    Args:
        title: What was measured.
        timings: Disturbed or not, to the kind of work, to the rounds by setting.
        samples: Images or steps in a turn.
    """
    table = Table(title=title, title_justify="left")
    for column in ("", "spin count", "quiet, 1/s", "to library", "by rounds", "busy, 1/s", "to library", "by rounds"):
        table.add_column(column, justify="right" if "," in column or " " in column[1:] else "left")
    table.add_column("busy / quiet", justify="right")
    for what, quiet in timings[False].items():
        for name in quiet:
            cells, rates = [], []
            for seconds in (quiet, timings[True][what]):
                rates.append(samples / statistics.median(seconds[name]))
                ratios = common.speedups(seconds, name, LIBRARY)
                cells += [f"{rates[-1]:.2f}", *(f"{ratio:.2f}x" for ratio in ratios)]
            table.add_row(what, name, *cells, f"{rates[1] / rates[0]:.0%}")
    common.show(table)


if __name__ == "__main__":
    main()
