"""Paths on the command line: as people type them, in the grammar of Hydra's overrides."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass

HYDRA_PATHS = ("hydra.run.dir", "hydra.sweep.dir")
"""Hydra makes these folders itself, before anything of ours could expand what is given."""

# What Hydra takes as a plain word (its OverrideLexer.g4); a comma, which separates the values of a sweep, is the
# user's, and so is whatever has quotes or calls a function such as choice(...).
PLAIN = re.compile(r"[A-Za-z0-9_ :/+.$%*@?|-]*")
BRACED = re.compile(r"\$\{([A-Za-z_]\w*)\}")
LEFT_ALONE = re.compile(r"""['"]|.*,|\w+\(.*\)$""")


def readable(argv: Sequence[str], schema: type) -> list[str]:
    """Return a command line as Hydra can read it.

    A path may be typed as it is: ``data.root=~/my set (2)`` or ``data.images={split}/{stem}.jpg``, which Hydra would
    not parse, come out quoted; ``~`` and environment variables in the folders that Hydra makes are expanded, and
    ``${HOME}`` in every path, which Hydra would take for a key.

    Args:
        argv: The command line without the script's name.
        schema: The dataclass of the configuration, which tells what keys are paths.
    """
    return [_readable(override, {*path_keys(schema), *HYDRA_PATHS}) for override in argv]


def path_keys(schema: type, above: str = "") -> Iterator[str]:
    """Yield the dotted names of a schema's keys that are paths."""
    for key in fields(schema):
        if isinstance(key.type, type) and is_dataclass(key.type):
            yield from path_keys(key.type, f"{above}{key.name}.")
        elif key.metadata.get("path"):
            yield f"{above}{key.name}"


def _readable(override: str, paths: set[str]) -> str:
    key, equals, value = override.partition("=")
    if not equals or key.lstrip("+") not in paths or LEFT_ALONE.match(value):
        return override
    if key.lstrip("+") in HYDRA_PATHS:
        value = os.path.expanduser(os.path.expandvars(value))
    value = BRACED.sub(lambda found: os.environ.get(found[1], found[0]), value)
    if PLAIN.fullmatch(value):
        return f"{key}={value}"
    quoted = value.replace("'", r"\'")
    return f"{key}='{quoted}'"
