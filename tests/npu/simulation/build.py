"""Builds an environment in which the real torch_npu runs without an Ascend card: see README.md in this folder.

python tests/npu/simulation/build.py [--into FOLDER]
FOLDER/python train.py trainer=npu_1p
"""

import argparse
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
REPOSITORY = SOURCES.parents[2]
TORCH_NPU = "2.13.0"  # the release for TORCH
TORCH = "2.13."
# The libraries of CANN that torch_npu's own are linked to. The last four hold nothing and point to the first.
LIBRARIES = ("ascendcl", "hccl", "acl_op_compiler", "ge_runner", "graph", "acl_tdt_channel")
CANN_SYMBOL = re.compile(r"(acl|rt|Msprof|Hccl)[A-Za-z]\w*")

WRAPPER = """#!/bin/sh
# The interpreter of the simulated NPUs: torch_npu over host memory.
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
export LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export ASCEND_HOME_PATH="$here/cann" ASCEND_OPP_PATH="$here/cann/opp"
export TASK_QUEUE_ENABLE=0 # operators and collectives one after the other, in the thread that asks for them
exec "$here/venv/bin/python" "$@"
"""


class Unavailable(Exception):  # noqa: N818 - a reason to skip, not a fault
    """Why the simulation cannot be built on this machine."""


@dataclass(frozen=True)
class Simulation:
    """A built simulation.

    Args:
        folder: Where it lies.
        python: Its interpreter, to be used in place of `python`.
    """

    folder: Path
    python: Path


def build(into: Path = REPOSITORY / ".simulated_npu") -> Simulation:
    """Builds the simulation, or returns at once when nothing has changed since the last time.

    Args:
        into: The folder to build into; created if needed.

    Raises:
        Unavailable: With the reason, where it cannot work.
    """
    into = Path(into).resolve()
    simulation = Simulation(into, into / "python")
    wanted = _fingerprint(_check_machine())
    stamp = into / "stamp"
    into.mkdir(parents=True, exist_ok=True)
    with _locked(into / "lock"):
        if stamp.exists() and stamp.read_text() == wanted and simulation.python.exists():
            return simulation
        started = time.monotonic()
        stamp.unlink(missing_ok=True)
        packages = _make_environment(into)
        _install_torch_npu(packages)
        _make_libraries(into, packages / "torch_npu")
        _install_operators(packages)
        _write(simulation.python, WRAPPER, executable=True)
        _try_out(simulation)
        _write(stamp, wanted)
        _say(f"done in {time.monotonic() - started:.0f} s: {simulation.python}")
    return simulation


def _check_machine() -> str:
    """Returns the C compiler if everything that is needed is here."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Unavailable(f"the simulated NPUs need Linux on x86-64, this is {sys.platform} on {platform.machine()}")
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise Unavailable("the simulated NPUs need torch in the interpreter that builds them") from None
    if not torch.startswith(TORCH):
        raise Unavailable(f"torch-npu {TORCH_NPU} is made for torch {TORCH}*, here is {torch}")
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise Unavailable("the simulated NPUs need a C compiler: cc, gcc or clang")
    if shutil.which("nm") is None:
        raise Unavailable("the simulated NPUs need nm, of the binutils")
    return compiler


def _fingerprint(compiler: str) -> str:
    contents = hashlib.sha256()
    for source in sorted([*SOURCES.glob("*.[ch]"), *SOURCES.glob("*.py")]):
        if not source.name.startswith("test_"):
            contents.update(source.read_bytes())
    versions = [TORCH_NPU, importlib.metadata.version("torch"), sys.version, compiler, *_packages_of_this_interpreter()]
    return json.dumps([contents.hexdigest(), *versions])


def _packages_of_this_interpreter() -> list[str]:
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return [folder for folder in dict.fromkeys(folders) if os.path.isdir(folder)]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make_environment(into: Path) -> Path:
    """Makes the virtual environment, with this interpreter's packages behind its own; returns its package folder."""
    environment = into / "venv"
    packages = environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    made_by = environment / "made_by"
    interpreter = f"{sys.base_prefix} {sys.version}"
    if not made_by.exists() or made_by.read_text() != interpreter:
        _say("making the environment")
        shutil.rmtree(environment, ignore_errors=True)
        command = [sys.executable, "-m", "venv", "--without-pip", str(environment)]
        _run_or_unavailable(command, "no virtual environment can be made")
        _write(made_by, interpreter)
    others = [folder for folder in _packages_of_this_interpreter() if Path(folder) != packages]
    lines = [f"import site; site.addsitedir({folder!r})" for folder in others] + ["import simulated_cann.autoload"]
    _write(packages / "simulated_cann.pth", "\n".join(lines) + "\n")
    return packages


def _install_torch_npu(packages: Path) -> None:
    if (packages / f"torch_npu-{TORCH_NPU}.dist-info" / "RECORD").exists():
        return
    _say(f"installing torch-npu {TORCH_NPU}")
    # What it imports beyond torch (numpy, pyyaml) is there: torch's own requirements and Lightning's hold them.
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-compile", "--only-binary=:all:", "--upgrade", "--target", str(packages)]
    _run_or_unavailable([*command, f"torch-npu=={TORCH_NPU}"], f"torch-npu {TORCH_NPU} cannot be installed")


def _make_libraries(into: Path, torch_npu: Path) -> None:
    _say("compiling the simulated CANN")
    for part in ("runtime", "compiler", "opp"):
        (into / "cann" / part).mkdir(parents=True, exist_ok=True)
    compiler = _check_machine()
    with tempfile.TemporaryDirectory(dir=into) as folder:
        work = Path(folder)
        options = ["-std=gnu11", "-O2", "-fPIC", "-shared", "-Wall", f"-I{torch_npu / 'include'}", f"-L{work}"]

        def compile_library(name: str, *inputs: str) -> None:
            output = work / f"lib{name}.so"
            command = [compiler, *options, "-o", str(output), f"-Wl,-soname,{output.name}", "-Wl,-rpath,$ORIGIN"]
            _run([*command, *inputs, "-lpthread", "-lrt"])

        trial = work / "trial.c"
        trial.write_text("#include <stdlib.h>\n#include <sys/mman.h>\n")
        _run_or_unavailable([compiler, "-fsyntax-only", str(trial)], "the C compiler does not work")
        first, second, *others = LIBRARIES
        runtime = [str(SOURCES / "runtime.c"), str(SOURCES / "operators.c")]
        generated, nothing = work / "generated.c", work / "nothing.c"
        compile_library(second, str(SOURCES / "hccl.c"))
        compile_library(first, *runtime)
        names = _missing_symbols(torch_npu, [work / f"lib{name}.so" for name in (first, second)])
        generated.write_text("".join(f"long {name}(void) {{ return 0; }}\n" for name in names))
        nothing.write_text("extern int nothing;\n")
        compile_library(first, *runtime, str(generated))
        for name in others:
            compile_library(name, str(nothing), "-Wl,--no-as-needed", f"-l{first}")
        (into / "lib").mkdir(exist_ok=True)
        for library in work.glob("lib*.so"):
            library.replace(into / "lib" / library.name)  # at once: a running process keeps the one it has


def _missing_symbols(torch_npu: Path, ours: list[Path]) -> list[str]:
    """The functions of CANN that torch_npu's libraries are linked to and that nothing defines yet."""
    theirs = [*torch_npu.glob("_C*.so"), *torch_npu.glob("lib/*.so")]
    missing = _symbols("--undefined-only", theirs) - _symbols("--defined-only", theirs + ours)
    return sorted(name for name in missing if CANN_SYMBOL.fullmatch(name))


def _symbols(kind: str, libraries: list[Path]) -> set[str]:
    listing = _run(["nm", "-D", kind, *map(str, libraries)])
    return {line.split()[-1].partition("@")[0] for line in listing.splitlines() if len(line.split()) > 1}


def _install_operators(packages: Path) -> None:
    ours = packages / "simulated_cann"
    ours.mkdir(exist_ok=True)
    for name in ("autoload.py", "operators.py"):
        _write(ours / name, (SOURCES / name).read_text())
    _write(ours / "__init__.py", "")


def _try_out(simulation: Simulation) -> None:
    _say("importing torch_npu for the first time")
    code = "import torch; assert (torch.ones(2, device='npu:0') + 1).tolist() == [2, 2]"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SIMULATED_", "ASCEND_"))}
    environment["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "1"
    try:
        _run([str(simulation.python), "-c", code], environment)
    except _Failure as failure:
        if "Two accelerators" in failure.output:
            raise Unavailable("torch_npu does not run beside a torch that is built for another accelerator") from None
        raise


class _Failure(RuntimeError):
    """A program failed that should not."""

    def __init__(self, command: list[str], output: str) -> None:
        super().__init__(f"{' '.join(command)}\n{output}")
        self.output = output

    def last_line(self) -> str:
        return next((line for line in reversed(self.output.splitlines()) if line.strip()), "no message")


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise _Failure(command, done.stderr or done.stdout)
    return done.stdout


def _run_or_unavailable(command: list[str], reason: str) -> None:
    """Runs a program that can fail where the machine lacks something."""
    try:
        _run(command)
    except _Failure as failure:
        raise Unavailable(f"{reason}: {failure.last_line()}") from failure


def _write(path: Path, text: str, executable: bool = False) -> None:
    """Writes a file so that nobody reads half of it."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    if executable:
        new.chmod(0o755)
    new.replace(path)


def _say(text: str) -> None:
    print(f"simulated NPU: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build an environment with simulated Ascend NPUs.")
    parser.add_argument("--into", type=Path, default=REPOSITORY / ".simulated_npu", metavar="FOLDER")
    try:
        print(build(parser.parse_args().into).python)
    except Unavailable as reason:
        sys.exit(f"simulated NPU: {reason}")
