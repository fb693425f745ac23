"""Schemas of the JSON files that runs leave: how a key is declared, read, written and described in a document."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Record = TypeVar("Record")


def entry(meaning: str, unit: str = "", *, label: str = "") -> Any:
    """Declare a key. Without a value it is null, as in files of older versions.

    Args:
        meaning: What it means.
        unit: Of a number.
        label: What it is called among the facts at the end of a run's page; empty if it does not stand there.
    """
    return field(default=None, metadata={"meaning": meaning, "unit": unit, "label": label})


def record(schema: type[Record], values: Mapping[str, Any]) -> Record:
    """Make one of the dataclasses above of what is plain, such as a part of a JSON file or of a checkpoint.

    Raises:
        TypeError: If a value is of another type than its key has.
    """
    types = get_type_hints(schema)
    known = {one.name for one in fields(schema)}  # type: ignore[arg-type]
    return schema(**{name: _typed(name, values[name], types[name]) for name in values if name in known})


def _typed(name: str, value: Any, kind: Any) -> Any:
    """Return a value as its type wants it, mappings as dataclasses."""
    if get_origin(kind) in {Union, UnionType}:
        if value is None:
            return None
        kind = next(one for one in get_args(kind) if one is not type(None))
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if kind is Any:
        return value
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, Mapping):
        return record(kind, value)
    if origin is list and isinstance(value, list):
        return [_typed(name, item, inner[0]) for item in value]
    if origin is dict and isinstance(value, dict):
        return {part: _typed(name, item, inner[1]) for part, item in value.items()}
    if isinstance(value, (int, float) if origin is float else origin) and (type(value) is bool) == (kind is bool):
        return value
    raise TypeError(f"{name} is a {type(value).__name__}")


def plain(value: Any) -> Any:
    """Make a value fit for JSON: dataclasses become objects, NaN and infinite numbers null, paths text."""
    if is_dataclass(value) and not isinstance(value, type):
        items = {one.name: plain(getattr(value, one.name)) for one in fields(value)}
        return dict(sorted(items.items(), key=lambda item: isinstance(item[1], (dict, list))))  # figures before tables
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value


def tables(sections: Sequence[tuple[str, type]]) -> str:
    """Return a schema as the tables of a document.

    Args:
        sections: Headings and the dataclasses that stand below them; a key that one inherits stands below its base.
    """
    return "\n".join(line for heading, schema in sections for line in _table(heading, schema))


def _table(heading: str, schema: type) -> Iterator[str]:
    yield from (f"## {heading}", "", "| Key | Type | Unit | Meaning |", "|---|---|---|---|")
    types, inherited = get_type_hints(schema), get_type_hints(schema.__base__) if is_dataclass(schema.__base__) else {}
    for one in fields(schema):
        if one.name not in inherited:
            kind, about = _type_name(types[one.name]), one.metadata
            yield f"| `{one.name}` | {kind} | {about['unit']} | {about['meaning']} |"
    yield ""


def _type_name(kind: Any) -> str:
    """Return what JSON calls a type."""
    if get_origin(kind) in {Union, UnionType}:
        kind = next(one for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is list:
        return f"array of {_type_name(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        inner = get_args(kind)[1]
        return "object" if inner is Any else f"object of {_type_name(inner)}"
    return {str: "string", bool: "boolean", int: "integer", float: "number"}.get(kind, "object")
