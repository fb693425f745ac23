"""From configuration to Lightning's Trainer."""

import logging
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.profilers import Profiler

from icnet.config import TrainConfig, TrainerConfig
from icnet.data.datamodule import SegmentationDataModule
from icnet.errors import UserError
from icnet.factory.callbacks import callbacks
from icnet.factory.checking import data_warnings
from icnet.factory.data import batches_per_epoch
from icnet.factory.devices import device_arguments, device_type, group_plugins, world_size
from icnet.factory.loggers import loggers
from icnet.models import network_class
from icnet.run.paths import RunPaths
from icnet.run.results import DataFingerprint
from icnet.training.checkpoint_io import AtomicCheckpointIO
from icnet.training.precision import precision_plugin
from icnet.training.profiler import OperationsProfiler


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
    warnings.filterwarnings("ignore", message=".*not supported by the model summary.*")  # the weights are float32
    warnings.filterwarnings("ignore", message=".*AccumulateGrad node's stream.*")  # trainer.compile on GPUs has its own
    for name in [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "lightning"]:
        logging.getLogger(name).handlers.clear()  # Hydra's are on the root logger; with these every line comes twice
    rank_zero = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    rank_zero.addFilter(_is_no_advertisement)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    given = record.getMessage()
    return not any(text in given for text in ("Tip:", "has Tensor Cores", "configured with model summary callbacks"))


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
