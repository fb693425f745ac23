"""How a key of the configuration is declared: default, meaning, unit and range in one place, which also checks."""

import math
import os
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from icnet.errors import UserError

REQUIRED: Any = object()
"""As a default: there is none, the key has to be given."""


@dataclass(frozen=True)
class Range:
    """Which values a key, or each item of a list, may have.

    Args:
        allowed: The values in words that complete "give ...".
        holds: Tells whether a value is one of them.
        wrong: What a message says of another value.
    """

    allowed: str
    holds: Callable[[Any], bool]
    wrong: str = "is out of range; give"

    def check(self, name: str, value: object) -> None:
        """Raise ``UserError`` for a value that is not allowed."""
        if not self.holds(value):
            raise UserError(f"{name}={value} {self.wrong} {self.allowed}")


def one_of(choices: Collection[object]) -> Range:
    """Return the range of a name."""
    return Range(f"one of {', '.join(map(str, choices))}", lambda value: value in choices, "is unknown; choose")


def number(
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
    otherwise: tuple[float, str] | None = None,
) -> Range:
    """Return the range of a finite number.

    Args:
        low: The smallest.
        above: Less than the smallest.
        high: The largest.
        below: More than the largest.
        otherwise: A further number and what it stands for, such as ``(-1, "all")``.
    """
    first = f"from {low}" if above is None else f"above {above}"
    last = f" to {high}" if high is not None else f" to below {below}" if below is not None else ""
    rest = f", or {otherwise[0]} for {otherwise[1]}" if otherwise else ""

    def holds(value: float) -> bool:
        if otherwise and value == otherwise[0]:
            return True
        return (
            math.isfinite(value)
            and (low is None or value >= low)
            and (above is None or value > above)
            and (high is None or value <= high)
            and (below is None or value < below)
        )

    return Range(f"a number {first}{last}{rest}", holds)


def key(
    default: Any,
    meaning: str,
    *,
    unit: str = "",
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
    otherwise: tuple[float, str] | None = None,
    choices: Collection[object] = (),
    values: Range | None = None,
    pair: str = "",
    path: bool = False,
    affects_result: bool = True,
) -> Any:
    """Declare a key of a ``Keys`` dataclass.

    Args:
        default: Its value unless given; a dataclass makes a group of keys, ``REQUIRED`` no default.
        meaning: What it does, for ``--help``.
        unit: What it counts, or what single values stand for, such as ``0 = off``.
        low: See ``number``; of each item where the value is a list. So are ``above``, ``high``, ``below`` and
            ``otherwise``.
        above: See ``number``.
        high: See ``number``.
        below: See ``number``.
        otherwise: See ``number``.
        choices: The names it may have.
        values: The range where it is neither of numbers nor of names.
        pair: An example, for a list that must have two items.
        path: Whether it names files: ``~`` and environment variables in it are expanded.
        affects_result: Whether another value may change what a run comes to: its weights, its scores.

    Returns:
        A dataclass field whose ``metadata`` holds ``meaning``, ``unit``, ``range``, ``pair``, ``path`` and
        ``affects_result``.
    """
    if choices:
        values = one_of(choices)
    elif low is not None or above is not None:
        values = number(low, above, high, below, otherwise)
    about = {"meaning": meaning, "unit": unit, "range": values, "pair": pair, "path": path}
    about["affects_result"] = affects_result
    if default is REQUIRED:
        return field(metadata=about, kw_only=True)
    if isinstance(default, type):
        return field(default_factory=default, metadata=about)
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=about)
    return field(default=default, metadata=about)


def expand(name: str, path: str) -> str:
    """Return a path with ``~``, ``$NAME`` and ``${NAME}`` replaced, as a shell does it.

    Args:
        name: The key, for the error.
        path: As it was given.

    Raises:
        UserError: If an environment variable is not set, unless there is a file of the very name.
    """
    expanded = os.path.expanduser(os.path.expandvars(path))
    unset = re.search(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))", expanded)
    if unset and not os.path.lexists(path):
        raise UserError(
            f"{name}={path} names the environment variable {unset[1] or unset[2]}, which is not set; set it, or give "
            "the path itself"
        )
    return path if unset else expanded


class Keys:
    """Base of the dataclasses that keys are declared in: checks their ranges, so that what exists is valid.

    Paths are expanded: ``~`` and environment variables in them are replaced.

    Args:
        above: By which name the group is known on the command line, with a dot behind it; empty at the top.
    """

    above: ClassVar[str] = ""

    def __init_subclass__(cls, above: str | None = None) -> None:
        if above is not None:
            cls.above = above

    def __post_init__(self) -> None:
        """Expand paths, and raise ``UserError`` for the first value that is out of its range."""
        for declared in fields(self):  # type: ignore[arg-type]
            values, pair = declared.metadata.get("range"), declared.metadata.get("pair")
            name, value = f"{self.above}{declared.name}", getattr(self, declared.name)
            if value is None and declared.default is None:
                continue
            if declared.metadata.get("path") and value:
                value = expand(name, value)
                setattr(self, declared.name, value)
            if pair and len(value) != 2:
                raise UserError(f"{name}={list(value)} has {len(value)} numbers; give two, such as {pair}")
            if values:
                for item_name, item in _items(name, value, listed=declared.type is not Any):
                    values.check(item_name, item)


def _items(name: str, value: Any, *, listed: bool) -> Iterable[tuple[str, Any]]:
    """Return what a range holds for: each item of a list or mapping, or the value itself."""
    if isinstance(value, dict):
        return [(f"{name}.{item}", held) for item, held in value.items()]
    return [(name, item) for item in value] if listed and isinstance(value, (list, tuple)) else [(name, value)]
