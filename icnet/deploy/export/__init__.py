"""Exporting a checkpoint: the forms are ``TARGETS``, each in a file of its own."""

from icnet.deploy.export.guard import Labelled, ProvingGround
from icnet.deploy.export.run import TARGETS, GraphSpec, Target, default_file, describe, export_onnx, export_verified

__all__ = [
    "TARGETS",
    "GraphSpec",
    "Labelled",
    "ProvingGround",
    "Target",
    "default_file",
    "describe",
    "export_onnx",
    "export_verified",
]
