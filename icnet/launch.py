"""From the command line to a running ``main``: composing the configuration, ending with one clear line on bad input."""

import inspect
import logging
import os
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from icnet.errors import UserError

Config = TypeVar("Config")
Result = TypeVar("Result")

LOG_FORMAT = "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"  # Hydra's
USER_MISTAKE = 2  # the exit status for what the user can fix; 1 is a defect, with its traceback


def script(name: str, schema: type[Config]) -> Callable[[Callable[[Config], Any]], Callable[[], None]]:
    """Turn ``main(config)`` into a command that is configured by ``conf/<name>.yaml`` beside its file.

    Args:
        name: The root configuration and the job's name.
        schema: The dataclass of ``icnet.config`` that the composed configuration must fit; ``main`` gets an instance.

    Returns:
        A decorator. The decorated function takes no arguments, reads ``sys.argv`` and exits with status 2 and one
        line on standard error for every mistake in the input.
    """

    def decorate(main: Callable[[Config], Any]) -> Callable[[], None]:
        folder = Path(inspect.getfile(main)).resolve().with_name("conf")

        def job(composed: DictConfig) -> Any:
            try:
                return main(OmegaConf.to_object(composed))  # type: ignore[arg-type]
            except UserError as error:
                _exit_with(error)
            except OmegaConfBaseException as error:
                _exit_with(error)

        def command() -> None:
            # Hydra would print its own errors over several lines and exit with 1; let them through to here instead.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            ConfigStore.instance().store(name=f"{name}_schema", node=schema)
            try:
                hydra.main(version_base="1.3", config_path=str(folder), config_name=name)(job)()
            except (HydraException, OmegaConfBaseException, UserError) as error:
                _exit_with(error)
            except PermissionError as error:
                _exit_with(UserError(f"{error.filename} cannot be written; choose another with hydra.run.dir=PATH"))

        return command

    return decorate


def one_line(error: BaseException) -> str:
    """Return an error's message as one line, whatever path it took.

    A loader's worker process hands its error over with the traceback as part of the message; Hydra and OmegaConf
    spread theirs over several lines.
    """
    text = str(error).strip()
    if isinstance(error, UserError):
        return text.splitlines()[-1].removeprefix("icnet.errors.UserError: ")
    cause = error.__cause__
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    if cause is not None:
        return one_line(cause)
    unknown = error.__cause__
    if isinstance(unknown, (ConfigAttributeError, ConfigKeyError)) and unknown.parent_node is not None:
        known = ", ".join(str(key) for key in unknown.parent_node)
        return f"{unknown.full_key} is no key of the configuration; known there are {known}"
    parts = [_flatten(text)]
    if isinstance(error.__cause__, OmegaConfBaseException):
        parts.append(_flatten(str(error.__cause__)))
    return ": ".join(parts)


def _flatten(text: str) -> str:
    lines = [line.strip() for line in text.split("\nConfig search path:")[0].splitlines()]
    noise = ("full_key", "object_type", "reference_type")
    return " ".join(line for line in lines if line and not line.startswith(noise))


def _exit_with(error: BaseException) -> None:
    print(f"error: {one_line(error)}", file=sys.stderr)
    sys.exit(USER_MISTAKE)


def run(function: Callable[[Config], Result], config: Config, processes: int) -> Result:
    """Run a function here, or in several processes that form one group.

    Args:
        function: A function at the top level of a module, called as ``function(config)`` in every process.
        config: Its argument; pickled for other processes.
        processes: How many. With 1, or inside a group that torchrun or SLURM started, the function runs in place.

    Returns:
        What the first process returned.

    Raises:
        UserError: The one that any of the processes ended with; the others are stopped.
    """
    if processes == 1 or "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_PROCID" in os.environ:
        return function(config)
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    group = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    job = HydraConfig.get()
    log_file = Path(job.runtime.output_dir) / f"{job.job.name}.log"
    with tempfile.TemporaryDirectory() as folder:
        mistake = Path(folder) / "mistake"
        # The engine logs the traceback of every failed process; for a mistake the one line is enough.
        for name in ("torch.distributed.elastic.multiprocessing.api", "torch.multiprocessing.spawn"):
            logging.getLogger(name).addFilter(lambda _: not mistake.exists())
        try:
            results: dict[int, Result] = elastic_launch(group, _process)(function, config, log_file, mistake)
        except ChildFailedError as error:
            if mistake.exists():
                raise UserError(mistake.read_text(encoding="utf-8")) from error
            raise
    return results[0]


def _process(function: Callable[[Config], Result], config: Config, log_file: Path, mistake: Path) -> Result:
    """Run in a process of a group: log in the first one only; leave a user's mistake where the parent finds it."""
    if os.environ["LOCAL_RANK"] == "0":
        handlers = (logging.StreamHandler(sys.stdout), logging.FileHandler(log_file))
        logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, handlers=handlers)
    try:
        return function(config)
    except UserError as error:
        mistake.write_text(one_line(error), encoding="utf-8")
        sys.exit(USER_MISTAKE)
