"""Which names of torch_npu the project uses and how it calls them, read from its source; and whether they exist."""

import ast
import builtins
import importlib
import inspect
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

PACKAGE = "torch_npu"


@dataclass(frozen=True)
class Use:
    """One place where a name of torch_npu stands."""

    name: str  # as in torch_npu.npu.set_device
    where: str
    called: bool = False
    positional: int = 0
    keywords: tuple[str, ...] = ()
    more: bool = False  # *args or **kwargs, which cannot be read


def uses(source: str, where: str) -> list[Use]:
    """Find every name that comes from torch_npu: imported, looked up, called."""
    tree = ast.parse(source)
    aliases: dict[str, str] = {}
    found: list[Use] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for item in node.names:
                if item.name.split(".")[0] == PACKAGE:
                    aliases[item.asname or PACKAGE] = item.name if item.asname else PACKAGE
                    found.append(Use(item.name, f"{where}:{node.lineno}"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            for item in node.names:
                aliases[item.asname or item.name] = f"{node.module}.{item.name}"
                found.append(Use(f"{node.module}.{item.name}", f"{where}:{node.lineno}"))
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (name := _resolve(node.func, aliases)):
            keywords = tuple(sorted(word.arg for word in node.keywords if word.arg))
            plain = [argument for argument in node.args if not isinstance(argument, ast.Starred)]
            more = len(plain) < len(node.args) or len(keywords) < len(node.keywords)
            found.append(Use(name, f"{where}:{node.lineno}", True, len(plain), keywords, more))
        elif isinstance(node, ast.Attribute) and id(node) not in called and (name := _resolve(node, aliases)):
            found.append(Use(name, f"{where}:{node.lineno}"))
    return found


def _resolve(node: ast.expr, aliases: dict[str, str]) -> str | None:
    """Return the dotted name that an expression stands for, if it comes from torch_npu."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    if node.id == "torch" and parts and parts[-1] == "npu":  # torch.npu is torch_npu.npu
        return ".".join((PACKAGE, *reversed(parts)))
    return ".".join((aliases[node.id], *reversed(parts))) if node.id in aliases else None


def project_uses(root: Path) -> Iterator[Use]:
    """Go through the project's package."""
    for path in sorted((root / "icnet").rglob("*.py")):
        yield from uses(path.read_text(encoding="utf-8"), str(path.relative_to(root)))


def problem(use: Use) -> str | None:
    """Say what is wrong with a use in the torch_npu that is installed here; None if nothing is."""
    try:
        thing = importlib.import_module(PACKAGE)
        for part in use.name.split(".")[1:]:
            thing = getattr(thing, part)
    except AttributeError as error:
        return f"{use.where}: {use.name}: {error}"
    if not use.called:
        return None
    try:
        signature = inspect.signature(thing)
    except ValueError:  # written in C++
        return None
    try:
        bind = signature.bind_partial if use.more else signature.bind
        bind(*[None] * use.positional, **dict.fromkeys(use.keywords))
    except TypeError as error:
        return f"{use.where}: {use.name}{signature}: {error}"
    return None


if __name__ == "__main__":  # with torch_npu's own interpreter: uses as JSON on stdin, problems as JSON on stdout
    importlib.import_module(PACKAGE)
    given = [Use(**{**item, "keywords": tuple(item["keywords"])}) for item in json.load(sys.stdin)]
    builtins.print("PROBLEMS " + json.dumps([text for use in given if (text := problem(use))]))


def to_json(found: list[Use]) -> str:
    """Write uses for the other interpreter."""
    return json.dumps([asdict(use) for use in found])
