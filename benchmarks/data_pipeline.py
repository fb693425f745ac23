"""Time the training samples of one process with one thread, from PNG files to tensors.

    python -m benchmarks.data_pipeline
    python -m benchmarks.data_pipeline --root /data/cityscapes --reference ../ICNet-pytorch

Files come from a Cityscapes folder, or are street scenes drawn into a temporary folder; drawn files are smaller than
photographs and decode faster, so only a real folder tells what training will see. Files are in the page cache (the
round before the first reads them). Every round serves the same images in the same order, each augmented anew: short
side 512 to 2048, padding, crop 960x960, mirror, blur. Ours yields uint8, which the device normalises; "normalised" does
that here as well, for what the reference yields is normalised. "packed" reads what ``data.cache=packed`` keeps; "for
the device" is what ``data.augment_on=device`` leaves to a loader process, its copy into the batch included.
"""

import contextlib
import io
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2

from benchmarks import common
from benchmarks.reference import import_reference
from icnet import factory
from icnet.config import DataConfig
from icnet.data import street
from icnet.data.datamodule import collate
from icnet.models.modules import ImageNormalizer


def main() -> None:
    """Parse the command line, draw scenes if there is no folder, run."""
    parser = common.parser(__doc__, repeats=9, threads=1)
    parser.add_argument("--root", type=Path, metavar="PATH", help="folder with leftImg8bit/ and gtFine/")
    parser.add_argument("--samples", type=int, default=8, help="images of a round")
    args = parser.parse_args()
    common.prepare(args.threads)
    cv2.setNumThreads(args.threads if args.threads > 1 else 0)
    with tempfile.TemporaryDirectory() as folder:
        root, packed = args.root or Path(folder, "scenes"), Path(folder, "packed")
        if not args.root:
            street.generate(root, {"train": args.samples, "val": 1}, 1024, 2048, seed=1)
        measure(root, str(args.root or street.NAME), packed, args.samples, args.repeats, args.reference)


def measure(root: Path, title: str, packed: Path, samples: int, repeats: int, reference: Path | None) -> None:
    """Time both data sets and print.

    Args:
        root: The folder in the official layout.
        title: How the table calls it.
        packed: A folder for ``data.cache=packed``.
        samples: Images of a round; a smaller set is gone through several times.
        repeats: Rounds.
        reference: The reference's clone, if there is one.
    """
    normalize = ImageNormalizer()

    def loader(cache: str, *, normalized: bool = False, augment_on: str = "host") -> Callable[[int], None]:
        config = DataConfig(
            name="cityscapes", root=str(root), cache=cache, cache_folder=str(packed), augment_on=augment_on
        )
        module = factory.data_module(config, seed=0, batch_size=7)
        module.setup("fit")
        ours = module.train
        assert ours is not None

        def load(turn: int) -> None:
            for i in range(samples):
                sample = ours[i % len(ours), turn + 1 + 1000 * (i // len(ours))]
                if normalized:
                    normalize(sample["image"][None])
                if augment_on == "device":
                    collate([sample])

        return load

    contenders = {
        "icnet, from files": loader("off"),
        "icnet, normalised": loader("off", normalized=True),
        "icnet, packed": loader("packed"),
        "icnet, packed, for the device": loader("packed", augment_on="device"),
    }
    if reference:
        (dataset,) = import_reference(reference, "dataset:CityscapesDataset")
        random.seed(0)  # the reference draws from the global generator
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = dataset(root=str(root), split="train", base_size=1024, crop_size=960)

        def load_theirs(turn: int) -> None:
            for i in range(samples):
                theirs[i % len(theirs)]

        contenders = {common.REFERENCE: load_theirs, **contenders}
    seconds = common.take_turns(contenders, repeats)
    common.print_table(f"training samples, crop 960x960, {title}", seconds, baseline=common.REFERENCE, per_run=samples)


if __name__ == "__main__":
    main()
