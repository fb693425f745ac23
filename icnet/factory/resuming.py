"""What a checkpoint tells of the configuration it was made with, and which one a run goes on from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from icnet.config import OUTPUT_WEIGHTS, RENAMED, TrainConfig
from icnet.errors import UserError
from icnet.factory.data import data_fingerprint, data_set
from icnet.factory.loss import output_weights
from icnet.factory.network import check_network, description, is_pruned
from icnet.models import network_class
from icnet.models.checkpoints import Checkpoint, read_checkpoint
from icnet.run import differences, folder, resume
from icnet.run.results import DataFingerprint, TrainingRecord, told_fingerprint

DESCRIBED = ("data", "loss", "optim", "scheduler", "amp")  # the groups that a checkpoint tells about, beside its model


def finished_results(config: TrainConfig) -> TrainingRecord | None:
    """Return the results of this very run on these data if its folder holds them; see ``icnet.run.folder``."""
    return folder.finished_results(config, lambda: data_fingerprint(config.data))


def resume_path(config: TrainConfig, classes: Sequence[str]) -> Path | None:
    """Find and check the checkpoint to resume from; None to start anew.

    Args:
        config: Of this run; see ``icnet.run.resume`` for what its ``resume`` means. Its data are prepared.
        classes: The names of the data's classes.

    Raises:
        UserError: If the file is missing, broken, or of another network, optimizer, classes or data than this run's;
            or if a new run would overwrite an older one.
    """
    data = cache(lambda: data_fingerprint(config.data))
    path = resume.choose_checkpoint(config, lambda path: _is_like(path, config, data))
    if path is None:
        return None
    checkpoint = read_checkpoint(path)
    if checkpoint.resumable:
        check_network(checkpoint, description(config.model, len(classes)))
    told = told_fingerprint(checkpoint.meta)
    resume.check_checkpoint(
        path, config, resumable=checkpoint.resumable, classes=(_class_names(checkpoint, classes), classes),
        optimizer=checkpoint.meta.get("optim", {}).get("name", config.optim.name),
        changed=changes(checkpoint.meta, config),
        data=differences.data_changes(told, data()) if told else [],
    )  # fmt: skip
    if told is None:
        folder.warn_unknown_data(path, checkpoint.meta.get("data", {}).get("root"), config)
    return path


def resolve_resume(config: TrainConfig) -> TrainConfig:
    """Return a configuration whose ``resume`` is the path to resume from, or None; see ``resume_path``."""
    path = resume_path(config, data_set(config.data).classes.names)
    return replace(config, resume=None if path is None else str(path))


def _is_like(path: Path, config: TrainConfig, data: Callable[[], DataFingerprint]) -> bool:
    """Tell whether a checkpoint was made with a configuration, or one that comes to the same, on these data.

    Of one that does not tell its data, they have to lie in the same place.
    """
    try:
        checkpoint = read_checkpoint(path)
        made = checkpoint.network
    except UserError:
        return False  # somebody else's, or broken: not this run's, then
    same = replace(made, widths={}) == description(config.model, made.num_classes)
    if not same or checkpoint.meta.get("keep", 1.0) != config.model.keep or changes(checkpoint.meta, config):
        return False
    if bool(made.widths) != is_pruned(config.model):
        return False
    told = told_fingerprint(checkpoint.meta)
    if told is None:
        return bool(checkpoint.meta.get("data", {}).get("root") == config.data.root)
    return not differences.data_changes(told, data())


def _class_names(checkpoint: Checkpoint, default: Sequence[str]) -> Sequence[str]:
    """Return the names of a checkpoint's classes; the given ones if it has as many and does not tell."""
    names = (checkpoint.meta.get("classes") or {}).get("names")
    if names:
        return list(map(str, names))
    return default if checkpoint.num_classes == len(default) else [""] * checkpoint.num_classes


def changes(meta: Mapping[str, Any], config: TrainConfig) -> list[str]:
    """Name the keys in which a configuration differs from the one that a checkpoint was made with.

    Args:
        meta: The checkpoint's description.
        config: The other one.

    Returns:
        Texts such as ``optim.lr was 0.1, is 0.2``; keys that no weight depends on are left out.
    """
    before, after = _compared(meta), _compared(described_groups(config))
    before.pop("data.val_split", None)  # scores depend on it, weights do not; the data's fingerprint tells
    before["seed"], after["seed"] = meta.get("seed"), config.seed
    return differences.changes(before, after)


def described_groups(config: TrainConfig) -> dict[str, Any]:
    """Return what a checkpoint tells of the configuration; of the loss, all of its weights."""
    described = {key: asdict(getattr(config, key)) for key in DESCRIBED}
    described["trainer"] = {"batch_size": config.trainer.batch_size}
    weights = output_weights(config.loss, network_class(config.model.name))
    loss = {key: value for key, value in described["loss"].items() if key not in OUTPUT_WEIGHTS}
    return described | {"loss": loss | {"weights": weights}}


def _compared(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys and values; of the loss's weights too, each of which was a key in version 0.1."""
    groups = (*DESCRIBED, "trainer")
    found = {f"{group}.{key}": value for group in groups for key, value in described.get(group, {}).items()}
    found = {RENAMED.get(key, key): value for key, value in found.items()}
    old = {key: found.pop(f"loss.{key}", None) for key in OUTPUT_WEIGHTS}
    weights = found.pop("loss.weights", {key.removesuffix("_weight"): value for key, value in old.items()})
    return found | {f"loss.weights.{name}": weight for name, weight in weights.items() if weight is not None}
