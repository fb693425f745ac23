"""From configuration to objects, for all scripts: the only package that knows both."""

from icnet.factory.checking import check_data
from icnet.factory.data import data_module, data_title, prepare_data, recorded_fingerprint
from icnet.factory.devices import prepare_device, process_count, resolve
from icnet.factory.evaluation import (
    evaluation_results,
    evaluation_task,
    evaluation_trainer,
    open_evaluated,
    resolve_evaluation,
)
from icnet.factory.exporting import graph_spec, proving_ground
from icnet.factory.findings import look_through
from icnet.factory.loss import class_weights
from icnet.factory.network import network
from icnet.factory.resuming import finished_results, resolve_resume
from icnet.factory.task import resolve_task, task
from icnet.factory.trainer import lightning_trainer
from icnet.training.callbacks.best_checkpoint import copy_best_checkpoint

__all__ = [
    "check_data",
    "class_weights",
    "copy_best_checkpoint",
    "data_module",
    "data_title",
    "evaluation_results",
    "evaluation_task",
    "evaluation_trainer",
    "finished_results",
    "graph_spec",
    "lightning_trainer",
    "look_through",
    "network",
    "open_evaluated",
    "prepare_data",
    "prepare_device",
    "process_count",
    "proving_ground",
    "recorded_fingerprint",
    "resolve",
    "resolve_evaluation",
    "resolve_resume",
    "resolve_task",
    "task",
]
