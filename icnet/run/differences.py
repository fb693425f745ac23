"""Which keys of a configuration differ: from the default, between runs, or between a run and what was begun."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any

from icnet.config import MISSING as TO_BE_GIVEN
from icnet.config import RENAMED, DataConfig, EvalConfig, TrainConfig
from icnet.run.reader import Run
from icnet.run.results import DataFingerprint, EvaluationRecord, SplitFingerprint

OLD_OUTPUT_WEIGHTS = {"loss.sub124_weight": 1.0, "loss.sub24_weight": 0.4, "loss.sub4_weight": 0.4}
"""What version 0.1 had as defaults; today they are null, for the network's own."""

RESOLVED = {"model.backbone": "resnet50"}
"""What results hold of keys that are null by default: those of the network that is trained where none is chosen."""


def changed(run: Run) -> list[tuple[str, str, str]]:
    """Return key, value and default of what a run was made with, where they differ and a result depends on them."""
    schema = EvalConfig if isinstance(run.results, EvaluationRecord) else TrainConfig
    defaults = {key: default for key, (default, _) in _keys(schema).items()} | RESOLVED
    found = []
    for key, value in flat(run.record.config or {}).items():
        default = defaults.get(key, TO_BE_GIVEN)
        if value != default and affects_result(key):
            found.append((key, text(value), "" if default == TO_BE_GIVEN else text(default)))
    return found


def differing(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Return each key whose value differs between the runs that have it, with the value in each of them."""
    configs = [flat(run.record.config or {}) for run in runs]
    known = [config for config in configs if config]
    keys = list(dict.fromkeys(key for config in configs for key in config))
    rows = [(key, [text(config[key]) if key in config else "" for config in configs]) for key in keys]
    found = [
        (key, values)
        for key, values in rows
        if affects_result(key) and len({text(config[key]) for config in known if key in config}) > 1
    ]
    told = [run.record.fingerprint for run in runs]
    first = next((data for data in told if data), None)
    if first and any(data and data_changes(first, data) for data in told):
        found.append(("data", [_short(data) if data else "" for data in told]))
    return found


def _short(data: DataFingerprint) -> str:
    """Return number of samples and beginning of the digest of each split, such as ``train 6 ab12cd34``."""
    splits = [(name, getattr(data, name)) for name in ("train", "val")]
    return ", ".join(f"{name} {split.samples} {(split.sha256 or '')[:8]}" for name, split in splits if split)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Name the keys in which two configurations of a training differ.

    Args:
        before: One of them, or a part of it, nested or as ``flat`` returns it.
        after: The other one.

    Returns:
        Texts such as ``optim.lr was 0.1, is 0.2``, of keys that a result depends on and both have. A key that came
        into the schema after ``before`` was written had its default there, as far as its group is told at all.
    """
    old, new = (flat(json.loads(json.dumps(config))) for config in (before, after))  # tuples and lists are the same
    for key, default in OLD_OUTPUT_WEIGHTS.items():
        for config in (old, new):
            if config.get(key) == default:
                config[key] = None
    told = {key.partition(".")[0] for key in old}
    for key, (default, _) in _keys(TrainConfig).items():
        if key.partition(".")[0] in told and default != TO_BE_GIVEN:
            old.setdefault(key, default)
    return [
        f"{key} was {text(old[key])}, is {text(new[key])}"
        for key in sorted(old.keys() & new.keys())
        if old[key] != new[key] and affects_result(key)
    ]


def data_changes(before: DataFingerprint, after: DataFingerprint) -> list[str]:
    """Name what tells two data sets apart.

    Args:
        before: One of them.
        after: The other one.

    Returns:
        Texts such as ``train had 6 samples, has 12`` or ``class 3 was sky, is road``, classes first; a split that only
        one of them tells of is left out.
    """
    found = class_changes(before.classes or (), after.classes or ())
    if not found:
        old, new = before.labels or {}, after.labels or {}
        found += [
            f"class {name} was stored as {old[name] or 'nothing'}, is stored as {new[name] or 'nothing'}"
            for name in old.keys() & new.keys()
            if old[name] != new[name]
        ][:1]
        painted, now = before.colors or {}, after.colors or {}
        found += [
            f"class {name} was painted {painted[name]}, is painted {now[name]}"
            for name in painted
            if name in now and painted[name] != now[name]
        ][:1]
        if not found and before.ignored != after.ignored:
            found.append(f"label ids that do not count were {before.ignored}, are {after.ignored}")
    for split in ("train", "val"):
        one, other = getattr(before, split), getattr(after, split)
        if one is not None and other is not None and one != other:
            found.append(f"{split} {_sample_change(one, other)}")
    return found


def class_changes(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Name the first class in which two lists of classes differ, and their lengths if these do."""
    found = [] if len(before) == len(after) else [f"there were {len(before)} classes, are {len(after)}"]
    pairs = enumerate(zip(before, after, strict=False))
    first = next((f"class {number} was {old}, is {new}" for number, (old, new) in pairs if old != new), None)
    return [first, *found] if first else found


def _sample_change(before: SplitFingerprint, after: SplitFingerprint) -> str:
    if before.samples != after.samples:
        return f"had {before.samples} samples, has {after.samples}"
    if before.names_sha256 != after.names_sha256:
        return f"had {before.samples} samples, has as many of other names"
    if before.sha256 == after.sha256:
        return "has label files of the same sizes with other content"
    return f"has files of other sizes, {before.bytes} bytes in all before and {after.bytes} now"


def affects_result(key: str) -> bool:
    """Tell whether a run's result depends on a dotted key, as its declaration says; that of an unknown key may."""
    return all(_keys(schema).get(key, (None, True))[1] for schema in (TrainConfig, EvalConfig))


def flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return a nested configuration as dotted keys and values; keys of older versions under the names of today."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{above}{name}"
        nested = isinstance(value, Mapping) and not _is_mapping(key)
        found |= flat(value, f"{key}.") if nested else {key: value}
    for old, new in RENAMED.items() if not above else ():
        if old in found:
            found[new] = found.pop(old)  # 0.1 wrote both, and went by this one
    return found


def _is_mapping(key: str) -> bool:
    """Tell whether a key's own value is a mapping, as networks and data sets differ in what is in it."""
    return isinstance(_keys(TrainConfig).get(key, (None,))[0], dict)


def text(value: Any) -> str:
    """Write a value as one does on the command line."""
    return value if isinstance(value, str) else json.dumps(value).replace(" ", "")


@cache
def _keys(schema: type) -> dict[str, tuple[Any, bool]]:
    """Return each dotted key of a schema with its default and whether a result depends on it."""
    return dict(_walk(schema))


def _walk(schema: type, above: str = "", affects: bool = True) -> Iterator[tuple[str, tuple[Any, bool]]]:
    for key in fields(schema):
        kind = DataConfig if key.name == "data" and not above else key.type  # eval.py's own kind has nulls everywhere
        own = affects and key.metadata.get("affects_result", True)
        if isinstance(kind, type) and is_dataclass(kind):
            yield from _walk(kind, f"{above}{key.name}.", own)
        else:
            yield f"{above}{key.name}", (_default(key), own)


def _default(key: Field) -> Any:
    if key.default is not MISSING:
        return key.default
    return key.default_factory() if key.default_factory is not MISSING else TO_BE_GIVEN
