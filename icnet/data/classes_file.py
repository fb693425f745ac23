"""Reading ``classes.yaml``, a person's own list of classes.

It lists the classes in the order of their train ids. Masks hold a class by its label ids or by its color; where ``ids``
is left out, its id is its position. ``category`` and ``ignore`` may be left out too::

    classes:
      - {name: road, color: [128, 64, 128], category: flat}
      - {name: car, color: [0, 0, 142], category: vehicle, ids: [13, 14]}
    ignore: [254, [0, 0, 0]]  # label ids and colours that do not count; 255 does not unless it is a class's
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import yaml

from icnet.data.labels import IGNORE_INDEX, ClassTable, Color, train_id_table
from icnet.errors import UserError

MOST_CLASSES = IGNORE_INDEX  # train ids 0-254
LARGEST_ID = 65535  # of 16-bit masks

_REQUIRED, _ALLOWED = {"name", "color"}, {"name", "color", "category", "ids"}


class ListedClasses(NamedTuple):
    """What a list of classes says."""

    classes: ClassTable
    """Names, colours and categories, in the order of train ids."""

    label_table: np.ndarray
    """(256,) int16, or (65536,) if there are ids above 255: stored id to train id; 255 = ignored, -1 = not allowed."""

    color_table: list[tuple[Color, int]]
    """RGB colour and train id, 255 for ignored colours."""


def read_classes(file: Path, key: str = "data.classes") -> ListedClasses:
    """Read a list of classes.

    Args:
        file: A YAML file as described above.
        key: What the user names it with.

    Raises:
        UserError: The file is missing or does not describe classes as above.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{file} cannot be read; write the classes there, or name another file with {key}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not valid YAML ({' '.join(str(error).split())}); correct it") from None
    if not isinstance(content, dict) or set(content) - {"classes", "ignore"}:
        keys = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{file} has {keys} at its top; allowed are the keys classes and ignore")
    rows = content.get("classes")
    if not isinstance(rows, list) or not 1 <= len(rows) <= MOST_CLASSES:
        count = len(rows) if isinstance(rows, list) else "no"
        raise UserError(f"{file} lists {count} classes; write 1 to {MOST_CLASSES} of them below the key classes")
    table = _class_table(file, rows)
    train_ids = _train_ids(file, rows)
    ignored_ids, ignored_colors = _ignored(file, content.get("ignore") or [])
    for label_id in ignored_ids & train_ids.keys():
        name = table.names[train_ids[label_id]]
        raise UserError(f"{file} ignores label id {label_id}, which is class {name}; drop one of the two")
    colors = [(color, train_id) for train_id, color in enumerate(table.palette)]
    for color, train_id in colors:
        if color in ignored_colors:
            raise UserError(
                f"{file} ignores the colour {list(color)}, which is that of {table.names[train_id]}; drop one of them"
            )
    # Where a class does not claim 255, it is ignored.
    stored = {IGNORE_INDEX: IGNORE_INDEX} | dict.fromkeys(ignored_ids, IGNORE_INDEX) | train_ids
    ignored = [(color, IGNORE_INDEX) for color in sorted(ignored_colors)]
    return ListedClasses(table, train_id_table(list(stored.items())), colors + ignored)


def _class_table(file: Path, rows: Sequence[Any]) -> ClassTable:
    for position, row in enumerate(rows):
        if not isinstance(row, dict) or not _REQUIRED <= set(row) <= _ALLOWED:
            raise UserError(f"{file}: class {position} is {row}; give it name, color and perhaps category and ids")
        if not isinstance(row["name"], str) or not row["name"]:
            raise UserError(f"{file}: class {position} is called {row['name']!r}; give it a text as name (quote it)")
        if not _is_color(row["color"]):
            raise UserError(f"{file}: class {row['name']} has color {row['color']}; give [R, G, B], each from 0 to 255")
    names = tuple(row["name"] for row in rows)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{file} lists {', '.join(twice)} more than once; give each class its own name")
    categories = tuple(str(row["category"]) for row in rows if "category" in row)
    if categories and len(categories) != len(rows):
        raise UserError(f"{file} gives {len(categories)} of {len(rows)} classes a category; give one to all or to none")
    return ClassTable(names, tuple((r, g, b) for r, g, b in (row["color"] for row in rows)), categories)


def _train_ids(file: Path, rows: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Return stored label id to train id."""
    owners: dict[int, int] = {}
    for train_id, row in enumerate(rows):
        ids = row.get("ids")
        if ids is None:
            continue
        if not isinstance(ids, list) or not ids or not all(_is_id(label_id) for label_id in ids):
            raise UserError(
                f"{file}: class {row['name']} has ids {ids}; give a list of label ids from 0 to {LARGEST_ID}, or "
                f"leave it out for {train_id}, its position"
            )
        for label_id in ids:
            other = owners.setdefault(label_id, train_id)
            if other != train_id:
                raise UserError(
                    f"{file} gives label id {label_id} to {rows[other]['name']} and to {row['name']}; "
                    "it can be one class's only"
                )
    for train_id, row in enumerate(rows):
        if row.get("ids") is None and owners.setdefault(train_id, train_id) != train_id:
            raise UserError(
                f"{file} gives class {row['name']} no ids, and its position {train_id} is an id of "
                f"{rows[owners[train_id]]['name']}; give ids to {row['name']} too"
            )
    return owners


def _ignored(file: Path, ignore: object) -> tuple[set[int], set[Color]]:
    """Return the ids and the colours that do not count."""
    if not isinstance(ignore, list) or not all(_is_id(entry) or _is_color(entry) for entry in ignore):
        raise UserError(
            f"{file} has ignore: {ignore}; give a list of label ids from 0 to {LARGEST_ID} and of colours [R, G, B]"
        )
    colors = {(entry[0], entry[1], entry[2]) for entry in ignore if isinstance(entry, list)}
    return {entry for entry in ignore if isinstance(entry, int)}, colors


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_ID


def _is_color(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and len(value) == 3 and all(type(item) is int and 0 <= item <= 255 for item in value)
