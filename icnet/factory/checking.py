"""What is looked at in the data before a training."""

import logging
import math
from dataclasses import fields
from typing import Any

from icnet.config import DataConfig, TrainConfig
from icnet.data import check, known
from icnet.data.datamodule import SegmentationDataModule
from icnet.data.dataset import SegmentationDataset
from icnet.data.known import Known
from icnet.errors import UserError
from icnet.factory.data import data_module
from icnet.factory.devices import world_size

log = logging.getLogger(__name__)

SHOWN = 20  # problems that are listed, of more

UNREAD = {"train_split", "val_split", "train_samples", "crop_size", "scale_range", "flip", "blur", "color_jitter"}
"""Keys of ``data`` that do not decide how a file is read: which files there are, and their augmentation."""


def check_data(config: TrainConfig) -> None:
    """Look through the data before processes are started: quickly, and not again as long as no file changes.

    Looked at are the headers of all files, the files and labels that are validated on, and training labels until each
    class has occurred. Where class weights are to follow from the labels, all of the training's are counted.

    Raises:
        UserError: If training or validation would end at a file, or no training label counts.
    """
    module = data_module(config.data, config.seed, batch_size=config.trainer.batch_size)
    train = _train(module)
    if config.data.check:
        keys = kept_as(config.data, train), kept_as(config.data, module.val)
        with known.alone(keys[0]):
            problems = _look(config, module, load_known(keys[0], train), load_known(keys[1], module.val), keys)
        if problems:
            raise _refusal(problems)
        for line in data_warnings(config, module):
            log.warning("%s", line)
    if isinstance(config.loss.class_weights, str):
        count_labels(config, train)


def _look(
    config: TrainConfig, module: SegmentationDataModule, of_train: Known, of_val: Known, keys: tuple[str, str]
) -> list[str]:
    """Look at what is not known yet, and keep it; returns one line for each problem."""
    train, val, progress = _train(module), module.val, config.trainer.progress_bar
    before = of_train.extent, of_val.extent
    validated = range(_validated_images(config, len(val)))
    problems = check.look_at_headers(train, of_train, range(len(train)), progress=progress)
    problems += check.look_for_classes(train, of_train, progress=progress)
    if validated:
        found = check.look_at_headers(val, of_val, validated, progress=progress)
        found += check.look_at_images(val, of_val, validated, progress=progress)
        found += check.look_at_masks(val, of_val, validated, progress=progress)
        if not found:
            batches = [val.samples[index] for index in validated]
            found = check.mixed_batches(of_val, batches, config.data.eval_batch_size, world_size(config.trainer))
        problems += found
    if (of_train.extent, of_val.extent) != before:
        known.keep(keys[0], of_train)
        known.keep(keys[1], of_val)
    if not problems and (nothing := check.all_ignored(train, of_train)):
        problems = [nothing]
    return list(dict.fromkeys(problems))  # a header and a whole file may be refused in the same words


def _validated_images(config: TrainConfig, images: int) -> int:
    """Return how many images, the first ones, a validation looks at."""
    limit = config.trainer.limit_val_batches
    if limit is None:
        return images
    if limit <= 1:
        return math.ceil(limit * images)
    return min(images, int(limit) * config.data.eval_batch_size * world_size(config.trainer))


def _refusal(problems: list[str]) -> UserError:
    for line in problems[:SHOWN] if len(problems) > 1 else ():
        log.error("%s", line)
    rest = len(problems) - 1
    if not rest:
        return UserError(problems[0])
    return UserError(
        f"{problems[0]} ({rest} more {'problems' if rest > 1 else 'problem'} with these data: see the log, or let "
        "python -m icnet.data list all)"
    )


def data_warnings(config: TrainConfig, module: SegmentationDataModule) -> list[str]:
    """Return what is to be said of the labels, as far as they were looked at: classes that never occur above all."""
    train, val = _train(module), module.val
    of_train, of_val = (load_known(kept_as(config.data, one), one) for one in (train, val))
    return check.label_warnings(train, of_train) + check.score_warnings(val, of_val)


def count_labels(config: TrainConfig, train: SegmentationDataset) -> Known:
    """Return what is known of the training set once all of its labels are counted.

    Args:
        config: Of the run.
        train: The training set.

    Raises:
        UserError: If a label mask cannot be read, or no label counts.
    """
    name = kept_as(config.data, train)
    with known.alone(name):
        found = load_known(name, train)
        if not found.counted.all():
            log.info("counting the labels of %s", train.title)
            problems = check.look_at_masks(train, found, range(len(train)), progress=config.trainer.progress_bar)
            known.keep(name, found)
            if problems:
                raise _refusal(problems)
    if nothing := check.all_ignored(train, found):
        raise UserError(nothing)
    return found


def kept_as(data: DataConfig, dataset: SegmentationDataset) -> str:
    """Return under which name it is kept what is known of a split; see ``icnet.data.known``."""
    about: dict[str, Any] = {
        one.name: getattr(data, one.name)
        for one in fields(data)
        if one.metadata["affects_result"] and one.name not in UNREAD
    }
    return known.fingerprint(dataset, about | {"coding": dataset.coding})


def load_known(name: str, dataset: SegmentationDataset) -> Known:
    """Return what is known of a split; see ``kept_as`` for its name."""
    return known.load(name, len(dataset), len(dataset.classes))


def _train(module: SegmentationDataModule) -> SegmentationDataset:
    if module.train is None:
        raise ValueError("this data module was built without a training set")
    return module.train
