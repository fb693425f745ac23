"""Real-time semantic segmentation with ICNet on Ascend NPUs, NVIDIA GPUs and CPUs."""

import os
from importlib.util import find_spec

__version__ = "0.1.0"

# Where torch_npu is installed, 'import torch' would load it, and fail without CANN. icnet.npu loads it when an NPU is
# asked for, so that such a machine can still train on its CPU or GPU.
if find_spec("torch_npu") is not None:
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

# Threads that wait for the next operation spin, by default for so long that a second busy process on the same cores
# stops both (benchmarks/README.md, contention). GOMP_SPINCOUNT is for GNU's OpenMP, which torch brings along on Linux;
# KMP_BLOCKTIME, in milliseconds, for LLVM's and Intel's. They are read when torch is loaded: import icnet before it.
if os.environ.keys().isdisjoint({"GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY"}):
    os.environ.update(GOMP_SPINCOUNT="10000", KMP_BLOCKTIME="1")
