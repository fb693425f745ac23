"""Loads the simulated operators behind torch_npu, in whichever way and order it is imported.

A line in a .pth file of the simulation's environment imports this module at the start of every interpreter, spawned
children and DataLoader workers included. It imports nothing itself: with TORCH_DEVICE_BACKEND_AUTOLOAD=0 torch does not
load torch_npu, and nothing happens.
"""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType


class TorchNpuFinder:
    """Finds torch_npu where the others find it, and calls `operators.register` once it is executed."""

    def __init__(self) -> None:
        self.searching = False

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Implements `importlib.abc.MetaPathFinder`."""
        if name != "torch_npu" or self.searching:
            return None
        self.searching = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.searching = False
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            from simulated_cann import operators

            operators.register()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, TorchNpuFinder())
