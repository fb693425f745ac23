"""Saving checkpoints so that a crash or a full disk never costs the previous one, and refusing damaged ones."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from typing_extensions import override

from icnet.errors import UserError
from icnet.models.integrity import is_archive, no_checkpoint, refuse_damaged
from icnet.run.files import atomic_file


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write beside the target and rename; keep every tensor on the CPU, so that any machine can load the file."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save a checkpoint whole or not at all.

        Raises:
            UserError: If the file cannot be written, for instance on a full disk; an older file of that name is whole.
        """
        target = Path(path)
        try:
            with atomic_file(target) as file:
                torch.save(apply_to_collection(checkpoint, Tensor, _to_cpu), file)
        except (OSError, RuntimeError) as error:  # torch wraps some write errors in a RuntimeError
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            kept = f"; the previous {target.name} is whole" if target.exists() else ""
            raise UserError(
                f"{target} could not be written ({reason}){kept}; "
                "free some space or choose another folder with hydra.run.dir=PATH, or hydra.sweep.dir=PATH for a sweep"
            ) from error

    @override
    def load_checkpoint(self, path: str | Path, *args: Any, **options: Any) -> dict[str, Any]:
        """Load a checkpoint whose records are what was written.

        Raises:
            UserError: If it is damaged, or none that a training wrote.
        """
        if not is_archive(Path(path)):
            raise no_checkpoint(Path(path))
        refuse_damaged(Path(path))
        return super().load_checkpoint(path, *args, **options)


def _to_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu()
