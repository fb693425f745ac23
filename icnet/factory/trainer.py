"""From configuration to Lightning's Trainer with its loggers and callbacks."""

import logging
import warnings
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import DeviceStatsMonitor, LearningRateMonitor, RichModelSummary
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.utilities.model_summary import get_human_readable_count
from rich import get_console
from rich.table import Table
from typing_extensions import override

from icnet import npu
from icnet.config import TrainConfig, TrainerConfig
from icnet.data.datamodule import SegmentationDataModule
from icnet.data.labels import ClassTable
from icnet.errors import UserError
from icnet.factory.checking import data_warnings
from icnet.factory.data import batches_per_epoch, data_set, data_title
from icnet.factory.devices import device_arguments, device_type, group_plugins, world_size
from icnet.factory.network import model_title
from icnet.models import name_in_files, network_class
from icnet.run.paths import MLRUNS, TENSORBOARD, RunPaths
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
from icnet.training.callbacks.progress_bar import ProgressBar
from icnet.training.callbacks.resumed_length import ResumedLength
from icnet.training.callbacks.speed_monitor import SpeedMonitor
from icnet.training.callbacks.stop_on_nonfinite_loss import StopOnNonFiniteLoss
from icnet.training.callbacks.stop_without_labels import StopWithoutLabels
from icnet.training.callbacks.training_results import TrainingResults
from icnet.training.callbacks.validation_pictures import ValidationPictures
from icnet.training.callbacks.validation_schedule import PublishedValidationSchedule
from icnet.training.callbacks.weight_average import ExponentialAverage
from icnet.training.checkpoint_io import AtomicCheckpointIO
from icnet.training.precision import precision_plugin
from icnet.training.profiler import OperationsProfiler

SUMMARY_DEPTH = 2  # of the table of the model: the network's parts, not their layers


class ModelTable(RichModelSummary):
    """Lightning's table of the model without operations, of which it counts none.

    Lightning (2.6) counts them where the module has an ``example_input_array``, which costs a pass at every start;
    without one it shows 0 for each part and in total.
    """

    @staticmethod
    @override
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        total_training_modes: dict[str, int],
        total_flops: int,
        **summarize_kwargs: Any,
    ) -> None:
        table = Table(header_style="bold magenta")
        shown = [(name, values) for name, values in summary_data if name != "FLOPs"]
        for name, _ in shown:
            table.add_column(name, justify="right" if name == "Params" else "left", no_wrap=name == "Name")
        for row in zip(*(values for _, values in shown), strict=True):
            table.add_row(*row)
        console = get_console()
        console.print(table)
        trained = get_human_readable_count(trainable_parameters).strip()
        console.print(
            f"parameters: {get_human_readable_count(total_parameters).strip()}, of which {trained} are trained; "
            f"{model_size:,.1f} MB"
        )


LOGGERS: dict[str, Callable[[str, str], Logger]] = {
    "csv": lambda folder, project: CSVLogger(folder, name="", version=RunPaths(Path(folder)).new_curves().name),
    "tensorboard": lambda folder, project: TensorBoardLogger(
        folder, name="", version=TENSORBOARD, default_hp_metric=False
    ),
    "wandb": lambda folder, project: WandbLogger(project=project, save_dir=folder),
    "mlflow": lambda folder, project: MLFlowLogger(experiment_name=project, save_dir=f"{folder}/{MLRUNS}"),
}
"""Key of ``logger`` to what builds it for a run folder and a project's name."""

LOGGER_EXTRAS = ("wandb", "mlflow")
"""Those that need the package of their name, an extra."""


def loggers(config: TrainConfig) -> list[Logger]:
    """Build the loggers.

    Raises:
        UserError: If one needs a package that is not installed.
    """
    wanted = [name for name in LOGGERS if getattr(config.logger, name)]
    for name in wanted:
        if name in LOGGER_EXTRAS and find_spec(name) is None:
            raise UserError(f"logger={name} needs {name}, which is not installed; run 'pip install {name}'")
    return [LOGGERS[name](config.output_dir, config.logger.project) for name in wanted]


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
        model=model_title(config.model),
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
        CostEstimate(),
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


def quiet_lightning() -> None:
    """Keep from terminal and log what Lightning and torch say that no user can do anything about."""
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # our scores are reduced by torchmetrics already
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # between Lightning and torch
    warnings.filterwarnings("ignore", message=".*dirpath has changed.*")  # copy_best_checkpoint sees to it
    warnings.filterwarnings(
        "ignore", message=r".*following callbacks: \[\"ModelCheckpoint\{'monitor': None[^\"]*\"\]"
    )  # of 0.1
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")  # optim.freeze says so
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")  # its heir is not in torch 2.11
    for name in [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "lightning"]:
        logging.getLogger(name).handlers.clear()  # Hydra's are on the root logger; with these every line comes twice
    rank_zero = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    rank_zero.addFilter(_is_no_advertisement)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()


def trainer_arguments(trainer: TrainerConfig) -> dict[str, Any]:
    """Return what training and evaluation hand to Lightning's Trainer alike."""
    return {
        "deterministic": trainer.deterministic,
        "enable_progress_bar": trainer.progress_bar,
        "use_distributed_sampler": False,  # the data module shards: in validation without counting a sample twice
        "num_sanity_val_steps": 0,
    }


def lightning_trainer(
    config: TrainConfig, data: SegmentationDataModule, fingerprint: DataFingerprint | None = None
) -> Trainer:
    """Build the Trainer of a training run.

    Args:
        config: Of the run.
        data: Its data.
        fingerprint: Of the data; see ``callbacks``.

    Raises:
        UserError: If the configuration asks for what this machine cannot do.
    """
    trainer = config.trainer
    several = world_size(trainer) > 1
    if trainer.sync_batchnorm and several and trainer.accelerator == "cpu":
        raise UserError(
            "trainer.sync_batchnorm=true needs several accelerators, and this run is on CPUs, where torch has no "
            "SyncBatchNorm; set it to false"
        )
    samples, batch_size = len(data.train or ()), trainer.batch_size * world_size(trainer)
    train_limit = limit("train", trainer.limit_train_batches, batches_per_epoch(samples, batch_size, None))
    per_epoch = batches_per_epoch(samples, batch_size, train_limit)
    log_every_n_steps = min(trainer.log_every_n_steps, max(per_epoch, 1))  # a short epoch is logged too
    fused = config.optim.name == "npu_fused_sgd"  # keeps the gradients in a buffer of its own
    if fused and trainer.accelerator != "npu":
        raise UserError("optim=npu_fused_sgd needs an NPU; choose optim=sgd, which gives the same values")
    said = data_warnings(config, data) if config.data.check else None
    quiet_lightning()
    return Trainer(
        **trainer_arguments(trainer),
        **device_arguments(trainer, bucket_view=not fused, static_graph=network_class(config.model.name).static_graph),
        default_root_dir=config.output_dir,
        max_epochs=trainer.max_epochs,
        max_steps=trainer.max_steps,
        check_val_every_n_epoch=trainer.val_every_n_epochs or 1,  # 0: PublishedValidationSchedule sets it
        log_every_n_steps=log_every_n_steps,
        accumulate_grad_batches=trainer.accumulate_grad_batches,
        gradient_clip_val=trainer.gradient_clip_val or None,
        sync_batchnorm=trainer.sync_batchnorm and several,
        limit_train_batches=train_limit,
        limit_val_batches=limit("val", trainer.limit_val_batches, validation_batches(trainer, data)),
        enable_model_summary=trainer.progress_bar,
        profiler=_profiler(config),
        logger=loggers(config),
        callbacks=callbacks(config, data.classes, log_every_n_steps, fingerprint=fingerprint, warnings_of_data=said),
        plugins=[
            *group_plugins(trainer),
            AtomicCheckpointIO(),
            precision_plugin(config.amp.opt_level, config.amp.loss_scale, device_type(trainer)),
        ],
    )


def _profiler(config: TrainConfig) -> Profiler | None:
    wanted = config.trainer.profiler and config.trainer.accelerator != "npu"  # whose own is a callback
    return OperationsProfiler(RunPaths(Path(config.output_dir))) if wanted else None


def limit(name: str, value: float | None, batches: int) -> float | int | None:
    """Return a share or a count as Lightning tells them apart: by type.

    Raises:
        UserError: If the share of so many batches is less than one of them.
    """
    if value is not None and 0 < value < 1 and int(value * batches) == 0 < batches:
        raise UserError(f"trainer.limit_{name}_batches={value} of {batches} is no batch; give a larger share, or null")
    return int(value) if value is not None and value > 1 else value


def validation_batches(trainer: TrainerConfig, data: SegmentationDataModule) -> int:
    """Return how many batches every process validates at least."""
    return -(-(len(data.val) // world_size(trainer)) // data.eval_batch_size)
