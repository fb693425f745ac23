"""Scripts of the project in processes of their own, forked from one that has imported what they import.

A start costs some hundredths of a second instead of the six that importing PyTorch, Lightning and Albumentations takes;
the ranks of a group that a script starts come from the same process. What else makes a process is as it would be: its
own id, folder, environment, streams, signals and exit status, and nothing of icnet imported. Python is started anew
where the start is the point: torchrun, joblib, the README's commands, the examples of CONTRIBUTING.md, the simulated
NPUs, and groups that a test starts itself.
"""

import atexit
import functools
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace
from typing import IO, ClassVar

import torch.multiprocessing

ROOT = Path(__file__).parents[1]
LIBRARIES = [
    "lightning.pytorch",
    "albumentations",
    "hydra",
    "matplotlib.figure",
    "torchmetrics",
    "onnx",
    "rich.progress",
]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(LIBRARIES)


class ScriptProcess:
    """A started script; its methods are those of ``subprocess.Popen`` with text in files instead of pipes.

    Args:
        name: The script, ``train`` for ``train.py``.
        overrides: Its arguments.
        cwd: The folder it runs in; None = this process's.
        env: Its environment; None = this process's.
        ignored: Signals that it ignores from the beginning, as nohup has it.
    """

    started: ClassVar[list["ScriptProcess"]] = []

    def __init__(
        self, name: str, *overrides: object, cwd: Path | None = None, env: Mapping[str, str] | None = None,
        ignored: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        self.args = [f"{name}.py", *map(str, overrides)]
        environment = dict(os.environ if env is None else env)
        if environment.get("OMP_NUM_THREADS") != os.environ.get("OMP_NUM_THREADS"):
            raise ValueError("the number of threads is read when PyTorch is loaded; start Python for another one")
        self._folder = tempfile.TemporaryDirectory()  # noqa: SIM115 (lives as long as the process)
        out, err = (Path(self._folder.name) / stream for stream in ("out", "err"))
        for path in (out, err):
            path.touch()
        self.stdout: IO[str] = out.open(encoding="utf-8")
        self.stderr: IO[str] = err.open(encoding="utf-8")
        self._process = _context.Process(
            target=_run, args=(self.args, str(cwd or Path.cwd()), environment, str(out), str(err), ignored)
        )
        self._process.start()
        self.started.append(self)

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, minus the signal's number if one killed it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return ``returncode``."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end.

        Raises:
            subprocess.TimeoutExpired: After ``timeout`` seconds.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; returns what it wrote since the last look, on standard output and error."""
        self.wait(timeout)
        return self.stdout.read(), self.stderr.read()

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    @classmethod
    def end_all(cls) -> None:
        """End those that still run, as they do where a test failed; the tests would wait for them at their end."""
        while cls.started:
            process = cls.started.pop()
            if process.poll() is None:
                process.kill()
                process.wait()


def _run(words: list[str], cwd: str, environment: dict[str, str], out: str, err: str, ignored: tuple[int, ...]) -> None:
    """Be the process of a script."""
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    _redirect(out, err)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    script = ROOT / words[0]
    sys.argv = [str(script), *words[1:]]
    sys.path.insert(0, str(ROOT))
    forkserver._forkserver.ensure_running = lambda: None  # it is: this process comes from it
    torch.multiprocessing.start_processes = functools.partial(_start_ranks, out, err)
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:  # as Python itself ends; multiprocessing would leave out the second
        threading._shutdown()
        atexit._run_exitfuncs()


def _start_ranks(
    out: str, err: str, function: Callable[..., None], args: tuple[object, ...], nprocs: int, join: bool
) -> SimpleNamespace:
    """Start the ranks of a script's group as the script itself was started."""
    assert not join
    begin = (out, err, dict(os.environ), function, args)
    processes = [_context.Process(target=_rank, args=(rank, *begin)) for rank in range(nprocs)]
    for process in processes:
        process.start()
    return SimpleNamespace(processes=processes)


def _rank(
    rank: int, out: str, err: str, environment: dict[str, str], function: Callable[..., None], args: tuple[object, ...]
) -> None:
    _redirect(out, err)
    os.environ.clear()
    os.environ.update(environment)
    function(rank, *args)


def _redirect(out: str, err: str) -> None:
    """Write to these files, and read nothing."""
    for stream, place in enumerate((os.devnull, out, err)):
        opened = os.open(place, os.O_RDWR | os.O_APPEND)
        os.dup2(opened, stream)
        os.close(opened)
