"""Where a run took place: the device, versions of packages, the revision of this checkout."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "lightning", "torchmetrics", "albumentations", "numpy", "onnx", "onnxruntime", "torch_npu")


def environment(device: torch.device) -> dict[str, Any]:
    """Describe where a run took place: ``device``, ``versions`` and ``git_revision``."""
    versions = {"python": platform.python_version()}
    for package in ("icnet", *PACKAGES):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"device": device_name(device), "versions": versions, "git_revision": git_revision()}


def device_name(device: torch.device) -> str:
    """Return the device's name as its maker gives it, for instance ``NVIDIA H200``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"CPU ({platform.processor() or platform.machine()}, {torch.get_num_threads()} threads)"
    return str(getattr(torch, device.type).get_device_name(device.index or 0))


def git_revision() -> str | None:
    """Return the commit of the checkout this package lies in, with ``+`` if it was changed since; None outside one."""
    folder = Path(__file__).parent
    try:
        revision, changes = (
            subprocess.run(  # noqa: S603 - fixed words, no input
                ["git", *words],
                cwd=folder,
                capture_output=True,
                text=True,
                check=True,
                timeout=10,  # noqa: S607
            ).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return revision + ("+" if changes else "")
