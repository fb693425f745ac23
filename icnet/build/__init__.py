"""From configuration to objects, for all scripts: the only package that knows both."""

from icnet.build.data import data_module, data_title, prepare_data
from icnet.build.devices import device_indices, prepare_device, process_count
from icnet.build.evaluation import check_output, evaluation_about, evaluation_data, evaluation_task, evaluation_trainer
from icnet.build.task import (
    criterion,
    finished_results,
    network,
    optimizer_factory,
    resume_path,
    set_finished_aside,
    task,
    total_steps,
)
from icnet.build.trainer import callbacks, lightning_trainer, loggers
from icnet.callbacks.best import bring_best_along

__all__ = [
    "bring_best_along",
    "callbacks",
    "check_output",
    "criterion",
    "data_module",
    "data_title",
    "device_indices",
    "evaluation_about",
    "evaluation_data",
    "evaluation_task",
    "evaluation_trainer",
    "finished_results",
    "lightning_trainer",
    "loggers",
    "network",
    "optimizer_factory",
    "prepare_data",
    "prepare_device",
    "process_count",
    "resume_path",
    "set_finished_aside",
    "task",
    "total_steps",
]
