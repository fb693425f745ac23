"""What ``--help`` shows: every key with its value, type, unit, range and meaning, and the groups with their options."""

import os
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from icnet.run.differences import text

COLUMN = 38  # where meanings begin; a longer key and value have a line of their own
NAMES = {str: "text", int: "a number", float: "a number", bool: "true or false"}
ASKED = {"--help", "-h"}


def show_help(name: str, schema: type, folder: Path, program: str) -> bool:
    """Print the help of a script if the command line asks for it, and tell whether it did; see ``help_text``."""
    given = sys.argv[1:]
    if not ASKED & set(given):
        return False
    overrides = [override for override in given if "=" in override and not override.startswith("-")]
    text = help_text(name, schema, folder, overrides, program)
    try:
        print(text, flush=True)
    except BrokenPipeError:  # as in --help | head; Python would complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def help_text(name: str, schema: type, folder: Path, overrides: Sequence[str], program: str = "") -> str:
    """Return the help of a script.

    Args:
        name: Its root configuration.
        schema: The dataclass of its keys.
        folder: ``conf/``.
        overrides: Of the command line: values are shown as they would be with these.
        program: How it is started; empty for ``python <name>.py``.

    Raises:
        HydraException: If the overrides do not compose.
    """
    with initialize_config_dir(str(folder), version_base="1.3"):
        composed = compose(name, list(overrides), return_hydra_config=True)
    chosen = composed.hydra.runtime.choices
    width = shutil.get_terminal_size((120, 0)).columns
    lines = [f"{program or f'python {name}.py'} key=value ... ; shown are the values with the command line as given"]
    groups = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name in chosen]
    if groups:
        lines += ["", "Groups, with their options:"]
    for path in groups:
        options = ", ".join(sorted(option.stem for option in path.glob("[!.]*.yaml")))
        lines.append(_entry(f"{path.name}={chosen[path.name] or 'null'}", options, width))
    lines += ["", "Keys:", *_keys(schema, composed, width)]
    lines += ["", "-m tries several values of a key, as in optim.lr=0.1,0.2; --hydra-help shows Hydra's own options."]
    return "\n".join(lines)


def _keys(schema: Any, values: DictConfig, width: int, above: str = "") -> Iterator[str]:
    given: Any = OmegaConf.to_container(values, resolve=False)
    for declared in sorted(fields(schema), key=lambda one: is_dataclass(one.type)):  # groups behind single keys
        name = f"{above}{declared.name}"
        if is_dataclass(declared.type):
            yield f"\n{name}: {declared.metadata['meaning']}"
            yield from _keys(declared.type, values[declared.name], width, f"{name}.")
        else:
            yield _entry(f"{name}={text(given.get(declared.name))}", _about(declared), width)


def _about(declared: Field) -> str:
    """Return meaning, type, range and unit."""
    about, kind = declared.metadata, typing.cast(Any, declared.type)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):  # with None
        kind = typing.get_args(kind)[0]
    listed, mapping = typing.get_origin(kind) is list, typing.get_origin(kind) is dict
    item = typing.get_args(kind)[-1] if listed or mapping else kind
    allowed = about["range"].allowed if about["range"] else NAMES.get(item, "")
    if item is int:
        allowed = allowed.replace("a number", "a whole number")
    if listed:
        allowed = f"{'two numbers' if about['pair'] else 'a list'}, each {allowed}"
    if mapping:
        allowed = f"a mapping of names to {f'values, each {allowed}' if allowed else 'values'}"
    return f"{about['meaning']} ({'; '.join(part for part in (allowed, about['unit']) if part)})"


def _entry(left: str, right: str, width: int) -> str:
    indent = " " * COLUMN
    text = textwrap.fill(right, max(width, COLUMN + 40), initial_indent=indent, subsequent_indent=indent)
    return f"  {left}\n{text}" if len(left) > COLUMN - 4 else f"  {left}{text[len(left) + 2 :]}"
