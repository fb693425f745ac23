"""What to use where the user leaves it open: the checkpoint and the device."""

import logging
from importlib.util import find_spec
from pathlib import Path

import torch

from icnet.deploy import RUNTIMES
from icnet.deploy.shipped import DEFAULT, SHIPPED
from icnet.errors import UserError
from icnet.run.paths import BEST, LAST, RunPaths, checkpoints_below

log = logging.getLogger(__name__)


def find_checkpoint(given: str | None, outputs: Path = Path("outputs"), *, or_shipped: bool = False) -> Path:
    """Choose the model file to use, and log its name where the user left the choice open.

    Args:
        given: What the user gave as ``ckpt``: a file, or a name in ``SHIPPED``. None for the newest best checkpoint,
            or, where no run has one (it was stopped before a validation), the newest last one.
        outputs: Where training runs lie; sweeps lie beside it in ``multirun``.
        or_shipped: Whether the weights that come with the project do where nothing was trained yet.

    Returns:
        The given file, or the ``best.ckpt`` (or else ``last.ckpt``) below ``outputs`` and ``multirun`` that was written
        last.

    Raises:
        UserError: If the given file does not exist or is a folder, or there is no checkpoint.
    """
    if given in SHIPPED:
        return SHIPPED[given].path
    if given is not None:
        path = Path(given).expanduser()
        if given and path.is_dir():
            raise UserError(f"ckpt={given} is a folder; give a file, such as ckpt={_checkpoint_in(path)}")
        if not path.is_file():
            raise UserError(
                f"ckpt={given} does not exist; give the path of a file that ends in {', '.join(RUNTIMES)}, "
                f"or {', '.join(SHIPPED)}"
            )
        return path
    folders = (outputs, outputs.with_name("multirun"))
    for name, title in ((BEST, "best checkpoint"), (LAST, f"{LAST}, as there is no {BEST}")):
        found = [path for folder in folders for path in checkpoints_below(folder, name)]
        if found:
            newest = max(found, key=lambda path: path.stat().st_mtime_ns)
            log.info("ckpt is not given: using the newest %s, %s", title, newest)
            return newest
    if or_shipped:
        log.info("ckpt is not given and nothing was trained yet: using %s, %s", DEFAULT, SHIPPED[DEFAULT].about)
        return SHIPPED[DEFAULT].path
    raise UserError(
        f"ckpt is not given and there is no best checkpoint below {outputs}/ or {folders[1]}/, nor a last one; "
        f"train first with 'python train.py', or give ckpt=PATH, such as ckpt={DEFAULT}"
    )


def _checkpoint_in(folder: Path) -> Path:
    """Return the file that was probably meant by a run's folder, or by the one of its checkpoints."""
    paths = RunPaths(folder)
    likely = [paths.best, folder / BEST, paths.last, folder / LAST]
    return next((path for path in likely if path.is_file()), likely[0])


def choose_device(name: str) -> torch.device:
    """Turn a device's name into a device that is there.

    Args:
        name: ``auto`` for an accelerator where there is one, or what ``torch.device`` takes: ``cpu``, ``cuda:1``,
            ``npu``, ...

    Raises:
        UserError: If there is no such device.
    """
    kind, _, index = name.partition(":")
    if kind == "npu" or (name == "auto" and find_spec("torch_npu") is not None):
        from icnet import npu  # only now: it brings all of Lightning, which takes seconds

        try:
            if kind == "npu" or npu.devices_found():
                npu.load()
        except npu.NPUUnavailable as error:
            raise UserError(f"device={name}, but {error}; or choose device=cpu") from error
    here = [kind for kind in ("npu", "cuda") if hasattr(torch, kind) and getattr(torch, kind).is_available()]
    if name == "auto":
        return torch.device(here[0] if here else "cpu")
    known = kind in ("cpu", *here) and (not index or index.isdecimal())
    if not known or (index and kind != "cpu" and int(index) >= getattr(torch, kind).device_count()):
        count = f", {kind}:0 to {kind}:{getattr(torch, kind).device_count() - 1}" if kind in here else ""
        raise UserError(f"device={name} is not available here; give one of auto, {', '.join((*here, 'cpu'))}{count}")
    return torch.device(name)
