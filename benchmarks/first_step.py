"""Time from the command to the first step of a training, new and resumed, on a large packed data set.

    python -m benchmarks.first_step
    python -m benchmarks.first_step --frames 500

What a start costs depends on how many files there are, not on their size: the frames are small ones, a few drawn
scenes under many names. They are packed before the first round, which a user's first start does once. A round is
``train.py`` with a single step of two crops of ResNet-18, from the start of Python to its end, the checkpoint included;
then another run that goes on from its checkpoint with one step more.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks import common
from icnet.data import street

ROOT = Path(__file__).resolve().parents[1]
DRAWN = 8  # scenes of a split


def main() -> None:
    """Parse the command line, draw the frames, run, print."""
    parser = common.parser(__doc__, repeats=5, threads=2, reference=False)
    parser.add_argument("--frames", type=int, default=2975, help="of the training split; Cityscapes has 2975")
    args = parser.parse_args()
    common.prepare(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        scenes, runs = Path(folder, "scenes"), Path(folder, "runs")
        make_frames(scenes, {"train": args.frames, "val": max(args.frames // 6, 1)})
        words = (
            "data=cityscapes", f"data.root={scenes}", "data.cache=packed", f"data.cache_folder={folder}/packed",
            "data.crop_size=[64,64]", "data.scale_range=[64,96]", "model=icnet_resnet18", "trainer=cpu_1p",
            "trainer.batch_size=2", "trainer.limit_val_batches=0", "trainer.progress_bar=false",
        )  # fmt: skip

        def train(run: Path, steps: int, *more: str) -> tuple[str, float]:
            """Train; returns what was said, and the seconds until the step's checkpoint lay there."""
            command = [sys.executable, "train.py", *words, f"hydra.run.dir={run}", f"trainer.max_steps={steps}", *more]
            start, saved = time.perf_counter(), run / "checkpoints" / "last.ckpt"
            with subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ) as job:
                while job.poll() is None and not saved.exists():
                    time.sleep(0.02)
                elapsed = time.perf_counter() - start
                said = job.stdout.read() if job.stdout else ""
            if job.returncode:
                raise RuntimeError(said)
            return said, elapsed

        until_saved: dict[str, list[float]] = {"new": [], "resumed": []}

        def new(turn: int) -> None:
            until_saved["new"].append(train(runs / f"{turn}", 1)[1])

        def resumed(turn: int) -> None:
            said, elapsed = train(runs / f"{turn}_on", 2, f"resume={runs / str(turn)}/checkpoints/last.ckpt")
            assert "going on from" in said, said
            until_saved["resumed"].append(elapsed)

        seconds = common.take_turns({"new": new, "resumed": resumed}, args.repeats)
    common.print_table(f"train.py, one step, {args.frames} frames", seconds, baseline=None)
    for kind, elapsed in until_saved.items():
        print(f"{kind}: {statistics.median(elapsed[1:]):.1f} s until the step was done and its checkpoint lay there")


def make_frames(root: Path, counts: Mapping[str, int]) -> None:
    """Draw eight scenes a split and give them as many names as there are to be frames, in Cityscapes' layout."""
    street.generate(root, dict.fromkeys(counts, DRAWN), 64, 128, seed=1)
    for split, count in counts.items():
        for kind in ("leftImg8bit", "gtFine"):
            drawn = sorted((root / kind / split).rglob("*.png"))
            for number in range(DRAWN, count):
                file = drawn[number % DRAWN]
                city, _, frame, suffix = file.name.split("_", 3)
                os.link(file, file.with_name(f"{city}_{number:06d}_{frame}_{suffix}"))
            for file in drawn[count:]:
                file.unlink()


if __name__ == "__main__":
    main()
