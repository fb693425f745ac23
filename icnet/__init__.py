"""Real-time semantic segmentation with ICNet on Ascend NPUs, NVIDIA GPUs and CPUs."""

import os
from importlib.util import find_spec

__version__ = "0.1.0"

# Where torch_npu is installed, 'import torch' would load it, and fail without CANN. icnet.npu loads it when an NPU is
# asked for, so that such a machine can still train on its CPU or GPU.
if find_spec("torch_npu") is not None:
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
