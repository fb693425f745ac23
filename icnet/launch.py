"""From the command line to a running ``main``: composing the configuration, ending with one clear line on bad input."""

import errno
import inspect
import logging
import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from icnet.errors import UserError

Config = TypeVar("Config")
Result = TypeVar("Result")

LOG_FORMAT = "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"  # Hydra's
NO_DEFECTS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of the file system that are the user's to fix, wherever they come up."""

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
        running = failed = False

        def job(composed: DictConfig) -> Any:
            nonlocal running
            running = True
            try:
                config = OmegaConf.to_object(composed)
                _refuse_added_keys(config)
                _make_output_folder(config)
                result = main(config)  # type: ignore[arg-type]
            except (UserError, OmegaConfBaseException) as error:
                return fail(error)
            except OSError as error:
                if error.errno not in NO_DEFECTS:
                    raise
                place = f"{error.filename} cannot be used" if error.filename else "a file cannot be written"
                fix = "make room or change the permissions, or choose another place"
                return fail(UserError(f"{place} ({error.strerror}); {fix}"))
            running = False
            return result

        def fail(error: BaseException) -> None:
            """End here; or, in a sweep, let the other jobs run first."""
            nonlocal failed
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                _exit_with(error)
            failed = True
            print(f"error: job {HydraConfig.get().job.num}: {one_line(error)}", file=sys.stderr)

        def command() -> None:
            # Hydra would print its own errors over several lines and exit with 1; let them through to here instead.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            ConfigStore.instance().store(name=f"{name}_schema", node=schema)
            try:
                hydra.main(version_base="1.3", config_path=str(folder), config_name=name)(job)()
                if failed:
                    sys.exit(USER_MISTAKE)
            except (HydraException, OmegaConfBaseException, UserError) as error:
                _exit_with(error)
            except ValueError as error:
                if "Config group override" not in str(error):  # Hydra's complaint about optim=null or optim=3
                    raise
                _exit_with(UserError(_wrong_option(folder)))
            except OSError as error:
                if running:
                    raise
                place = f"{error.filename} cannot be used as a folder ({error.strerror})"
                _exit_with(UserError(f"{place}; choose another with hydra.run.dir=PATH"))

        return command

    return decorate


def _refuse_added_keys(config: object, above: str = "") -> None:
    """Raise ``UserError`` for a key that is not in the schema: ``+key=value`` gets past Hydra."""
    known = [key.name for key in fields(config)]  # type: ignore[arg-type]
    for key, value in vars(config).items():
        if key not in known:
            raise UserError(_no_key(above + key, known))
        if is_dataclass(value):
            _refuse_added_keys(value, f"{above}{key}.")


def _make_output_folder(config: object) -> None:
    folder = getattr(config, "output_dir", None)
    if folder is not None:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"output_dir={folder} is no folder ({error.strerror}); choose another with hydra.run.dir=PATH"
            ) from error


def _wrong_option(folder: Path) -> str:
    """Say which word on the command line gives a group something else than the name of an option."""
    options = {path.name: sorted(option.stem for option in path.glob("*.yaml")) for path in folder.iterdir()}
    for word in sys.argv[1:]:
        group, _, option = word.lstrip("+").partition("=")
        if options.get(group) and option not in options[group]:
            return _no_option(word, options[group])
    return "a group of the configuration is given something else than the name of an option; see --help"


def _no_option(given: str, known: Iterable[str]) -> str:
    return f"{given} is unknown; choose one of {', '.join(known)}"


def _no_key(given: object, known: Iterable[object]) -> str:
    return f"{given} is no key of the configuration; known there are {', '.join(map(str, known))}"


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
        return _no_key(unknown.full_key, unknown.parent_node)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        return _no_option("=".join(error.missing_cfg_file.rsplit("/", 1)), error.options)
    if isinstance(error, OverrideParseException):
        return f"{error.override} is not read as key=value; quote a value that is no plain word, as in 'key=\"a=b\"'"
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
