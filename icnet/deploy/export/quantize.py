"""int8 by NNCF: an ONNX graph with QuantizeLinear and DequantizeLinear, which ONNX Runtime, TensorRT and OpenVINO read.

Weights are symmetric with a scale for each channel, activations have one for each tensor. Weights use half of their
range, so that two products fit into the 16 bits in which CPUs without VNNI add them. What activations are is a matter
of the runtime: ONNX Runtime fuses a layer with its neighbours only where all are uint8, with zero points; TensorRT
takes int8 without zero points alone.
"""

import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from icnet.deploy.export.onnx_graph import import_onnx
from icnet.deploy.runtimes.openvino_segmenter import block_telemetry
from icnet.errors import UserError

WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
QUANTIZING = {"QuantizeLinear", "DequantizeLinear"}
MOST_IN_FLOAT = 10
"""How many groups of layers may stay in float32 at most: with more, int8 is not worth its name."""
RANKED_IMAGES = 16
"""On how many validation images, those that lost most labels, groups of layers are ranked."""

Prepare = Callable[[Path], np.ndarray]
Validate = Callable[[Any, list[int]], tuple[float, list[float]]]


def import_nncf() -> Any:
    """Return the package ``nncf``, quiet but for its progress bars.

    Raises:
        UserError: If it is missing.
    """
    block_telemetry()
    try:
        import nncf
    except ImportError as error:
        raise UserError("export.precision=int8 takes nncf; run 'pip install nncf'") from error
    logging.getLogger("nncf").setLevel(logging.ERROR)  # set_log_level would quieten all handlers that it shares
    return nncf


def quantize(model: Any, images: Sequence[Path], prepare: Prepare, *, symmetric: bool = False) -> Any:
    """Return a graph in int8.

    Args:
        model: The graph (``onnx.ModelProto``) in float32, opset 13 or newer; it stays as it is.
        images: What to calibrate on, every one of them.
        prepare: Reads one as the graph takes it: (N, 3, H, W) float32 or uint8.
        symmetric: Activations in int8 without zero points; otherwise in uint8 with zero points.

    Returns:
        ``onnx.ModelProto``.

    Raises:
        UserError: If nncf is missing, or an image cannot be read.
    """
    nncf, options = import_nncf(), _options(symmetric)
    made = nncf.quantize(deepcopy(model), _dataset(model, images, prepare), subset_size=len(images), **options)
    return _with_one_type(made, symmetric)


def quantize_within(
    model: Any, images: Sequence[Path], prepare: Prepare, validation: int, validate: Validate, max_drop: float,
    *, symmetric: bool = False,
) -> Any:  # fmt: skip
    """Return a graph in int8, with those layers in float32 that an accuracy takes.

    NNCF ranks groups of layers by the accuracy that each gives back when it alone stays in float32, and takes the
    costliest out of int8, one after the other, at most ``MOST_IN_FLOAT``.

    Args:
        model: As for ``quantize``.
        images: As for ``quantize``.
        prepare: As for ``quantize``.
        validation: How many validation images there are.
        validate: Takes a graph and positions of validation images; returns the accuracy on them, 0-1, and for each of
            them how well it fares, 0-1.
        max_drop: By how much the accuracy on all of them may fall, 0-1.
        symmetric: As for ``quantize``.

    Returns:
        ``onnx.ModelProto``; whether its accuracy holds is for the caller to see.

    Raises:
        UserError: As ``quantize``.
    """
    nncf = import_nncf()
    from nncf.quantization.advanced_parameters import AdvancedAccuracyRestorerParameters

    options = _options(symmetric)
    made = nncf.quantize_with_accuracy_control(
        deepcopy(model),
        _dataset(model, images, prepare),
        nncf.Dataset(range(validation)),
        lambda graph, positions: validate(graph, list(positions)),
        max_drop=max_drop,
        subset_size=len(images),
        advanced_quantization_parameters=options.pop("advanced_parameters"),
        advanced_accuracy_restorer_parameters=AdvancedAccuracyRestorerParameters(
            max_num_iterations=MOST_IN_FLOAT,
            ranking_subset_size=min(RANKED_IMAGES, validation),
            num_ranking_workers=1,  # others would rank in an order of their own
        ),
        **options,
    )
    return _with_one_type(made, symmetric)


def _dataset(model: Any, images: Sequence[Path], prepare: Prepare) -> Any:
    name = model.graph.input[0].name
    return import_nncf().Dataset(images, lambda image: {name: prepare(image)})


def _options(symmetric: bool) -> dict[str, Any]:
    nncf = import_nncf()
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        OverflowFix,
        QuantizationParameters,
    )

    return {
        "preset": nncf.QuantizationPreset.PERFORMANCE if symmetric else nncf.QuantizationPreset.MIXED,
        "advanced_parameters": AdvancedQuantizationParameters(
            overflow_fix=OverflowFix.ENABLE,
            activations_quantization_params=QuantizationParameters(per_channel=False),  # before depthwise layers too
        ),
    }


def _with_one_type(model: Any, symmetric: bool) -> Any:
    """Give all activations one type, in place: NNCF's are uint8 where they are never negative, and int8 elsewhere.

    int8 with a zero point is the same grid as uint8 with that and 128. uint8 without one becomes int8 of twice the
    step: half of its range stands for negative numbers that never occur.
    """
    onnx = import_onnx()
    constants = {constant.name: constant for constant in model.graph.initializer}
    changed = set()
    for node in model.graph.node:
        if node.op_type in QUANTIZING and node.input[0] not in constants and node.input[2] not in changed:
            scale, zero = (constants[name] for name in node.input[1:])
            step, offset = onnx.numpy_helper.to_array(scale), onnx.numpy_helper.to_array(zero)
            if symmetric and offset.dtype == np.uint8:
                step, offset = step * np.float32(255 / 127), offset.astype(np.int8)
            elif not symmetric and offset.dtype == np.int8:
                offset = (offset.astype(np.int16) + 128).astype(np.uint8)
            scale.CopyFrom(onnx.numpy_helper.from_array(np.asarray(step, np.float32), scale.name))
            zero.CopyFrom(onnx.numpy_helper.from_array(np.asarray(offset), zero.name))
            changed.add(zero.name)
    del model.graph.value_info[:]  # which tells the former types; made anew when the graph is written
    return model


def layers_in_float(model: Any) -> list[str]:
    """Return the names of the layers that a graph computes in float32, of those that int8 makes faster."""
    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in WEIGHTED and "DequantizeLinear" not in {made_by.get(name) for name in node.input}
    ]
