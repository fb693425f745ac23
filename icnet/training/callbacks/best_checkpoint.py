"""The best checkpoint, also of a run that goes on in another folder."""

import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from typing_extensions import override

from icnet.run.files import atomic_file
from icnet.run.paths import BEST, RunPaths


class BestCheckpoint(ModelCheckpoint):
    """Keeps its score when a run is resumed in another folder, where Lightning would forget it.

    ``copy_best_checkpoint`` has to copy the file first. A score that is NaN is none: it neither makes a best checkpoint
    nor takes the place of one, where Lightning would call the first of such epochs the best.
    """

    @override
    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        return current is not None and not bool(current.isnan()) and super().check_monitor_top_k(trainer, current)

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore, with the paths of this run's folder."""
        here = str(Path(self.dirpath or "") / BEST)
        moved = dict(state_dict)
        if moved["best_model_path"] and Path(here).exists():
            moved |= {"best_model_path": here, "kth_best_model_path": here}
            moved |= {"best_k_models": {here: moved["best_model_score"]}, "dirpath": self.dirpath}
        super().load_state_dict(moved)


def copy_best_checkpoint(resumed: Path, run: Path) -> None:
    """Copy ``best.ckpt`` from beside the checkpoint that a run is resumed from into the new run's folder.

    Every process may do so at the same time: the file is there whole or not at all.

    Args:
        resumed: The checkpoint, such as ``outputs/old/checkpoints/last.ckpt``.
        run: The new run's folder; nothing happens if it is the old one's.
    """
    source, target = resumed.with_name(BEST), RunPaths(run).best
    if source.exists() and not target.exists():
        with source.open("rb") as given, atomic_file(target) as copy:
            shutil.copyfileobj(given, copy)
