"""From any error to an exit status and one line."""

import errno
import sys
import traceback
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, TextIO

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from icnet.config import RENAMED
from icnet.errors import UserError
from icnet.launch.rank import RankDied
from icnet.run.failure import DIED, FAILED

DEFECT = 1
USER_MISTAKE = 2  # the exit status for what the user can fix; 1 is a defect, with its traceback
FAILURES = {DEFECT: DIED, USER_MISTAKE: FAILED}  # what a job of a sweep leaves in its folder
INTERRUPTED = 130  # the shell's convention for Ctrl-C

USERS_TO_FIX = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of the file system that are no defect, wherever they come up."""

PLUGINS = {
    "hydra/sweeper/optuna": ("hydra-optuna-sweeper", '"sqlalchemy<2"'),  # its Optuna cannot store a study with 2
    "hydra/launcher/joblib": ("hydra-joblib-launcher",),
    "hydra/launcher/submitit_local": ("hydra-submitit-launcher",),
    "hydra/launcher/submitit_slurm": ("hydra-submitit-launcher",),
}
"""Options that come with a package of their own, and what pip has to install for them, the package first."""


def verdict(error: BaseException) -> tuple[int, str] | None:
    """Return the exit status and the one line for what needs no traceback; None for a defect of this process."""
    if isinstance(error, RankDied):
        return DEFECT, str(error)
    if isinstance(error, (UserError, OmegaConfBaseException)):
        return USER_MISTAKE, one_line(error)
    if isinstance(error, OSError) and error.errno in USERS_TO_FIX:
        place = f"{error.filename} cannot be used" if error.filename else "a file cannot be written"
        fix = "make room or change the permissions, or choose another place"
        return USER_MISTAKE, f"{place} ({error.strerror}); {fix}"
    return None


def composition_error(error: Exception, conf: Path, overrides: Iterable[str]) -> str | None:
    """Return the one line for what went wrong before ``main``, or None for a defect.

    Args:
        error: What Hydra raised.
        conf: Folder of the configuration.
        overrides: Those of the command line.
    """
    if isinstance(error, (HydraException, OmegaConfBaseException, UserError)):
        return one_line(error)
    if isinstance(error, ValueError) and "Config group override" in str(error):  # of optim=null or optim=3
        return _wrong_option(conf, overrides)
    if isinstance(error, OSError):
        place = f"{error.filename} cannot be used as a folder ({error.strerror})"
        key = "hydra.sweep.dir" if sweeps(overrides) else "hydra.run.dir"
        return f"{place}; choose another with {key}=PATH"
    return None


def sweeps(overrides: Iterable[str]) -> bool:
    """Tell whether a command line asks for several runs."""
    return bool({"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(overrides))


def write_error(error: BaseException, log: TextIO) -> None:
    """Write what ended a process into its log: one line, or the traceback of a defect."""
    found = verdict(error)
    if found:
        print(f"error: {found[1]}", file=log, flush=True)
    else:
        traceback.print_exception(error, file=log)
        log.flush()


def print_error(line: str) -> None:
    """Print one line on standard error, as every mistake ends."""
    print(f"error: {line}", file=sys.stderr)


def exit_with(line: str, status: int = USER_MISTAKE) -> NoReturn:
    """End this process with one line on standard error."""
    print_error(line)
    sys.exit(status)


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
    parts = [flatten(text)]
    if isinstance(error.__cause__, OmegaConfBaseException):
        parts.append(flatten(str(error.__cause__)))
    return ": ".join(parts)


def flatten(text: str) -> str:
    """Return a message of several lines as one, without what Hydra and OmegaConf add about their own insides."""
    lines = [line.strip() for line in text.split("\nConfig search path:")[0].splitlines()]
    noise = ("full_key", "object_type", "reference_type")
    return " ".join(line for line in lines if line and not line.startswith(noise))


def refuse_added_keys(config: Any, above: str = "") -> None:
    """Raise ``UserError`` for a key that is not in the schema: ``+key=value`` gets past Hydra."""
    known = [key.name for key in fields(config)]
    for key, value in vars(config).items():
        if key not in known:
            raise UserError(_no_key(above + key, known))
        if is_dataclass(value):
            refuse_added_keys(value, f"{above}{key}.")


def _no_key(given: str | None, known: Iterable[object]) -> str:
    if given in RENAMED:
        return f"{given} is an unknown key since version 0.2; give {RENAMED[given]}"
    names = ", ".join(map(str, known))
    if not names:  # options of a network or data set, of which conf/ has none
        return f"{given} is an unknown key, as conf/ has none there; +{given}=VALUE adds it"
    return f"{given} is an unknown key; known there are {names}"


def _wrong_option(conf: Path, overrides: Iterable[str]) -> str:
    """Say which override gives a group something else than the name of an option."""
    options = {path.name: sorted(option.stem for option in path.glob("[!.]*.yaml")) for path in conf.iterdir()}
    for override in overrides:
        key, _, option = override.lstrip("+").partition("=")
        if options.get(key) and option not in options[key]:
            return _no_option(override, options[key])
    return "a group of the configuration is given something else than the name of an option; see --help"


def _no_option(given: str, known: Iterable[str]) -> str:
    return f"{given} is unknown; choose one of {', '.join(known)}"


def _no_plugin(option: str) -> str:
    packages = PLUGINS[option]
    given = "=".join(option.rsplit("/", 1))
    return f"{given} needs {packages[0]}, which is not installed; run 'pip install {' '.join(packages)}'"
