"""Where everything lies in a run's folder: the only place that knows the names of its files."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BEST = "best.ckpt"
"""The checkpoint of the highest ``val/miou``."""
LAST = "last.ckpt"
"""The checkpoint that a run is resumed from."""

TENSORBOARD = "tensorboard"
"""Folder of TensorBoard's curves."""
MLRUNS = "mlruns"
"""Folder of mlflow's curves, where it has no server."""

_CHECKPOINTS = "checkpoints"
_RESULTS = "results.json"
_CSV = "csv"
_CURVES = "metrics.csv"  # Lightning's CSVLogger calls it so
_ARCHIVE = "earlier_"
_HYDRA = ".hydra"
_FAILURE = "error.txt"
_LOCK = ".lock"


@dataclass(frozen=True)
class RunPaths:
    """The paths in one run folder; none of them need exist.

    Args:
        folder: The run's folder.
    """

    folder: Path

    @property
    def results(self) -> Path:
        """What was measured; see ``icnet.run.results``."""
        return self.folder / _RESULTS

    @property
    def report(self) -> Path:
        """The page that shows the run."""
        return self.folder / "report.html"

    @property
    def failure(self) -> Path:
        """Why a job of a sweep has no result: ``failed: ...``, or ``died: ...`` if a process did."""
        return self.folder / _FAILURE

    @property
    def lock(self) -> Path:
        """What the run that is at work here holds, see ``icnet.run.lock``."""
        return self.folder / _LOCK

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints; only a training has one."""
        return self.folder / _CHECKPOINTS

    @property
    def best(self) -> Path:
        """The checkpoint of the highest ``val/miou``."""
        return self.checkpoints / BEST

    @property
    def last(self) -> Path:
        """The checkpoint that the run is resumed from."""
        return self.checkpoints / LAST

    @property
    def profile(self) -> Path:
        """Folder, or beginning of the names of files, in which a profiler writes."""
        return self.folder / "profile"

    @property
    def operations(self) -> Path:
        """Table of what each operation took while Lightning's profiler watched."""
        return self.folder / "operations.csv"

    @property
    def pictures(self) -> Path:
        """Folder of image, label, prediction and error side by side."""
        return self.folder / "pictures"

    @property
    def extremes(self) -> Path:
        """Folder of ``best_1_NAME.jpg`` to ``worst_3_NAME.jpg``."""
        return self.pictures / "extremes"

    @property
    def label_ids(self) -> Path:
        """Folder of an evaluation's PNGs that the Cityscapes server accepts."""
        return self.folder / "label_ids"

    @property
    def iou_csv(self) -> Path:
        """IoU of each class of an evaluation."""
        return self.folder / "iou.csv"

    @property
    def confusion_png(self) -> Path:
        """The confusion matrix of an evaluation, drawn."""
        return self.folder / "confusion.png"

    @property
    def hydra(self) -> Path:
        """Folder in which Hydra keeps what was composed."""
        return self.folder / _HYDRA

    @property
    def hydra_config(self) -> Path:
        """Hydra's own configuration, with the number of the job."""
        return self.hydra / "hydra.yaml"

    @property
    def overrides(self) -> Path:
        """The overrides that the run was started with, as a YAML list."""
        return self.hydra / "overrides.yaml"

    def find_curves(self) -> list[Path]:
        """Return the CSV files of all parts of the run that are there, in no order; each part's folder has a number."""
        return list(self.folder.glob(f"{_CSV}*/{_CURVES}"))

    def new_curves(self) -> Path:
        """Return a folder for the curves of a further part, ``csv``, ``csv_2`` ...: Lightning would delete old ones."""
        names = itertools.chain([_CSV], (f"{_CSV}_{part}" for part in itertools.count(2)))
        return next(free for name in names if not ((free := self.folder / name) / _CURVES).exists())

    def new_archive(self) -> Path:
        """Return a folder for what a finished run left, where it is trained again: ``earlier_1`` and so on."""
        folders = (self.folder / f"{_ARCHIVE}{number}" for number in itertools.count(1))
        return next(folder for folder in folders if not folder.exists())

    def find_archivable(self) -> list[Path]:
        """Return what belongs to the result that the folder holds: no archives, open logs, lock or files of Hydra."""
        stays = (self.hydra, self.failure, self.lock)
        return [
            path
            for path in self.folder.iterdir()
            if path not in stays and not path.name.startswith(_ARCHIVE) and not _is_log(path)
        ]

    def log(self, job: str, device: int, node: int = 0) -> Path:
        """Return where a process writes its log: ``<job>_<device>.log``, with the node's number on further nodes."""
        return self.folder / (f"{job}_node{node}_{device}.log" if node else f"{job}_{device}.log")

    def ascend_log(self, case: str) -> Path:
        """Return where the Ascend port's result file of a case goes."""
        return self.folder / f"{case}.log"

    def ascend_losses(self, case: str) -> Path:
        """Return where the Ascend port's losses of a case go."""
        return self.folder / f"{case}_loss.txt"


def _is_log(path: Path) -> bool:
    """Tell whether a file is the log of a training's process, which this process has open already."""
    return path.name.startswith("train_")


def validation_picture(pictures: Path, name: str, epoch: int) -> Path:
    """Return where the picture of an image goes, drawn after an epoch (from 1)."""
    return pictures / f"{name}_epoch{epoch:03d}.jpg"


def epoch_of(picture: Path) -> int | None:
    """Return the epoch after which a picture was drawn; None if its name does not tell."""
    found = re.search(r"_epoch(\d+)$", picture.stem)
    return int(found[1]) if found else None


def extremes_scores(extremes: Path) -> Path:
    """Return the file beside the best and worst images: a JSON object of file name to mIoU (0-1)."""
    return extremes / "extremes.json"


def extreme_picture(extremes: Path, place: str, name: str) -> Path:
    """Return where the picture of an image goes that takes a place such as ``best_1``."""
    return extremes / f"{place}_{name}.jpg"


def split_extreme(picture: Path) -> tuple[str, int, str] | None:
    """Return ``best`` or ``worst``, the number (from 1) and the image's name; None if the picture is another's."""
    found = re.fullmatch(r"(best|worst)_(\d+)_(.*)", picture.stem)
    return (found[1], int(found[2]), found[3]) if found else None


def find_extremes(extremes: Path) -> list[tuple[str, Path]]:
    """Return place, such as ``best_1``, and path of each picture of a best or worst image that is there."""
    found = ((split_extreme(path), path) for path in extremes.glob("*.jpg"))
    return [(f"{parts[0]}_{parts[1]}", path) for parts, path in found if parts]


def failures_below(folder: Path) -> Iterator[Path]:
    """Yield the files in which jobs of a multirun folder say why they failed."""
    return folder.glob(f"*/{_FAILURE}")


def hydra_folders_below(folder: Path) -> Iterator[Path]:
    """Yield the folders in which Hydra keeps what jobs of a multirun folder were started with."""
    return folder.glob(f"*/{_HYDRA}")


def checkpoints_below(folder: Path, name: str) -> Iterator[Path]:
    """Yield the ``BEST`` or ``LAST`` checkpoints of all runs below a folder."""
    return folder.rglob(f"{_CHECKPOINTS}/{name}")
