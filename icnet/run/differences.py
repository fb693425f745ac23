"""Which keys of a configuration differ: from the default, or between runs."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from icnet.config import MISSING as TO_BE_GIVEN
from icnet.config import DataConfig, EvalConfig, TrainConfig
from icnet.run.reader import Run

FOLLOWS = {"data.batch_size": "trainer.batch_size"}
"""Keys that take their value from another unless they are given."""

FREE_MAPPINGS = {"model.options", "loss.weights"}
"""Keys whose value is a mapping, as the networks differ in what is in it."""

UNINTERESTING = {"output_dir", "trainer.progress_bar"}
"""Keys that change no result."""


def changed(run: Run) -> list[tuple[str, str, str]]:
    """Return key, value and default of what a run was made with, where they differ."""
    config = run.results.get("config") or {}
    schema = EvalConfig if "ckpt" in config else TrainConfig
    defaults = dict(_defaults(schema))
    given = flat(config)
    found = []
    for key, value in given.items():
        default = defaults.get(key, TO_BE_GIVEN)
        follows = FOLLOWS.get(key)
        if value == default or key in UNINTERESTING or (follows and value == given.get(follows)):
            continue
        found.append((key, text(value), "" if default == TO_BE_GIVEN else text(default)))
    return found


def differing(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Return each key whose value differs between the runs that have it, with the value in each of them."""
    configs = [flat(run.results.get("config") or {}) for run in runs]
    known = [config for config in configs if config]
    keys = list(dict.fromkeys(key for config in configs for key in config))
    rows = [(key, [text(config[key]) if key in config else "" for config in configs]) for key in keys]
    return [
        (key, values)
        for key, values in rows
        if key not in UNINTERESTING and len({text(config[key]) for config in known if key in config}) > 1
    ]


def flat(config: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Return a nested configuration as dotted keys and values; mappings with free keys are values."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, dict) and above + key not in FREE_MAPPINGS
        found |= flat(value, f"{above}{key}.") if nested else {f"{above}{key}": value}
    return found


def text(value: Any) -> str:
    """Write a value as one does on the command line."""
    return value if isinstance(value, str) else json.dumps(value).replace(" ", "")


def _defaults(schema: type, above: str = "") -> Iterator[tuple[str, Any]]:
    for key in fields(schema):
        kind = DataConfig if key.name == "data" and not above else key.type  # eval.py's own kind has nulls everywhere
        if isinstance(kind, type) and is_dataclass(kind):
            yield from _defaults(kind, f"{above}{key.name}.")
        else:
            yield f"{above}{key.name}", _default(key)


def _default(key: Field) -> Any:
    if key.default is not MISSING:
        return key.default
    return key.default_factory() if key.default_factory is not MISSING else TO_BE_GIVEN
