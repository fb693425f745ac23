"""Reading ``classes.yaml``, a person's own list of classes.

It lists the classes in the order of their label ids; ``category`` and ``ignore`` may be left out::

    classes:
      - {name: road, color: [128, 64, 128], category: flat}
      - {name: car, color: [0, 0, 142], category: vehicle}
    ignore: [254]  # stored ids that do not count; 255 never does
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import yaml

from icnet.data.labels import IGNORE_INDEX, ClassTable, train_id_table
from icnet.errors import UserError

MOST_CLASSES = IGNORE_INDEX  # ids 0-254


def read_classes(file: Path) -> tuple[ClassTable, np.ndarray]:
    """Read a list of classes.

    Args:
        file: A YAML file as described above.

    Returns:
        The class table, and (256,) int16 stored id to train id (255 = ignored, -1 = not allowed).

    Raises:
        UserError: The file is missing or does not describe classes as above.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise UserError(
            f"{file} cannot be read; write the classes there, or name another file with data.classes"
        ) from None
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
    ignored = _ignored_ids(file, content.get("ignore") or [], table.names)
    pairs = [(train_id, train_id) for train_id in range(len(table))]
    return table, train_id_table(pairs + [(label_id, IGNORE_INDEX) for label_id in ignored])


def _class_table(file: Path, rows: Sequence[Any]) -> ClassTable:
    for position, row in enumerate(rows):
        if not isinstance(row, dict) or not {"name", "color"} <= set(row) <= {"name", "color", "category"}:
            raise UserError(f"{file}: class {position} is {row}; give it name, color and, if you like, category")
        if not isinstance(row["name"], str) or not row["name"]:
            raise UserError(f"{file}: class {position} is called {row['name']!r}; give it a text as name (quote it)")
        if not _are_bytes(row["color"]) or len(row["color"]) != 3:
            raise UserError(f"{file}: class {row['name']} has color {row['color']}; give [R, G, B], each from 0 to 255")
    names = tuple(row["name"] for row in rows)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{file} lists {', '.join(twice)} more than once; give each class its own name")
    categories = tuple(str(row["category"]) for row in rows if "category" in row)
    if categories and len(categories) != len(rows):
        raise UserError(f"{file} gives {len(categories)} of {len(rows)} classes a category; give one to all or to none")
    return ClassTable(names, tuple((r, g, b) for r, g, b in (row["color"] for row in rows)), categories)


def _ignored_ids(file: Path, ignore: object, names: Sequence[str]) -> set[int]:
    if not _are_bytes(ignore):
        raise UserError(f"{file} has ignore: {ignore}; give a list of label ids from 0 to 255")
    for label_id in ignore:
        if label_id < len(names):
            raise UserError(
                f"{file} ignores label id {label_id}, which is class {names[label_id]}; drop one of the two"
            )
    return {*ignore, IGNORE_INDEX}


def _are_bytes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= 255 for item in value)
