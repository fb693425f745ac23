"""Bringing torch_npu in, and saying what is missing where that does not work."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import MutableMapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

log = logging.getLogger(__name__)

VISIBLE_DEVICES = "ASCEND_RT_VISIBLE_DEVICES"
SETUP = "install CANN and run 'source /usr/local/Ascend/ascend-toolkit/set_env.sh'"

HELPFUL_DEFAULTS = {
    "TASK_QUEUE_ENABLE": "2",  # operators are handed over by a thread of their own: faster, a little more memory
    "CPU_AFFINITY_CONF": "1",  # each process keeps to the CPU cores near its device
    "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",  # less memory lost between blocks
    "HCCL_CONNECT_TIMEOUT": "1200",  # seconds; operators are compiled on first use, on some ranks earlier
    "HCCL_EXEC_TIMEOUT": "3600",  # seconds a rank waits for the others in one operation, as after a long validation
}
"""Environment variables that torch_npu and HCCL read, with values better than their own defaults."""

_COUNT_DEVICES = "import torch, torch_npu; print('devices:', torch_npu.npu.device_count())"
_PATIENCE = 120  # seconds for that


class NPUUnavailable(RuntimeError):
    """There is no NPU to work with; the message is one line that says why and what to do."""


def set_helpful_defaults(environment: MutableMapping[str, str]) -> dict[str, str]:
    """Set ``HELPFUL_DEFAULTS`` where nothing is set yet; returns what was set."""
    missing = {name: value for name, value in HELPFUL_DEFAULTS.items() if name not in environment}
    if environment.get("ASCEND_LAUNCH_BLOCKING") == "1":  # someone is looking for an error, step by step
        missing.pop("TASK_QUEUE_ENABLE", None)
    environment.update(missing)
    return missing


def load() -> None:
    """Import torch_npu, which makes ``npu`` a device of torch; repeatable.

    Raises:
        NPUUnavailable: If torch_npu is not installed, does not find CANN, does not fit this torch, or finds no device.
    """
    if find_spec("torch_npu") is None:
        raise NPUUnavailable(
            f"torch_npu is not installed; {SETUP}, then run 'pip install torch_npu=={_release('torch')}', which fits "
            "the torch that is here"
        )
    done = set_helpful_defaults(os.environ)
    if done:
        log.info("environment: %s (set before the start to override)", " ".join(f"{k}={v}" for k, v in done.items()))
    logging.getLogger("torch_npu.env").setLevel(logging.WARNING)  # it tells of every variable that it looks at
    try:
        import torch_npu
    except Exception as error:  # a wrong ASCEND_HOME_PATH ends in a bare Exception
        raise NPUUnavailable(_explain(error)) from error
    if not torch_npu.npu.device_count():
        raise NPUUnavailable(_no_device())


def device_count() -> int:
    """Return how many NPUs this process sees.

    Raises:
        NPUUnavailable: As ``load``.
    """
    load()
    from torch_npu import npu

    return int(npu.device_count())


def devices_found() -> int:
    """Return how many NPUs there are without loading torch_npu here: 0 where it cannot be used.

    A process of its own looks, because torch_npu without a device spoils training on the CPU: SGD and loaders raise.
    """
    if find_spec("torch_npu") is None:
        return 0
    command = [sys.executable, "-c", _COUNT_DEVICES]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_PATIENCE)
    except (OSError, subprocess.SubprocessError):
        return 0
    count = re.search(r"devices: (\d+)", found.stdout)
    return int(count[1]) if count else 0


def _explain(error: BaseException) -> str:
    """Say what is wrong in one line."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    given = f"torch_npu {_release('torch_npu')}"
    if "ASCEND_" in text and "PATH" in text:
        names = (name for name in ("ASCEND_HOME_PATH", "ASCEND_OPP_PATH") if name in text)
        name = next(names, "an ASCEND variable")
        return f"{name}={os.environ.get(name, '')} holds no CANN; {SETUP}"
    if isinstance(error, ImportError) and ".so" in text:
        return f"{given} does not find CANN ({text}); {SETUP}"
    if "Two accelerators" in text:
        return f"{given} and a torch made for another accelerator do not work together; install the CPU build of torch"
    return f"{given} cannot be loaded with torch {_release('torch')} ({text}); install versions that belong together"


def _no_device() -> str:
    visible = os.environ.get(VISIBLE_DEVICES)
    if visible is None:
        return "torch_npu finds no NPU; look at 'npu-smi info', the driver and the permissions of /dev/davinci*"
    return f"torch_npu finds no NPU with {VISIBLE_DEVICES}={visible}; give indices that exist, in ascending order"


def _release(package: str) -> str:
    try:
        return version(package).split("+")[0]
    except PackageNotFoundError:
        return "(of unknown version)"
