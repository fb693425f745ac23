"""Opening ``.onnx`` files with ONNX Runtime, and what it computes with."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from icnet.errors import UserError

ONNX_SUFFIX = ".onnx"


@dataclass(frozen=True)
class Provider:
    """One of ONNX Runtime's execution providers.

    Args:
        name: As ONNX Runtime calls it.
        package: The package of PyPI that brings it; of all that are named ``onnxruntime...`` only one can be installed.
        device_type: The kind of torch device that it computes on.
        options: What it is given besides ``device_id``, which those of other devices than the CPU get.
        before: Providers that take what it does not, in this order, before the CPU does.
    """

    name: str
    package: str
    device_type: str
    options: dict[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()


PROVIDERS = {
    "cpu": Provider("CPUExecutionProvider", "onnxruntime", "cpu"),
    "cuda": Provider("CUDAExecutionProvider", "onnxruntime-gpu", "cuda"),
    "tensorrt": Provider("TensorrtExecutionProvider", "onnxruntime-gpu", "cuda", before=("cuda",)),
    "openvino": Provider("OpenVINOExecutionProvider", "onnxruntime-openvino", "cpu", {"device_type": "CPU"}),
    "cann": Provider("CANNExecutionProvider", "onnxruntime-cann", "npu"),
}
"""What computes, by the name that a user gives. Names and options are those of onnxruntime.ai/docs/execution-providers,
and stand in the libraries of the wheels (onnxruntime-gpu 1.31.1, -openvino 1.24.1, -cann 1.24.4)."""

AUTO = "auto"
"""The provider that is made for the device, if the installed onnxruntime has it and it works; else the CPU's."""


@dataclass(frozen=True)
class Place:
    """Where a session computes.

    Args:
        provider: A key of ``PROVIDERS``.
        index: Which of the provider's devices.
    """

    provider: str
    index: int = 0

    @property
    def runtime(self) -> str:
        """How reports call it: ``onnxruntime`` on the CPU, or such as ``onnxruntime (cuda:1)``."""
        kind = PROVIDERS[self.provider]
        device = "" if kind.device_type == "cpu" else f":{self.index}"
        return "onnxruntime" if self.provider == "cpu" else f"onnxruntime ({self.provider}{device})"


CPU = Place("cpu")


def choose_place(provider: str, device: torch.device) -> Place:
    """Choose where to compute.

    Args:
        provider: A key of ``PROVIDERS``, or ``AUTO``.
        device: Where the images are.

    Raises:
        UserError: If the provider is unknown, or onnxruntime is missing.
    """
    if provider == AUTO:
        made_for = {"cuda": "cuda", "npu": "cann"}.get(device.type, "cpu")
        provider = made_for if PROVIDERS[made_for].name in import_onnxruntime().get_available_providers() else "cpu"
    if provider not in PROVIDERS:
        raise UserError(f"provider={provider} is unknown; choose one of {', '.join((AUTO, *PROVIDERS))}")
    return Place(provider, (device.index or 0) if device.type == PROVIDERS[provider].device_type else 0)


def import_onnxruntime() -> Any:
    """Return the package ``onnxruntime``.

    Raises:
        UserError: If it is missing, or does not load.
    """
    try:
        import onnxruntime
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime"
        reason = "" if missing else f" that loads ({' '.join(str(error).split())[:200]})"
        raise UserError(f"running an .onnx file takes onnxruntime{reason}; run 'pip install onnxruntime'") from error
    return onnxruntime


def open_session(source: Path | bytes, place: Place = CPU) -> Any:
    """Open a model with ONNX Runtime, on the CPU with as many threads as torch uses.

    Args:
        source: An ``.onnx`` file, or its content.
        place: Where it computes.

    Returns:
        An ``onnxruntime.InferenceSession`` that computes there and falls back to nothing else.

    Raises:
        UserError: If onnxruntime is missing or refuses the model, or the provider is missing or does not start.
    """
    onnxruntime = import_onnxruntime()
    kind = PROVIDERS[place.provider]
    if kind.name not in onnxruntime.get_available_providers():
        here = [key for key, known in PROVIDERS.items() if known.name in onnxruntime.get_available_providers()]
        raise UserError(
            f"provider={place.provider} is not in the installed onnxruntime {onnxruntime.__version__}, which has "
            f"{', '.join(here)}; run 'pip uninstall onnxruntime', then 'pip install {kind.package}'"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only: its warnings are about its own optimizer
    chosen = [_with_options(PROVIDERS[key], place) for key in dict.fromkeys((place.provider, *kind.before, "cpu"))]
    try:
        # Without enable_fallback=0 a provider that fails is replaced by the CPU's, with no more than a printed remark.
        session = onnxruntime.InferenceSession(
            source if isinstance(source, bytes) else str(source), options, providers=chosen, enable_fallback=0
        )
    except Exception as error:  # onnxruntime raises many kinds of its own; all mean the same to the user
        reason = " ".join(str(error).split())
        if place.provider != "cpu":
            raise _does_not_start(place, onnxruntime, reason[-200:]) from error  # it begins with places in its source
        name = source if isinstance(source, Path) else "the exported graph"
        raise UserError(
            f"{name} can't be opened by onnxruntime {onnxruntime.__version__} ({reason[:200]}); "
            "export it again with a smaller export.opset, or install a newer onnxruntime"
        ) from error
    if session.get_providers()[0] != kind.name:  # where its libraries are missing it is left out (seen in 1.31)
        raise _does_not_start(place, onnxruntime, f"only {', '.join(session.get_providers())} did")
    return session


def _with_options(kind: Provider, place: Place) -> tuple[str, dict[str, str]]:
    return kind.name, kind.options | ({} if kind.device_type == "cpu" else {"device_id": str(place.index)})


def _does_not_start(place: Place, onnxruntime: Any, reason: str) -> UserError:
    return UserError(
        f"provider={place.provider} does not start in {PROVIDERS[place.provider].package} {onnxruntime.__version__} "
        f"({reason}); install the driver and the libraries that its documentation names, or choose provider=cpu"
    )
