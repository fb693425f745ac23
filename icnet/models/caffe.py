"""Reading the author's ``.caffemodel`` files (https://github.com/hszhao/ICNet), without Caffe.

They are protocol buffers of the message ``NetParameter`` in BVLC Caffe's ``caffe.proto``, of which a few fields are
needed: each layer's name and its blobs of numbers. The author gives every network in two forms: with batch
normalisation in layers of its own (``NAME/bn`` behind ``NAME``, its blobs scale, shift, mean and variance), and merged
into the convolutions, which have a bias then.
"""

import functools
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icnet.errors import UserError

log = logging.getLogger(__name__)

CAFFE_SUFFIX = ".caffemodel"
CLASSIFIER = "conv6_cls"
AUX_CLASSIFIERS = {"conv6_sub4": 256, "conv6_sub2": 128}  # and their channels; files for evaluation alone lack them
BN = "/bn"
BN_LEAVES = ("weight", "bias", "running_mean", "running_var")
BN_EPS = 1e-5

FIELDS = {
    "BlobShape": [("dim", 1, "int64", "packed")],
    "BlobProto": [
        ("num", 1, "int32", "optional"), ("channels", 2, "int32", "optional"), ("height", 3, "int32", "optional"),
        ("width", 4, "int32", "optional"), ("data", 5, "float", "packed"), ("shape", 7, "BlobShape", "optional"),
        ("double_data", 8, "double", "packed"),
    ],
    "LayerParameter": [("name", 1, "string", "optional"), ("blobs", 7, "BlobProto", "repeated")],
    "NetParameter": [("layer", 100, "LayerParameter", "repeated")],
}  # fmt: skip
"""What is read of ``caffe.proto``: name, number and type of each field; all others are skipped."""


def read_caffemodel(path: Path) -> dict[str, Tensor]:
    """Read the tensors of an ICNet's ``.caffemodel``.

    Args:
        path: The file.

    Returns:
        Float32 tensors under the layers' names: ``NAME.weight`` and ``NAME.bias`` of convolutions, ``NAME/bn.weight``
        and so on of batch normalisations. Of a merged file, the normalisations change nothing but the bias that they
        take over. Auxiliary classifiers that are not in the file are zero.

    Raises:
        UserError: If the file is damaged, or no network's.
    """
    from google.protobuf.message import DecodeError

    net = _net_parameter()()
    try:
        net.MergeFromString(path.read_bytes())
    except DecodeError as error:
        raise UserError(
            f"{path} ({path.stat().st_size} bytes) is truncated or no .caffemodel; copy or download it again"
        ) from error
    layers = {layer.name: list(_tensors(layer, path)) for layer in net.layer if layer.blobs}
    if not layers:
        raise UserError(f"{path} has no layer with weights; give the .caffemodel of a trained network")
    named: dict[str, Tensor] = {}
    for name, blobs in layers.items():
        if name.endswith(BN):
            named |= {f"{name}.{leaf}": blob.flatten() for leaf, blob in zip(BN_LEAVES, blobs, strict=False)}
            continue
        named[f"{name}.weight"] = blobs[0]
        if len(blobs) > 1 and name not in {CLASSIFIER, *AUX_CLASSIFIERS} and name + BN not in layers:
            named |= _only_bias(name + BN, blobs[1].flatten())
        elif len(blobs) > 1:
            named[f"{name}.bias"] = blobs[1].flatten()
    if CLASSIFIER in layers and not AUX_CLASSIFIERS.keys() & layers:
        log.warning("%s has no auxiliary classifiers, which training alone uses: they start with zeros", path)
        classes = len(layers[CLASSIFIER][0])
        for name, channels in AUX_CLASSIFIERS.items():
            named |= {f"{name}.weight": torch.zeros(classes, channels, 1, 1), f"{name}.bias": torch.zeros(classes)}
    return named


def _only_bias(name: str, bias: Tensor) -> dict[str, Tensor]:
    """Return the tensors of a batch normalisation that adds a bias and nothing else."""
    one, zero = torch.ones_like(bias), torch.zeros_like(bias)
    values = (one, bias, zero, one - BN_EPS)
    return {f"{name}.{leaf}": value for leaf, value in zip(BN_LEAVES, values, strict=True)}


def _tensors(layer: Any, path: Path) -> Iterator[Tensor]:
    """Yield the blobs of a layer; those of old files have four sides, whatever they hold."""
    for blob in layer.blobs:
        numbers = np.array(blob.data or blob.double_data, dtype=np.float32)
        old = (blob.num, blob.channels, blob.height, blob.width)
        shape = tuple(blob.shape.dim) if blob.HasField("shape") else old
        if min(shape, default=1) < 0 or math.prod(shape) != numbers.size:
            raise UserError(
                f"{path} is damaged: layer {layer.name} has {numbers.size} numbers for a blob of {shape}; "
                "copy or download it again"
            )
        yield torch.from_numpy(numbers.reshape(shape))


@functools.cache
def _net_parameter() -> Any:
    """Make the class of the message ``NetParameter``."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="icnet/caffe.proto", package="icnet.caffe")
    kinds = descriptor_pb2.FieldDescriptorProto
    for message, fields in FIELDS.items():
        described = file.message_type.add(name=message)
        for name, number, kind, label in fields:
            field = described.field.add(name=name, number=number)
            field.label = kinds.LABEL_OPTIONAL if label == "optional" else kinds.LABEL_REPEATED
            if kind in FIELDS:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".icnet.caffe.{kind}"
            else:
                field.type = getattr(kinds, f"TYPE_{kind.upper()}")
            field.options.packed = label == "packed"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("icnet.caffe.NetParameter"))
