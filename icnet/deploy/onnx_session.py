"""Opening ``.onnx`` files with ONNX Runtime."""

from pathlib import Path
from typing import Any

import torch

from icnet.errors import UserError

ONNX_SUFFIX = ".onnx"
HEADS = ("logits", "argmax")  # what a graph ends in


def open_session(source: Path | bytes) -> Any:
    """Open a model with ONNX Runtime on the CPU, with as many threads as torch uses.

    Args:
        source: An ``.onnx`` file, or its content.

    Returns:
        An ``onnxruntime.InferenceSession``.

    Raises:
        UserError: If onnxruntime is missing or refuses the model.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("running an .onnx file takes onnxruntime; run 'pip install onnxruntime'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only: its warnings are about its own optimizer
    try:
        return onnxruntime.InferenceSession(
            source if isinstance(source, bytes) else str(source), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises many kinds of its own; all mean the same to the user
        name = source if isinstance(source, Path) else "the exported graph"
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name} can't be opened by onnxruntime {onnxruntime.__version__} ({reason}); "
            "export it again with a smaller export.opset, or install a newer onnxruntime"
        ) from error


def describe_ports(path: Path) -> tuple[str, str]:
    """Return name, type and shape of a file's input and output, such as ``image uint8 (1, 3, 1024, 2048)``."""
    session = open_session(path)
    types = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int32)": "int32"}
    given, taken = (
        f"{port.name} {types.get(port.type, port.type)} ({', '.join(map(str, port.shape))})"
        for port in (*session.get_inputs(), *session.get_outputs())
    )
    return given, taken
