"""What is looked at in the data before a training, and the class weights that its labels come to."""

import logging
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from icnet.config import CheckConfig, DataConfig, TrainConfig
from icnet.data import check, known, survey
from icnet.data.datamodule import SegmentationDataModule
from icnet.data.dataset import SegmentationDataset
from icnet.data.known import Known
from icnet.data.statistics import WEIGHTINGS
from icnet.errors import UserError
from icnet.factory.data import data_module, data_title, prepare_data
from icnet.factory.devices import world_size
from icnet.run.data_findings import SAMPLES, DataFindings
from icnet.version import __version__

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
        keys = key(config.data, train), key(config.data, module.val)
        with known.alone(keys[0]):
            problems = _look(config, module, _load(keys[0], train), _load(keys[1], module.val), keys)
        if problems:
            raise _refusal(problems)
        for line in data_warnings(config, module):
            log.warning("%s", line)
    class_weights(config, train)


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
    of_train, of_val = (_load(key(config.data, one), one) for one in (train, val))
    return check.label_warnings(train, of_train) + check.score_warnings(val, of_val)


def class_weights(config: TrainConfig, train: SegmentationDataset | None) -> list[float] | None:
    """Return the loss's class weights: those that are given, or those that the training labels come to.

    Args:
        config: Of the run.
        train: The training set, all of whose labels are counted unless that was done before.

    Returns:
        One number for each class, 0 where a class never occurs; None for 1 everywhere.

    Raises:
        UserError: If a label mask cannot be read, or no label counts.
    """
    rule = config.loss.class_weights
    if not isinstance(rule, str) or train is None:
        return rule
    name = key(config.data, train)
    with known.alone(name):
        counted = count_all(train, name, progress=config.trainer.progress_bar)
    if nothing := check.all_ignored(train, counted):
        raise UserError(nothing)
    weights: list[float] = WEIGHTINGS[rule].weigh(counted.pixels, counted.ignored).tolist()
    return weights


def count_all(dataset: SegmentationDataset, name: str, *, progress: bool) -> Known:
    """Return what is known of a split once all of its labels are counted.

    Args:
        dataset: The split.
        name: See ``key``.
        progress: Whether to show a bar.

    Raises:
        UserError: If a label mask cannot be read.
    """
    found = _load(name, dataset)
    if not found.counted.all():
        log.info("counting the labels of %s", dataset.title)
        problems = check.look_at_masks(dataset, found, range(len(dataset)), progress=progress)
        known.keep(name, found)
        if problems:
            raise _refusal(problems)
    return found


def look_through(config: CheckConfig, output: Path) -> DataFindings:
    """Look through whole splits, and draw some of their samples into a folder of ``output``.

    Args:
        config: What to look at.
        output: Where the folder of pictures goes.

    Returns:
        What was found; what a training would end at is listed, not raised.

    Raises:
        UserError: If the data set or its list of classes is not there.
    """
    data, options = config.data, config.check
    prepare_data(data)
    problems: list[str] = []
    warnings: list[str] = []
    pictures: list[str] = []
    splits: list[survey.Split] = []
    for name in dict.fromkeys(options.splits or [data.train_split, data.val_split]):
        try:
            dataset = data_module(replace(data, val_split=name), config.seed).val
        except UserError as error:
            problems.append(str(error))
            continue
        kept = key(data, dataset)
        with known.alone(kept):
            found = _load(kept, dataset)
            split = survey.look_through(
                name, dataset, found, sample=options.sample, seed=config.seed, progress=config.progress_bar
            )
            known.keep(kept, found)
        problems += split.problems
        if name == data.train_split:
            problems += [line for line in [check.all_ignored(dataset, found)] if line and not split.problems]
            warnings += check.label_warnings(dataset, found)
        elif name == data.val_split:
            warnings += check.score_warnings(dataset, found)
        drawn = survey.draw_samples(split, output / SAMPLES, options.pictures)
        pictures += [f"{SAMPLES}/{path.name}" for path in drawn]
        splits.append(split)
    if not splits:
        raise UserError(problems[0])
    trained = next((split for split in splits if split.name == data.train_split), None)
    return DataFindings(
        data=data_title(data),
        root=data.root,
        version=__version__,
        problems=problems,
        warnings=warnings,
        splits=[survey.describe(split, progress=config.progress_bar) for split in splits],
        duplicates=survey.find_duplicates(splits),
        suspicious=[item for split in splits for item in survey.find_suspicious(split)],
        class_weights=survey.suggest_weights(trained) if trained else [],
        pictures=pictures,
    )


def key(data: DataConfig, dataset: SegmentationDataset) -> str:
    """Return under which name it is kept what is known of a split; see ``icnet.data.known``."""
    about: dict[str, Any] = {
        one.name: getattr(data, one.name)
        for one in fields(data)
        if one.metadata["affects_result"] and one.name not in UNREAD
    }
    return known.fingerprint(dataset, about | {"coding": dataset.coding})


def _load(name: str, dataset: SegmentationDataset) -> Known:
    return known.load(name, len(dataset), len(dataset.classes))


def _train(module: SegmentationDataModule) -> SegmentationDataset:
    if module.train is None:
        raise ValueError("this data module was built without a training set")
    return module.train
