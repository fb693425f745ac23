"""Real-time semantic segmentation with ICNet on Ascend NPUs, NVIDIA GPUs and CPUs.

::

    import icnet

    model = icnet.load("best.ckpt")
    labels = model("photo.jpg")
"""

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from icnet.errors import UserError
from icnet.version import __version__

if TYPE_CHECKING:
    from icnet.deploy.api import Model, load
    from icnet.deploy.hub import PretrainedModel

__all__ = ["Model", "PretrainedModel", "UserError", "__version__", "load"]

# Where torch_npu is installed, 'import torch' would load it, and fail without CANN. icnet.npu loads it when an NPU is
# asked for, so that such a machine can still train on its CPU or GPU.
if find_spec("torch_npu") is not None:
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

# Threads that wait for the next operation spin, by default for so long that a second busy process on the same cores
# stops both (docs/performance.md, contention). GOMP_SPINCOUNT is for GNU's OpenMP, which torch brings along on Linux;
# KMP_BLOCKTIME, in milliseconds, for LLVM's and Intel's. They are read when torch is loaded: import icnet before it.
if os.environ.keys().isdisjoint({"GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY"}):
    os.environ.update(GOMP_SPINCOUNT="15000", KMP_BLOCKTIME="1")


def __getattr__(name: str) -> Any:  # so that 'import icnet' need not wait for torch
    if name in {"Model", "load"}:
        from icnet.deploy import api

        return getattr(api, name)
    if name == "PretrainedModel":
        from icnet.deploy.hub import PretrainedModel

        return PretrainedModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
