"""Real-time semantic segmentation with ICNet on Ascend NPUs, NVIDIA GPUs and CPUs."""

__version__ = "0.1.0"
