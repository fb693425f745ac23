"""From configuration to what watches a training."""

from dataclasses import asdict
from pathlib import Path

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import DeviceStatsMonitor, LearningRateMonitor

from icnet import npu
from icnet.config import TrainConfig
from icnet.data.labels import ClassTable
from icnet.factory.data import data_set, data_title
from icnet.factory.network import model_title
from icnet.models import name_in_files
from icnet.run.paths import RunPaths
from icnet.run.results import DataFingerprint, TrainingRecord
from icnet.training.callbacks.ascend_logs import AscendLogs
from icnet.training.callbacks.batchnorm import SharedBatchNormStatistics
from icnet.training.callbacks.best_checkpoint import BestCheckpoint
from icnet.training.callbacks.checkpoint_on_signal import CheckpointOnSignal
from icnet.training.callbacks.compile_network import CompileNetwork
from icnet.training.callbacks.cost_estimate import CostEstimate
from icnet.training.callbacks.early_stopping import ResumableEarlyStopping
from icnet.training.callbacks.extreme_images import ExtremeImages
from icnet.training.callbacks.last_checkpoint import LastCheckpoint
from icnet.training.callbacks.loss_scale_monitor import LossScaleMonitor
from icnet.training.callbacks.model_table import ModelTable
from icnet.training.callbacks.progress_bar import ProgressBar
from icnet.training.callbacks.resumed_length import ResumedLength
from icnet.training.callbacks.speed_monitor import SpeedMonitor
from icnet.training.callbacks.stop_on_nonfinite_loss import StopOnNonFiniteLoss
from icnet.training.callbacks.stop_without_labels import StopWithoutLabels
from icnet.training.callbacks.training_results import TrainingResults
from icnet.training.callbacks.validation_pictures import ValidationPictures
from icnet.training.callbacks.validation_schedule import PublishedValidationSchedule
from icnet.training.callbacks.weight_average import ExponentialAverage

SUMMARY_DEPTH = 2  # of the table of the model: the network's parts, not their layers


def callbacks(
    config: TrainConfig,
    classes: ClassTable,
    log_every_n_steps: int,
    *,
    fingerprint: DataFingerprint | None = None,
    warnings_of_data: list[str] | None = None,
) -> list[Callback]:
    """Build the callbacks, in the order in which they act.

    Args:
        config: Of the run.
        classes: Of its data.
        log_every_n_steps: As configured, or less where an epoch is shorter.
        fingerprint: Of its data, for the results; None in a process that writes none.
        warnings_of_data: What was said of the labels; None if nobody looked.
    """
    run = RunPaths(Path(config.output_dir))
    wanted, trainer = config.callbacks, config.trainer
    about = TrainingRecord(
        data=data_title(config.data),
        synthetic=data_set(config.data).synthetic,
        model=model_title(config.model, config.resume),
        seed=config.seed,
        palette=[list(color) for color in classes.palette],
        data_warnings=warnings_of_data,
        config=asdict(config),
        fingerprint=fingerprint,
    )
    built: list[Callback] = [
        StopOnNonFiniteLoss(run.checkpoints, log_every_n_steps),
        SharedBatchNormStatistics(),
        SpeedMonitor(wanted.throughput_warmup_steps, exact=wanted.throughput_exact),
        CostEstimate(*_what_helps(config)),
        ResumedLength(),
        LearningRateMonitor(),
        LossScaleMonitor(),
        TrainingResults(run.folder, about),
    ]
    if trainer.compile:
        built.append(CompileNetwork(trainer.batch_size, config.data.crop_size))
    if wanted.result_files:
        given = (wanted.result_files, trainer.batch_size, log_every_n_steps)
        built.append(AscendLogs(run.folder, name_in_files(config.model.name), *given))
    if not trainer.val_every_n_epochs:
        built.append(PublishedValidationSchedule())
    if wanted.pictures:
        built.append(ValidationPictures(run.pictures, wanted.pictures, classes))
    if wanted.extremes:
        built.append(ExtremeImages(run.extremes, wanted.extremes, classes))
    if wanted.device_stats:
        built.append(DeviceStatsMonitor())
    if wanted.ema_decay:
        built.append(ExponentialAverage(wanted.ema_decay))
    if wanted.early_stop_patience:
        built.append(ResumableEarlyStopping("val/miou", mode="max", patience=wanted.early_stop_patience))
    if trainer.profiler and trainer.accelerator == "npu":
        built.append(npu.StepProfiler(run.profile))
    if trainer.progress_bar:
        built += [ProgressBar(log_every_n_steps), ModelTable(max_depth=SUMMARY_DEPTH)]
    best = BestCheckpoint(
        run.checkpoints,
        run.best.stem,
        monitor="val/miou",
        mode="max",
        auto_insert_metric_name=False,
        enable_version_counter=False,
    )
    last = LastCheckpoint(run.last, wanted.checkpoint_every_n_steps)
    return [*built, CheckpointOnSignal(run.last), best, last, StopWithoutLabels()]


def _what_helps(config: TrainConfig) -> tuple[str, str]:
    """Return the keys that make loading and steps faster and are not set yet, in words."""
    data, trainer = config.data, config.trainer
    accelerated = trainer.accelerator != "cpu"
    loading = {
        "data.cache=packed": data.cache == "off",
        f"more data.workers ({data.workers} now)": True,
        "data.augment_on=device": accelerated and data.augment_on == "host",
    }
    stepping = {
        f"amp={'o1' if trainer.accelerator == 'npu' else 'bf16'}": accelerated and config.amp.opt_level == "O0",
        "trainer.compile=true": accelerated and not trainer.compile,
        "a smaller data.crop_size": True,
    }
    words = (", ".join(key for key, helps in keys.items() if helps) for keys in (loading, stepping))
    return next(words), next(words)
