"""From configuration to objects, for all scripts: the only package that knows both."""

from icnet.factory.data import data_module, data_title, prepare_data
from icnet.factory.devices import device_indices, prepare_device, process_count, resolve
from icnet.factory.evaluation import (
    evaluation_data,
    evaluation_results,
    evaluation_task,
    evaluation_trainer,
    open_evaluated,
)
from icnet.factory.task import (
    criterion,
    network,
    optimizer_factory,
    resolve_network,
    resume_path,
    task,
    total_steps,
)
from icnet.factory.trainer import callbacks, lightning_trainer, loggers
from icnet.training.callbacks.best_checkpoint import copy_best_checkpoint

__all__ = [
    "copy_best_checkpoint",
    "callbacks",
    "criterion",
    "data_module",
    "data_title",
    "device_indices",
    "evaluation_data",
    "evaluation_results",
    "evaluation_task",
    "evaluation_trainer",
    "lightning_trainer",
    "loggers",
    "network",
    "open_evaluated",
    "optimizer_factory",
    "prepare_data",
    "prepare_device",
    "process_count",
    "resolve",
    "resolve_network",
    "resume_path",
    "task",
    "total_steps",
]
