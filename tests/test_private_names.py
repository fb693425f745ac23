"""Private names of libraries: each one that icnet leans on is listed here, with its reason and where it was seen."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PRIVATE_NAMES = {
    ("launch/sweep.py", "_impl"): (
        "hydra-optuna-sweeper 1.3.0",
        "the name of a logger, which is that of a module; its complaint about a failed trial is filtered by its text",
    ),
    ("deploy/runtimes/torch_segmenter.py", "_apply"): (
        "torch 2.13.0",
        "where nn.Module.to() moves parameters; a module whose memory layout follows its device has no other place",
    ),
    ("npu/strategy.py", "_ddp_kwargs"): (
        "lightning 2.6.6",
        "DDPStrategy keeps the arguments of DistributedDataParallel there, and has no hook around their only use",
    ),
    ("npu/strategy.py", "_setup_model"): (
        "lightning 2.6.6",
        "DDPStrategy's wraps the model within a CUDA stream, which an NPU does not have",
    ),
    ("training/callbacks/checkpoint_on_signal.py", "_broadcast_sigterm_tensor"): (
        "lightning 2.6.6",
        "with several devices the training loop reads a tensor from each before every batch; it has no switch for that",
    ),
    ("training/callbacks/weight_average.py", "_average_model"): (
        "lightning 2.6.6",
        "where WeightAveraging keeps the average, whose own update reads from the device",
    ),
    ("training/position.py", "_batches_that_stepped"): (
        "lightning 2.6.6",
        "a key of the training loop's state in a checkpoint, the steps that loggers count by",
    ),
    ("training/precision.py", "_growth_tracker"): (
        "torch 2.13.0",
        "a documented key of GradScaler.state_dict(), the count of good steps that a checkpoint keeps",
    ),
}
"""File and name: the version that it was seen in, and the reason."""

TAKE_NAMES = {"getattr", "hasattr", "setattr", "delattr", "getLogger", "import_module"}
PRIVATE = re.compile(r"_[A-Za-z]\w*")  # of one leading underscore: dunder names are the language's


def is_private(name: str) -> bool:
    return bool(PRIVATE.fullmatch(name)) and not name.endswith("__")


def own_names(tree: ast.AST) -> set[str]:
    """The private names that a file itself gives: its functions, classes, variables, arguments and attributes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            found.add(node.attr)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
    return {name for name in found if is_private(name)}


def is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in {"self", "cls"}


def name_strings(node: ast.Call | ast.Subscript | ast.Dict) -> list[str]:
    """The strings that name something: keys, and what ``getattr``, ``getLogger`` and the like are called with."""
    if isinstance(node, ast.Subscript):
        constants: list[ast.AST | None] = [node.slice]
    elif isinstance(node, ast.Dict):
        constants = list(node.keys)
    elif ast.unparse(node.func).split(".")[-1] in TAKE_NAMES:
        constants = list(node.args)
    else:
        return []
    return [item.value for item in constants if isinstance(item, ast.Constant) and isinstance(item.value, str)]


def foreign_names(text: str) -> set[str]:
    """The private names that a file takes from a library: imported, reached through a dot, or named in a string."""
    tree = ast.parse(text)
    own, found = own_names(tree), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            parts = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] != "icnet":
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Attribute):
            parts = [node.attr] if node.attr not in own else []
        elif isinstance(node, (ast.Call, ast.Subscript, ast.Dict)):
            parts = [part for text in name_strings(node) for part in text.split(".") if part not in own]
        else:
            continue
        found |= {part for part in parts if is_private(part)}
    return found


def overridden_names(module: str) -> Iterator[str]:
    """The private methods and attributes of a library's classes that a module's classes put others in the place of."""
    for _, kind in inspect.getmembers(importlib.import_module(module), inspect.isclass):
        if kind.__module__ != module:
            continue
        bases = [base for base in kind.__mro__[1:] if base.__module__.split(".")[0] not in {"icnet", "builtins"}]
        for name in vars(kind):
            if is_private(name) and name != "_abc_impl" and any(name in vars(base) for base in bases):
                yield name


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_every_private_name_of_a_library_is_listed_and_every_listed_one_is_used():
    used = set()
    for path in sorted((ROOT / "icnet").rglob("*.py")):
        file = path.relative_to(ROOT / "icnet").as_posix()
        names = foreign_names(path.read_text(encoding="utf-8"))
        if path.name != "__main__.py":
            names |= set(overridden_names(module_of(path)))
        used |= {(file, name) for name in names}
    assert sorted(used - set(PRIVATE_NAMES)) == [], "find a public way, or list them with version and reason"
    assert sorted(set(PRIVATE_NAMES) - used) == [], "no longer used: take them off the list"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from torch.utils._pytree import tree_map", {"_pytree"}),
        ("import torch._C", {"_C"}),
        ("from torch.nn.modules.batchnorm import _BatchNorm", {"_BatchNorm"}),
        ("torch._foreach_mul_(grads, 2)", {"_foreach_mul_"}),
        ("trainer._signal_connector.received_sigterm = True", {"_signal_connector"}),
        ("connector._notifier_fn = note", {"_notifier_fn"}),
        ("class A(B):\n    def f(self):\n        return self._scale", {"_scale"}),
        ("getattr(thing, '_hidden')", {"_hidden"}),
        ("logging.getLogger('package._impl')", {"_impl"}),
        ("state['_tracker']\nstate = {'_counter': 1}", {"_tracker", "_counter"}),
        ("path.name.replace('_labelIds', '_gtFine')", set()),
        ("class A:\n    def f(self, other):\n        self._own = other._own", set()),
        ("def _own(_): ...\nmodule._own()", set()),
        ("from icnet.errors import _own", set()),
        ("import __main__\nx.__dict__\n_ = 1\nprint('_ a sentence with _words')", set()),
    ],
)  # fmt: skip
def test_scan_tells_a_librarys_names_from_our_own(text, found):
    assert foreign_names(text) == found


def test_scan_sees_an_overridden_method(monkeypatch, tmp_path):
    text = "from argparse import Action\nclass A(Action):\n    def _get_kwargs(self): ...\n    def _mine(self): ..."
    (tmp_path / "overriding.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert list(overridden_names("overriding")) == ["_get_kwargs"]
