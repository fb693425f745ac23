"""The folder of a run: its own, made and claimed before ``main``."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write
from typing_extensions import override

from icnet.errors import UserError
from icnet.launch.messages import exit_with
from icnet.launch.rank import from_environment
from icnet.run.lock import Lock
from icnet.run.paths import RunPaths

NAMED_AFTER_TIME = "${now:"  # in Hydra's default names of folders

_locks: list[Lock] = []
"""Of the folder that this process's run or multirun has claimed, until it ends."""


class FolderInUse(UserError):
    """A run of another process is at work in a folder, in which nothing may be written then."""


class ClaimFolder(Callback):
    """Claim the folder of a run, or of a multirun, before Hydra writes anything there.

    One that is named after the time is made here, under a name that nobody has. Hydra would only warn of an exception
    of a callback, and go on; so this exits.
    """

    @override
    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._claim(config, "hydra.run.dir")

    @override
    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._claim(config, "hydra.sweep.dir")

    @staticmethod
    def _claim(config: DictConfig, key: str) -> None:
        group = from_environment()
        if (group and group.rank) or OmegaConf.select(config, "trainer.num_nodes", default=1) > 1:
            return  # rank 0 does it; and nodes that are started one by one share a folder, which has to be given
        group_key, name = key.rsplit(".", 1)
        unresolved = OmegaConf.to_container(OmegaConf.select(config, group_key), resolve=False)
        with _known_to_hydra(config):
            folder = Path(str(OmegaConf.select(config, key)))
        try:
            if NAMED_AFTER_TIME in str(unresolved[name]):  # type: ignore[index, call-overload]
                given, folder = folder, make_new_folder(folder)
                if folder != given:
                    _rename(config, key, folder)
            _locks.append(lock_folder(folder, key))
        except UserError as error:
            exit_with(str(error))
        except OSError:
            pass  # Hydra is about to make the folder, and its error is told as any other


def _rename(config: DictConfig, key: str, folder: Path) -> None:
    """Give a folder another name, in the jobs of a multirun too."""
    quoted = str(folder).replace("'", r"\'")
    with read_write(config.hydra):
        OmegaConf.update(config, key, str(folder))
        if key == "hydra.sweep.dir":
            config.hydra.overrides.hydra.append(f"{key}='{quoted}'")


@contextlib.contextmanager
def _known_to_hydra(config: DictConfig) -> Iterator[None]:
    """Let ``${hydra:...}`` be resolved, as it will be in the job: Hydra looks there alone, and puts the same there."""
    instance = HydraConfig.instance()
    before = instance.cfg
    instance.set_config(config)
    try:
        yield
    finally:
        instance.cfg = before


def make_new_folder(folder: Path) -> Path:
    """Make a folder that was not there: the given one, or its name with ``_2``, ``_3`` and so on behind it.

    Raises:
        OSError: If no folder can be made there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(2):
        try:
            folder.mkdir()
        except FileExistsError:
            folder = folder.with_name(f"{folder.name.removesuffix(f'_{number - 1}')}_{number}")
        else:
            return folder
    raise AssertionError("the numbers have ended")


def lock_folder(folder: Path, key: str = "hydra.run.dir") -> Lock:
    """Take a folder for this process's run; the lock ends with the process at the latest.

    Args:
        folder: The folder; made if missing.
        key: By which another one is chosen, for the message.

    Raises:
        FolderInUse: If a run of another process is at work there.
        OSError: If the folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(RunPaths(folder).lock)
    if not lock.acquire():
        raise FolderInUse(
            f"{folder} is in use by a run that has not ended ({lock.owner()}); wait for it, choose another folder "
            f"with {key}=PATH, or delete {lock.path} if there is no such process"
        )
    return lock


@contextlib.contextmanager
def claimed_job(folder: Path) -> Iterator[None]:
    """Hold the folder of a job of a multirun while it runs.

    Raises:
        FolderInUse: If a run of another process is at work there.
    """
    lock = None
    with contextlib.suppress(OSError):  # main says it better
        lock = lock_folder(folder)
    try:
        yield
    finally:
        if lock:
            lock.release()


def release_folders() -> None:
    """Give back what this process has claimed."""
    while _locks:
        _locks.pop().release()


def make_output_folder(folder: str, *, key: str = "hydra.run.dir") -> None:
    """Create ``output_dir``.

    Args:
        folder: Its path.
        key: What chooses it.

    Raises:
        UserError: If that cannot be.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"output_dir={folder} is no folder ({error.strerror}); choose another with {key}=PATH"
        ) from error
