"""From configuration to objects, for all scripts."""

import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    DeviceStatsMonitor,
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
    RichModelSummary,
    RichProgressBar,
)
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import OmegaConf

from icnet import __version__
from icnet.callbacks.batchnorm import SharedBatchNormStatistics
from icnet.callbacks.interruption import NonFiniteLoss, SaveOnRequestToStop
from icnet.callbacks.pictures import ValidationPictures
from icnet.callbacks.results import TrainingResults
from icnet.callbacks.throughput import Throughput
from icnet.checkpoint_io import AtomicCheckpointIO
from icnet.config import (
    DataConfig,
    EvalConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    SchedulerConfig,
    TrainConfig,
    TrainerConfig,
)
from icnet.data import camvid, cityscapes, folder, street
from icnet.data.datamodule import SegmentationDataModule
from icnet.data.dataset import SamplePaths, SegmentationDataset
from icnet.data.labels import (
    CAMVID_CLASSES,
    CITYSCAPES_CLASSES,
    IGNORE_INDEX,
    ClassTable,
)
from icnet.data.transforms import train_transform
from icnet.deploy.inference import Inference
from icnet.deploy.segmenter import ONNX_SUFFIX, OnnxSegmenter, Segmenter, open_segmenter
from icnet.errors import UserError
from icnet.evaluation import EvaluationTask
from icnet.losses import CascadeLoss
from icnet.models.checkpoints import Checkpoint, load_for_finetuning, load_weights, read_backbone, read_checkpoint, sha256
from icnet.models.icnet import ICNet
from icnet.optim import adamw, parameter_groups, poly, sgd, warmup_cosine
from icnet.task import SegmentationTask

log = logging.getLogger(__name__)

SUMMARY_DEPTH = 2


# ---------------------------------------------------------------- data


def data_title(data: DataConfig) -> str:
    """Return how tables and logs call the data set; synthetic data is always marked."""
    return street.NAME if data.name == "street" else data.name


def prepare_data(data: DataConfig) -> None:
    """Draw the street scenes if they are asked for; call it once, before any process of a group looks for them."""
    if data.name == "street":
        scenes = {"train": data.street.train, "val": data.street.val}
        street.generate(_street_root(data), scenes, data.street.height, data.street.width, data.street.seed)


def _street_root(data: DataConfig) -> Path:
    if not data.root:
        raise UserError("data.root is empty; give the folder where the street scenes are, or are to be, drawn")
    return Path(data.root)


def _classes_and_table(data: DataConfig) -> tuple[ClassTable, np.ndarray]:
    if data.name == "camvid":
        return CAMVID_CLASSES, camvid.LABEL_TABLE
    if data.name == "folder":
        return folder.load_classes(data.root, data.classes)
    kind = "labelIds" if data.name == "street" else data.label_kind
    return CITYSCAPES_CLASSES, cityscapes.LABEL_TABLES[kind]


def _samples(data: DataConfig, split: str) -> list[SamplePaths]:
    if data.name == "camvid":
        return camvid.list_samples(data.root, split)
    if data.name == "folder":
        return folder.list_samples(data.root, split)
    if data.name == "street":
        return cityscapes.list_samples(_street_root(data), split)
    return cityscapes.list_samples(cityscapes.resolve_root(data.root), split, data.label_kind)


def data_module(data: DataConfig, seed: int, *, train: bool = True) -> SegmentationDataModule:
    """Build the data module.

    Args:
        data: Which data and how.
        seed: Of order and augmentation.
        train: Whether the training split is needed.

    Raises:
        UserError: If the data set is not where it should be, or not as it should be.
    """
    classes, table = _classes_and_table(data)

    def dataset(split: str, transform: Callable[..., dict[str, Any]] | None) -> SegmentationDataset:
        title = f"{data_title(data)}, {split}"
        return SegmentationDataset(_samples(data, split), classes, table, transform, seed=seed, title=title)

    height, width = data.crop_size
    smallest, largest = data.scale_range
    augmentation = train_transform((height, width), (smallest, largest), data.flip, data.blur, data.color_jitter)
    return SegmentationDataModule(
        dataset(data.train_split, augmentation) if train else None,
        dataset(data.val_split, None),
        batch_size=data.batch_size,
        eval_batch_size=data.eval_batch_size,
        workers=data.workers,
        pin_memory=data.pin_memory,
        persistent_workers=data.persistent_workers,
        prefetch_factor=data.prefetch_factor,
        seed=seed,
    )


# ---------------------------------------------------------------- network, loss, optimizer


def network(model: ModelConfig, num_classes: int) -> ICNet:
    """Build the network with the weights that are asked for.

    Raises:
        UserError: If weights are missing, broken or of another architecture.
    """
    net = ICNet(num_classes, model.backbone).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if model.backbone_weights:
        load_weights(net.backbone, read_backbone(model.backbone_weights), model.backbone_weights)
        log.info("backbone weights from %s", model.backbone_weights)
    if model.weights:
        checkpoint = read_checkpoint(Path(model.weights))
        _check_backbone(checkpoint, model)
        fresh = load_for_finetuning(net, checkpoint)
        if fresh:
            log.warning(
                "%s has %d classes and this run %d: everything was loaded but the classifiers (%s), which start anew",
                model.weights, checkpoint.num_classes, num_classes, ", ".join(fresh),
            )  # fmt: skip
        else:
            log.info("weights from %s", model.weights)
    return net


def _check_backbone(checkpoint: Checkpoint, model: ModelConfig) -> None:
    if checkpoint.backbone != model.backbone:
        raise UserError(
            f"{checkpoint.path} was made with {checkpoint.backbone} and this run uses {model.backbone}; "
            f"choose model=icnet_{checkpoint.backbone} or another checkpoint"
        )


def criterion(loss: LossConfig, num_classes: int) -> CascadeLoss:
    """Build the loss.

    Raises:
        UserError: If there are class weights, but not one per class.
    """
    if loss.class_weights is not None and len(loss.class_weights) != num_classes:
        raise UserError(
            f"loss.class_weights has {len(loss.class_weights)} numbers and the data {num_classes} classes; "
            "give one per class, or null"
        )
    weights = {"sub124": loss.sub124_weight, "sub24": loss.sub24_weight, "sub4": loss.sub4_weight}
    return CascadeLoss(
        weights,
        ignore_index=IGNORE_INDEX,
        resize=loss.resize,
        class_weights=loss.class_weights,
        ohem_threshold=loss.ohem_threshold,
        ohem_min_kept=loss.ohem_min_kept,
    )


def optimizer_factory(optim: OptimConfig, scheduler: SchedulerConfig) -> Callable[[SegmentationTask], Any]:
    """Return what builds the optimizer and its schedule once the length of the run is known."""

    def configure(task: SegmentationTask) -> dict[str, Any]:
        groups = parameter_groups(
            task.net.backbone_parameters(), task.net.head_parameters(), optim.lr, optim.head_lr_mult
        )
        if optim.name == "adamw":
            first, second = optim.betas
            optimizer = adamw(groups, (first, second), optim.weight_decay)
        else:
            optimizer = sgd(groups, optim.momentum, optim.weight_decay, nesterov=optim.nesterov)
        if scheduler.name == "cosine":
            epochs = task.trainer.max_epochs or 1
            schedule = {"scheduler": warmup_cosine(optimizer, epochs, scheduler.warmup_epochs), "interval": "epoch"}
        elif scheduler.name == "poly":
            schedule = {"scheduler": poly(optimizer, total_steps(task.trainer), scheduler.power), "interval": "step"}
        else:
            return {"optimizer": optimizer}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    return configure


def total_steps(trainer: Trainer) -> int:
    """Return the number of optimizer steps of the whole run.

    Lightning's ``estimated_stepping_batches`` says the same, but starts the loader to find out, and before a resumed
    run knows where in the epoch it stands.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]
    batches = len(data.train) // (data.batch_size * trainer.world_size)
    limit = trainer.limit_train_batches
    if limit is not None:
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    steps = -(-batches // trainer.accumulate_grad_batches) * (trainer.max_epochs or 1)
    return steps if trainer.max_steps < 0 else min(steps, trainer.max_steps)


def task(config: TrainConfig, classes: ClassTable) -> SegmentationTask:
    """Build the LightningModule with everything in it."""
    net = network(config.model, len(classes))
    meta = {
        "version": __version__,
        "model": {"name": config.model.name, "backbone": config.model.backbone, "num_classes": len(classes)},
        "classes": {
            "names": list(classes.names),
            "palette": [list(color) for color in classes.palette],
            "categories": list(classes.categories),
        },
        "data": asdict(config.data),
    }
    return SegmentationTask(
        net, criterion(config.loss, len(classes)), classes, optimizer_factory(config.optim, config.scheduler), meta
    )


def resume_path(resume: str | None, output_dir: Path, model: ModelConfig, num_classes: int) -> Path | None:
    """Find and check the checkpoint to go on from.

    Args:
        resume: A path; ``auto`` for the newest ``last.ckpt`` of this run folder or else below outputs/; or None.
        output_dir: This run's folder.
        model: What this run trains.
        num_classes: Of this run's data.

    Raises:
        UserError: If the file is missing, broken, or of another network than this run's.
    """
    if resume is None:
        return None
    if resume == "auto":
        own = output_dir / "checkpoints" / "last.ckpt"
        found = [own] if own.exists() else sorted(
            Path("outputs").glob("**/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime
        )  # fmt: skip
        if not found:
            log.info("resume=auto: no checkpoints/last.ckpt in %s or below outputs/, so the run starts anew", output_dir)
            return None
        path = found[-1]
    else:
        path = Path(resume)
    checkpoint = read_checkpoint(path)
    if checkpoint.kind != "icnet":
        raise UserError(f"resume={path} holds weights but no state of a run; use model.weights={path} to start from them")
    _check_backbone(checkpoint, model)
    if checkpoint.num_classes != num_classes:
        raise UserError(
            f"resume={path} has {checkpoint.num_classes} classes and the data {num_classes}; "
            f"use model.weights={path} to start a new run from its weights"
        )
    log.info("going on from %s", path)
    return path


# ---------------------------------------------------------------- trainer


def process_count(trainer: TrainerConfig) -> int:
    """Return how many processes on this machine a run takes: one per device."""
    return len(trainer.devices) if isinstance(trainer.devices, (list, tuple)) else int(trainer.devices)


def loggers(config: TrainConfig) -> list[Logger]:
    """Build the loggers.

    Raises:
        UserError: If one needs a package that is not installed.
    """
    folder_ = config.output_dir
    wanted = config.logger
    for name, package in (("wandb", "wandb"), ("mlflow", "mlflow")):
        if getattr(wanted, name) and find_spec(package) is None:
            raise UserError(f"logger={name} needs the package {package}, which is not installed; run 'pip install {package}'")
    built: list[Logger] = []
    if wanted.csv:
        built.append(CSVLogger(folder_, name="", version="csv"))
    if wanted.tensorboard:
        built.append(TensorBoardLogger(folder_, name="", version="tensorboard", default_hp_metric=False))
    if wanted.wandb:
        built.append(WandbLogger(project=wanted.project, save_dir=folder_))
    if wanted.mlflow:
        built.append(MLFlowLogger(experiment_name=wanted.project, save_dir=f"{folder_}/mlruns"))
    return built


def callbacks(config: TrainConfig, classes: ClassTable) -> list[Callback]:
    """Build the callbacks, in the order in which they act."""
    run = Path(config.output_dir)
    checkpoints = run / "checkpoints"
    wanted, trainer = config.callbacks, config.trainer
    about = {
        "data": data_title(config.data),
        "model": f"{config.model.name}_{config.model.backbone}",
        "seed": config.seed,
        "config": asdict(config),
    }
    built: list[Callback] = [
        NonFiniteLoss(checkpoints, trainer.log_every_n_steps),
        SharedBatchNormStatistics(),
        Throughput(wanted.throughput_warmup_steps),
        LearningRateMonitor(),
        TrainingResults(run / "results.json", about),
    ]
    if wanted.pictures:
        built.append(ValidationPictures(run / "pictures", wanted.pictures, classes))
    if wanted.device_stats:
        built.append(DeviceStatsMonitor())
    if wanted.ema_decay:
        built.append(EMAWeightAveraging(decay=wanted.ema_decay))
    if wanted.early_stop_patience:
        built.append(EarlyStopping("val/miou", mode="max", patience=wanted.early_stop_patience))
    if trainer.progress_bar:
        built += [RichProgressBar(), RichModelSummary(max_depth=SUMMARY_DEPTH)]
    keep = {"dirpath": checkpoints, "auto_insert_metric_name": False, "enable_version_counter": False}
    return [
        *built,
        SaveOnRequestToStop(checkpoints),
        ModelCheckpoint(filename="best", monitor="val/miou", mode="max", **keep),
        ModelCheckpoint(
            filename="last",
            every_n_train_steps=wanted.checkpoint_every_n_steps or None,
            every_n_epochs=None if wanted.checkpoint_every_n_steps else 1,
            save_on_train_epoch_end=True,
            **keep,
        ),
    ]


def trainer_arguments(trainer: TrainerConfig) -> dict[str, Any]:
    """Return what training and evaluation hand to Lightning's Trainer alike."""
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # our scores are reduced by torchmetrics already
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # between Lightning and torch
    for name in [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "lightning"]:
        logging.getLogger(name).handlers.clear()  # Hydra's are on the root logger; with these every line comes twice
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "Tip:" not in record.getMessage())
    several = process_count(trainer) > 1
    return {
        "accelerator": trainer.accelerator,
        "devices": trainer.devices,
        # Statistics of BatchNorm are shared by a callback instead: DDP would broadcast them in every forward, in
        # validation too, where ranks may have different numbers of batches and would wait for each other for ever.
        "strategy": DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True) if several else "auto",
        "precision": trainer.precision,
        "deterministic": trainer.deterministic,
        "enable_progress_bar": trainer.progress_bar,
        "use_distributed_sampler": False,  # the data module shards: in validation without counting a sample twice
        "num_sanity_val_steps": 0,
    }


def lightning_trainer(config: TrainConfig, data: SegmentationDataModule) -> Trainer:
    """Build the Trainer of a training run."""
    trainer = config.trainer
    batches = len(data.train) // (trainer.batch_size * process_count(trainer)) if data.train else 0
    trainer.log_every_n_steps = min(trainer.log_every_n_steps, max(batches, 1))  # a short epoch is logged too
    return Trainer(
        **trainer_arguments(trainer),
        default_root_dir=config.output_dir,
        max_epochs=trainer.max_epochs,
        max_steps=trainer.max_steps,
        check_val_every_n_epoch=trainer.val_every_n_epochs,
        log_every_n_steps=trainer.log_every_n_steps,
        accumulate_grad_batches=trainer.accumulate_grad_batches,
        gradient_clip_val=trainer.gradient_clip_val or None,
        sync_batchnorm=trainer.sync_batchnorm and process_count(trainer) > 1,
        limit_train_batches=_limit(trainer.limit_train_batches),
        limit_val_batches=_limit(trainer.limit_val_batches),
        enable_model_summary=trainer.progress_bar,
        logger=loggers(config),
        callbacks=callbacks(config, data.classes),
        plugins=[AtomicCheckpointIO()],
    )


def _limit(value: float | None) -> float | int | None:
    return int(value) if value is not None and value > 1 else value


def prepare_device(trainer: TrainerConfig) -> None:
    """Choose fast settings for the machine."""
    if torch.cuda.is_available() and not trainer.deterministic:
        torch.backends.cudnn.benchmark = True  # shapes are fixed in training
        torch.set_float32_matmul_precision("high")


# ---------------------------------------------------------------- evaluation


def evaluation_data(config: EvalConfig) -> DataConfig:
    """Return the data to evaluate on: the checkpoint's own unless another set was chosen, with the keys given.

    Raises:
        UserError: If the checkpoint cannot be read.
    """
    given = {key: value for key, value in dict(config.data).items() if value is not None}
    if "name" not in given:
        own = _data_of(Path(config.ckpt or "")) or {"name": "cityscapes"}  # what published .pth files were trained on
        given = {**own, **{"eval_batch_size": 1}, **given}
    schema = OmegaConf.structured(DataConfig)
    data: DataConfig = OmegaConf.to_object(OmegaConf.merge(schema, given))  # type: ignore[assignment]
    return data


def _data_of(path: Path) -> dict[str, Any]:
    if path.suffix == ONNX_SUFFIX:
        return json.loads(OnnxSegmenter(path).meta.get("data", "{}"))
    return read_checkpoint(path).meta.get("data", {})


def evaluation_task(config: EvalConfig, classes: ClassTable, run: Path) -> EvaluationTask:
    """Build what runs the segmenter over the images and counts.

    Raises:
        UserError: If the segmenter's classes are not the data's.
    """
    path = Path(config.ckpt or "")
    segmenter = open_segmenter(path, torch.device("cpu"))  # Lightning moves it to its device
    if len(segmenter.classes) != len(classes):
        raise UserError(
            f"{path} knows {len(segmenter.classes)} classes and the data {len(classes)}; "
            "choose the data it was trained on, or another checkpoint"
        )
    inference = Inference(config.eval.scales, config.eval.flip, config.eval.sliding_window)
    return EvaluationTask(
        segmenter,
        inference,
        classes,
        pictures=run / "pictures" if config.save_pictures else None,
        label_ids=run / "label_ids" if config.save_label_ids else None,
    )


def evaluation_trainer(config: EvalConfig) -> Trainer:
    """Build the Trainer of an evaluation."""
    progress: list[Callback] = [RichProgressBar()] if config.trainer.progress_bar else []
    return Trainer(
        **trainer_arguments(config.trainer),
        default_root_dir=config.output_dir,
        limit_test_batches=_limit(config.trainer.limit_val_batches),
        enable_model_summary=False,
        logger=False,
        callbacks=progress,
    )


def evaluation_about(config: EvalConfig, data: DataConfig, segmenter: Segmenter) -> dict[str, Any]:
    """Return what the results of an evaluation belong to."""
    path = Path(config.ckpt or "")
    model = segmenter.meta.get("model", {})
    return {
        "ckpt": str(path),
        "ckpt_sha256": sha256(path),
        "runtime": segmenter.runtime,
        "data": data_title(data),
        "split": data.val_split,
        "model": f"{model.get('name', 'icnet')}_{model.get('backbone', 'unknown')}",
        "seed": config.seed,
        "config": asdict(config) | {"data": asdict(data)},
    }
