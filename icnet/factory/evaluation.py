"""From configuration to an evaluation."""

import logging
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from omegaconf import OmegaConf

from icnet.config import RENAMED, DataConfig, EvalConfig
from icnet.data.datamodule import SegmentationDataModule
from icnet.data.labels import ClassTable
from icnet.deploy import Segmenter, open_segmenter
from icnet.deploy.inference import Inference
from icnet.deploy.runtimes.foreign import read_told
from icnet.deploy.scoring import EvaluationTask
from icnet.errors import UserError
from icnet.factory.data import data_fingerprint, data_set, data_title, prepare_data
from icnet.factory.devices import device_arguments, group_plugins
from icnet.factory.trainer import limit, quiet_lightning, trainer_arguments, validation_batches
from icnet.models.integrity import sha256
from icnet.run.differences import data_changes
from icnet.run.environment import environment
from icnet.run.folder import refuse_other_evaluation
from icnet.run.paths import RunPaths
from icnet.run.results import DataFingerprint, EvaluationRecord, told_fingerprint
from icnet.training.callbacks.extreme_images import ExtremeImages

log = logging.getLogger(__name__)

PUBLISHED_DATA = {"name": "cityscapes"}
"""What the published ``.pth`` files, which do not tell, were trained on."""


def resolve_evaluation(config: EvalConfig) -> tuple[EvalConfig, Segmenter]:
    """Open the model and prepare the data to evaluate it on, before any process looks for them.

    Returns:
        The configuration with the whole of the data, the model's own or what was chosen; and the model.

    Raises:
        UserError: If the file cannot be read, or the folder holds an evaluation on other data; or see
            ``evaluation_data``.
    """
    segmenter = open_evaluated(config)
    data = evaluation_data(config, segmenter)
    prepare_data(data)
    found = data_fingerprint(data, training=False)
    refuse_other_evaluation(Path(config.output_dir), found)
    _compare_with_training(config, segmenter, data, found)
    return replace(config, data=data), segmenter


def _compare_with_training(config: EvalConfig, segmenter: Segmenter, data: DataConfig, found: DataFingerprint) -> None:
    """Say if what should be the data that a checkpoint was validated on in training are others."""
    told, own = told_fingerprint(segmenter.meta), segmenter.data
    if told is None or (own.get("name"), own.get("val_split")) != (data.name, data.val_split):
        return
    changed = data_changes(told, found)
    if changed:
        log.warning("not the data that %s was validated on in training: %s", config.ckpt, "; ".join(changed))


def open_evaluated(config: EvalConfig) -> Segmenter:
    """Open what is evaluated: its data, its task and its results are told from this.

    Raises:
        UserError: If the file cannot be read, or its runtime has no such provider or does not compile.
    """
    path = Path(config.ckpt or "")
    # Lightning moves it to its device, or it follows the images.
    runtime = config.runtime
    told = read_told(runtime.classes, runtime.mean, runtime.std)
    segmenter = open_segmenter(
        path, torch.device("cpu"), runtime.provider, compiled=runtime.compile, told=told, resize=runtime.resize
    )
    segmenter.sha256 = sha256(path)
    return segmenter


def evaluation_data(config: EvalConfig, segmenter: Segmenter) -> DataConfig:
    """Return the data to evaluate on: the model's own unless another set was chosen, with the keys given.

    Raises:
        UserError: If the model describes its data in another way than this version.
    """
    given = _given(config.data)
    own: dict[str, Any] = {}
    if "name" not in given:
        own = segmenter.data or PUBLISHED_DATA
        own = {key: value for key, value in own.items() if f"data.{key}" not in RENAMED}
        strange = own.keys() - {key.name for key in fields(DataConfig)}
        if strange:
            raise UserError(
                f"{config.ckpt} describes its data by {', '.join(sorted(strange))}, which this version does not know; "
                "choose the data with data=NAME"
            )
        own = {**own, "eval_batch_size": 1, "cache": "off"}
    schema = OmegaConf.structured(DataConfig)
    data: DataConfig = OmegaConf.to_object(OmegaConf.merge(schema, own, given))  # type: ignore[assignment]
    return data


def _given(overrides: object) -> dict[str, Any]:
    """Return the keys that are not null, nested ones too."""
    given: dict[str, Any] = {}
    for key, value in vars(overrides).items():
        if is_dataclass(value):
            given |= {key: _given(value)} if _given(value) else {}
        elif value is not None:
            given[key] = value
    return given


def evaluation_task(config: EvalConfig, segmenter: Segmenter, classes: ClassTable) -> EvaluationTask:
    """Build what runs the segmenter over the images and counts.

    Raises:
        UserError: If the segmenter's classes are not the data's; of published files only the number is known, and a
            warning says what is assumed.
    """
    if len(segmenter.classes) != len(classes):
        raise UserError(
            f"{config.ckpt} knows {len(segmenter.classes)} classes and the data {len(classes)}; "
            "choose the data it was trained on, or another checkpoint"
        )
    pairs = enumerate(zip(segmenter.classes.names, classes.names, strict=True))
    number, theirs, ours = next(((number, *pair) for number, pair in pairs if len(set(pair)) > 1), (0, "", ""))
    if theirs != ours and (segmenter.data or segmenter.meta.get("classes")):
        raise UserError(
            f"{config.ckpt} has the class {theirs} where the data have {ours}; "
            "choose the data it was trained on, or another checkpoint"
        )
    if theirs != ours:  # a published file tells neither its data nor its classes
        log.warning(
            "%s does not name its classes: they are taken for those of the data, in their order (%d is %s, not %s)",
            config.ckpt, number, ours, theirs,
        )  # fmt: skip
    run = RunPaths(Path(config.output_dir))
    inference = Inference(**vars(config.eval))
    return EvaluationTask(
        segmenter,
        inference,
        classes,
        pictures=run.pictures if config.save_pictures else None,
        label_ids=run.label_ids if config.save_label_ids else None,
    )


def evaluation_trainer(config: EvalConfig, data: SegmentationDataModule) -> Trainer:
    """Build the Trainer of an evaluation.

    Raises:
        UserError: If the configuration leaves nothing to evaluate.
    """
    batches = validation_batches(config.trainer, data)
    callbacks: list[Callback] = [RichProgressBar()] if config.trainer.progress_bar else []
    if config.extremes:
        callbacks.append(ExtremeImages(RunPaths(Path(config.output_dir)).extremes, config.extremes, data.classes))
    quiet_lightning()
    return Trainer(
        **trainer_arguments(config.trainer),
        **device_arguments(config.trainer),
        plugins=group_plugins(config.trainer),
        default_root_dir=config.output_dir,
        limit_test_batches=limit("val", config.trainer.limit_val_batches, batches),
        enable_model_summary=False,
        logger=False,
        callbacks=callbacks,
    )


def evaluation_results(
    config: EvalConfig, data: DataConfig, module: SegmentationDataModule, task: EvaluationTask, device: torch.device
) -> EvaluationRecord:
    """Return what an evaluation measured, with what it belongs to.

    Args:
        config: Of the evaluation.
        data: The data that it was made on.
        module: The same data, opened.
        task: What measured.
        device: Where it took place.
    """
    return replace(
        task.scores,
        ckpt=str(Path(config.ckpt or "")),
        ckpt_sha256=task.segmenter.sha256,
        runtime=task.segmenter.runtime,
        data=data_title(data),
        synthetic=data_set(data).synthetic,
        split=data.val_split,
        model=task.segmenter.network,
        seed=config.seed,
        val_images=len(module.val),
        config=asdict(config) | {"data": asdict(data)},
        fingerprint=data_fingerprint(data, training=False),
        **environment(device),
    )
