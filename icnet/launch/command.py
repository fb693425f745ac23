"""From the command line to a running ``main``: composing the configuration, ending with one clear line on bad input."""

import contextlib
import errno
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from icnet.config import RENAMED
from icnet.errors import UserError
from icnet.launch import rank as group
from icnet.launch.help import show_help
from icnet.run.paths import RunPaths, hydra_folders_below

Config = TypeVar("Config")

NO_DEFECTS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of the file system that are the user's to fix, wherever they come up."""

DEFECT = 1
USER_MISTAKE = 2  # the exit status for what the user can fix; 1 is a defect, with its traceback
INTERRUPTED = 130  # the shell's convention for Ctrl-C

FAILURES = {DEFECT: "died", USER_MISTAKE: "failed"}
"""How the line begins that a failed job of a sweep writes into its folder."""

SWEEPER = "hydra/sweeper"  # the group
PLUGINS = {
    "hydra/sweeper/optuna": ("hydra-optuna-sweeper", '"sqlalchemy<2"'),  # its Optuna cannot store a study with 2
    "hydra/launcher/joblib": ("hydra-joblib-launcher",),
    "hydra/launcher/submitit_local": ("hydra-submitit-launcher",),
    "hydra/launcher/submitit_slurm": ("hydra-submitit-launcher",),
}
"""Options that a package brings along, and what pip has to install for them, the package first."""


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
        failed: list[int] = []  # of the jobs that ran in this process; SweepTable finds those of others
        shared: group.RunFolder | None = None

        def job(composed: DictConfig) -> Any:
            """Run ``main``; in a sweep with another launcher, this is what runs in its processes."""
            try:
                if shared:
                    shared.tell(HydraConfig.get().runtime.output_dir)
                _refuse_search_of_one_run()
                config = OmegaConf.to_object(composed)
                _refuse_added_keys(config)
                if hasattr(config, "output_dir"):
                    return _run_in_folder(main, config, name)
                return main(config)  # type: ignore[arg-type]
            except Exception as error:
                found = verdict(error)
                if found is None and HydraConfig.get().mode == RunMode.MULTIRUN:
                    traceback.print_exception(error)
                    found = DEFECT, f"{type(error).__name__}: {_flatten(str(error))}"
                if found is None:
                    error.is_defect = True  # type: ignore[attr-defined]
                    raise
                return fail(*found)

        def fail(status: int, line: str) -> None:
            """End here; or, in a sweep, let the other jobs run first."""
            about = HydraConfig.get()
            if about.mode != RunMode.MULTIRUN:
                _exit_with(line, status)
            failed.append(status)
            print(f"error: job {about.job.num}: {line}", file=sys.stderr)
            with contextlib.suppress(OSError):  # which may be what the job failed of
                text = f"{FAILURES[status]}: {line}\n"
                RunPaths(Path(about.runtime.output_dir)).failure.write_text(text, encoding="utf-8")

        def command() -> None:
            nonlocal shared
            # Hydra would print its own errors over several lines and exit with 1; let them through to here instead.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            ConfigStore.instance().store(name=f"{name}_schema", node=schema)
            try:
                shared = _join()
                if show_help(name, schema, folder):
                    return
                with _ended_search():
                    hydra.main(version_base="1.3", config_path=str(folder), config_name=name)(job)()
                if failed:
                    sys.exit(min(failed))
            except (HydraException, OmegaConfBaseException, UserError) as error:
                _exit_with(one_line(error))
            except ValueError as error:
                if "Config group override" not in str(error):  # Hydra's complaint about optim=null or optim=3
                    raise
                _exit_with(_wrong_option(folder))
            except OSError as error:  # Hydra's, unless it came from main
                if hasattr(error, "is_defect"):
                    raise
                place = f"{error.filename} cannot be used as a folder ({error.strerror})"
                _exit_with(f"{place}; choose another with hydra.run.dir=PATH")
            except KeyboardInterrupt:
                sys.exit(INTERRUPTED)
            except SystemExit as stop:
                if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning's, after it has ended the run
                    sys.exit(INTERRUPTED)
                raise
            finally:
                if shared:
                    shared.tell("")

        return command

    return decorate


def _join() -> group.RunFolder | None:
    """Become part of the group that this process was started in, if it was."""
    place = group.joined()
    if place is None:
        return None
    words = sys.argv[1:]
    if {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(words):
        if place.rank:
            sys.exit(USER_MISTAKE)
        raise UserError("-m in a group of torchrun or srun would sweep in every process; start it by python alone")
    shared = group.RunFolder(place, words)
    sys.argv += shared.words
    return shared


def _run_in_folder(main: Callable[[Any], Any], config: Any, name: str) -> Any:
    """Run ``main`` with a log in its run folder."""
    about = HydraConfig.get()
    RunPaths(Path(about.runtime.output_dir)).failure.unlink(missing_ok=True)
    _make_output_folder(config.output_dir)
    place = group.joined() or group.Place()
    if group.joined():
        group.fit_to(place, config.trainer, about.overrides.task)
    elif config.trainer.num_nodes > 1:
        return main(config)  # which node this is, and so its log's name, is settled between them later
    path = group.log_path(Path(config.output_dir), name, config.trainer.devices, place)
    with group.own_log(path, place.rank) as log:
        try:
            return main(config)
        except Exception as error:
            if place.rank == 0:  # another's standard error ends there anyway
                write_error(error, log)
            raise


def _refuse_search_of_one_run() -> None:
    """Raise ``UserError`` where Hydra would leave the sweeper out, and train once with what is no trial's values."""
    about = HydraConfig.get()
    if about.mode == RunMode.RUN and _searches(about):
        sweeper = about.runtime.choices[SWEEPER]
        raise UserError(f"{SWEEPER}={sweeper} searches in several runs, and this would be one; give -m too")


def _searches(about: Any) -> bool:
    return about.runtime.choices[SWEEPER] != "basic"


@contextlib.contextmanager
def _ended_search() -> Iterator[None]:
    """End a search that its sweeper gives up with one line and its table: Hydra would show a traceback instead.

    Optuna's gives up after the last trial if all of them failed, and at a trial that cannot be composed.
    """
    try:
        yield
    except Exception as error:
        swept: Any = HydraConfig.instance().cfg  # by SweepTable
        if hasattr(error, "is_defect") or swept is None or not _searches(swept.hydra):
            raise
        known = isinstance(error, (HydraException, OmegaConfBaseException))
        reason = one_line(error) if known else _flatten(str(error)) or type(error).__name__
        print(f"error: {SWEEPER}={swept.hydra.runtime.choices[SWEEPER]} gave up: {reason}", file=sys.stderr)
        if any(hydra_folders_below(Path(swept.hydra.sweep.dir))):
            for callback in instantiate(swept.hydra.callbacks).values():
                callback.on_multirun_end(config=swept)  # exits with a status of its own if a trial failed
        sys.exit(USER_MISTAKE)


def _refuse_added_keys(config: object, above: str = "") -> None:
    """Raise ``UserError`` for a key that is not in the schema: ``+key=value`` gets past Hydra."""
    known = [key.name for key in fields(config)]  # type: ignore[arg-type]
    for key, value in vars(config).items():
        if key not in known:
            raise UserError(_no_key(above + key, known))
        if is_dataclass(value):
            _refuse_added_keys(value, f"{above}{key}.")


def _make_output_folder(folder: str) -> None:
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
        key, _, option = word.lstrip("+").partition("=")
        if options.get(key) and option not in options[key]:
            return _no_option(word, options[key])
    return "a group of the configuration is given something else than the name of an option; see --help"


def _no_option(given: str, known: Iterable[str]) -> str:
    return f"{given} is unknown; choose one of {', '.join(known)}"


def _no_plugin(option: str) -> str:
    packages = PLUGINS[option]
    given = "=".join(option.rsplit("/", 1))
    return f"{given} needs {packages[0]}, which is not installed; run 'pip install {' '.join(packages)}'"


def _no_key(given: object, known: Iterable[object]) -> str:
    if given in RENAMED:
        return f"{given} is no key any more; give {RENAMED[given]}"
    return f"{given} is no key of the configuration; known there are {', '.join(map(str, known))}"


def verdict(error: BaseException) -> tuple[int, str] | None:
    """Return the exit status and the one line for what needs no traceback; None for a defect of this process."""
    if isinstance(error, group.RankDied):
        return DEFECT, str(error)
    if isinstance(error, (UserError, OmegaConfBaseException)):
        return USER_MISTAKE, one_line(error)
    if isinstance(error, OSError) and error.errno in NO_DEFECTS:
        place = f"{error.filename} cannot be used" if error.filename else "a file cannot be written"
        fix = "make room or change the permissions, or choose another place"
        return USER_MISTAKE, f"{place} ({error.strerror}); {fix}"
    return None


def write_error(error: BaseException, log: Any) -> None:
    """Write what ended a process into its log: one line, or the traceback of a defect."""
    found = verdict(error)
    if found:
        print(f"error: {found[1]}", file=log, flush=True)
    else:
        traceback.print_exception(error, file=log)
        log.flush()


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
    if isinstance(error, MissingConfigException) and error.missing_cfg_file in PLUGINS:
        return _no_plugin(error.missing_cfg_file)
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


def _exit_with(line: str, status: int = USER_MISTAKE) -> None:
    print(f"error: {line}", file=sys.stderr)
    sys.exit(status)
