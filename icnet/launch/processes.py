"""One process or many: running a function on every device of this machine, and of others.

Processes are started by ``torch.multiprocessing`` with a function and its argument, so that a job of a sweep is not the
command line run again, and are watched here. The engine behind torchrun says less: it tells of one failure without
looking for the first, gives the other ranks half a minute, and starts a user's mistake again.
"""

import faulthandler
import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import module_from_spec, spec_from_file_location
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from torch.multiprocessing import start_processes

from icnet.config import EvalConfig, TrainConfig
from icnet.errors import UserError
from icnet.launch import logs, rank
from icnet.launch.messages import DEFECT, USER_MISTAKE, verdict, write_error
from icnet.launch.nodes import Nodes, ProcessGroup, meeting
from icnet.launch.rank import RankDied
from icnet.run import files
from icnet.run.paths import RunPaths

Config = TypeVar("Config", TrainConfig, EvalConfig)

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
LOST_RANK_SECONDS = 5
"""How long processes may go on that have lost one of theirs. Most notice, and write down what they were doing; one that
waits for its device does not, and would go on waiting until the collective's own time limit."""
STOP_SECONDS = 60
"""How long processes that were asked to stop may take to save, as long as none of them is missing."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
TERMINATED = 128 + signal.SIGTERM  # the shell's convention; CheckpointOnSignal ends with it


@dataclass(frozen=True)
class _Job:
    """What each process of the group runs."""

    file: str
    function: str  # at the top level of the file
    config: Any  # a TrainConfig or EvalConfig
    name: str
    log_level: int
    notes: Path  # where each process leaves what it ended with, by local rank

    def note(self, local_rank: int) -> dict[str, Any]:
        """Return what a process left: ``result``, or ``time``, ``status`` and ``line``; nothing if it was killed."""
        path = self.notes / f"{local_rank}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def write_note(self, local_rank: int, note: dict[str, Any]) -> None:
        """Leave what a process ended with."""
        files.write_text(self.notes / f"{local_rank}.json", json.dumps(note))


def run(
    function: Callable[..., float | None], config: TrainConfig | EvalConfig, processes: int, *open_here: object
) -> float | None:
    """Run a function here, or in several processes that form one group.

    Args:
        function: A function at the top level of a file, called as ``function(config)`` in every process.
        config: Its argument; pickled for other processes. ``trainer`` says on which nodes and devices and how often
            processes that died are started again, then from their last checkpoint if they left one.
        processes: How many on this node. A single one on a single node without restarts runs in place; and so does
            each process of a group that torchrun or SLURM started.
        open_here: What is open in this process already: further arguments of a function that runs in place.

    Returns:
        What the first process of all returned; None on other nodes than its own.

    Raises:
        UserError: The one that any of the processes ended with; the others are stopped.
        RankDied: If one of the processes ended otherwise, and that more often than ``trainer.max_restarts``.
        SystemExit: With 128 and the signal's number if this process was asked to stop; the group had time to save.
    """
    trainer = config.trainer
    if rank.from_environment():
        return function(config, *open_here)
    if processes == 1 and trainer.num_nodes == 1 and not trainer.max_restarts:
        return function(config, *open_here)
    about = HydraConfig.get()
    methods = multiprocessing.get_all_start_methods()
    if multiprocessing.get_start_method() not in methods:  # in a process of joblib's, with one that ours do not know
        multiprocessing.set_start_method(methods[0], force=True)
    with tempfile.TemporaryDirectory() as notes, meeting(trainer, about) as nodes:
        level = logging.getLogger().level
        job = _Job(function.__code__.co_filename, function.__name__, config, about.job.name, level, Path(notes))
        restarts = 0
        while True:
            group = nodes.form_group(processes, restarts)
            restarts = group.restarts
            try:
                if _run_group(job, group, nodes):
                    nodes.leave_together(group)
                    return job.note(0)["result"] if group.node == 0 else None
            except RankDied as failure:
                if restarts >= trainer.max_restarts:
                    raise
                log.warning("%s; starting again (restarts left: %d)", failure, trainer.max_restarts - restarts - 1)
                restarts += 1


def _run_group(job: _Job, group: ProcessGroup, nodes: Nodes) -> bool:
    """Run this node's processes to their end; returns whether they have done their work.

    They have not if another node waits for this one to restart with it.
    """
    with _noted_signals() as signals:
        processes = _start(job, group)
        while not signals:
            codes = {number: process.exitcode for number, process in enumerate(processes)}
            if any(code is not None and (code or "result" not in job.note(number)) for number, code in codes.items()):
                ended = _end(processes, LOST_RANK_SECONDS, signals)
                if TERMINATED in ended.values():  # somebody asked them, rather than this process
                    raise SystemExit(TERMINATED)
                raise _failure(job, group, ended)
            if None not in codes.values():
                return True
            if nodes.wait_for_this_one():
                _terminate(processes)
                _end(processes, LOST_RANK_SECONDS, signals)
                return False
            wait([process.sentinel for process in processes if process.exitcode is None], POLL_SECONDS)
        _terminate(processes)
        _end(processes, STOP_SECONDS, signals)
        raise SystemExit(128 + signals[0])


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Note signals that ask to stop, instead of heeding them; one that is ignored, as nohup has it, stays so."""
    noted: list[int] = []
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    heeded = {number: handler for number, handler in before.items() if handler not in {signal.SIG_IGN, None}}
    try:
        for number in heeded:
            signal.signal(number, lambda received, frame: noted.append(received))
        yield noted
    finally:
        for number, handler in heeded.items():
            signal.signal(number, handler)


def _start(job: _Job, group: ProcessGroup) -> list[BaseProcess]:
    for note in job.notes.glob("*.json"):
        note.unlink()
    environments = [group.environment(local_rank) for local_rank in range(group.processes)]
    before = multiprocessing.active_children()
    try:
        context = start_processes(_process, (job, environments), group.processes, join=False)
    except BaseException:  # Python would wait for those that have started
        for process in multiprocessing.active_children():
            if process not in before:
                process.kill()
        raise
    return context.processes


def _terminate(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.terminate()  # for Ctrl-C too: SIGTERM is the signal that ranks agree on


def _end(processes: list[BaseProcess], seconds: float, signals: list[int]) -> dict[int, int]:
    """Wait for processes to end, then kill the rest; returns the exit codes of those that ended, by local rank.

    Args:
        processes: Of this node.
        seconds: How long to wait; a second signal of the same person ends it at once.
        signals: Those noted.
    """
    deadline, broken, patience = time.monotonic() + seconds, False, max(len(signals), 1)
    while alive := [process for process in processes if process.exitcode is None]:
        codes = {process.exitcode for process in processes}
        if codes - {None, 0, TERMINATED} and not broken:  # the others have lost one to save with
            broken, deadline = True, min(deadline, time.monotonic() + LOST_RANK_SECONDS)
        if time.monotonic() > deadline or len(signals) > patience:
            break
        wait([process.sentinel for process in alive], POLL_SECONDS)
    ended = {number: process.exitcode for number, process in enumerate(processes) if process.exitcode is not None}
    for process in alive:
        process.kill()
        process.join()
    return ended


def _failure(job: _Job, group: ProcessGroup, ended: dict[int, int]) -> UserError | RankDied:
    """Find the rank that ended first. Those that left no note were killed, and are the reason for the others."""
    notes = {number: job.note(number) for number in ended}
    mistakes = [note for note in notes.values() if note.get("status") == USER_MISTAKE]
    if mistakes:
        return UserError(mistakes[0]["line"])
    broken = [number for number in ended if ended[number] or "result" not in notes[number]]
    number = min(broken, key=lambda number: notes[number].get("time", 0))
    code, note, member = ended[number], notes[number], group.rank(number)
    devices = job.config.trainer.devices
    path = logs.log_path(Path(job.config.output_dir), job.name, devices, member)
    how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit status {code}"
    why = f" ({note['line']})" if "line" in note else ""
    device = devices[number] if isinstance(devices, list) else number
    return RankDied(f"rank {member.rank} (device {device}) {how}{why}; its log is {path}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]


def _load(file: str, name: str) -> Callable[[Any], Any]:
    """Find a function by the file that it stands in: a script's ``__main__`` is another one in a launcher's process."""
    spec = spec_from_file_location("icnet_script", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be imported")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def _process(local_rank: int, job: _Job, environments: list[dict[str, str]]) -> None:
    """Run in a process of a group: log into a file of its own, and leave a note of how it ended."""
    os.environ.update(environments[local_rank])
    os.setpgrp()  # Ctrl-C then reaches the parent alone, which passes it on once, as SIGTERM
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)  # for loaders, as in place
    own = rank.from_environment() or rank.ProcessRank()
    logging.basicConfig(level=job.log_level, format=logs.LOG_FORMAT, handlers=[logging.StreamHandler(sys.stdout)])
    path = logs.log_path(Path(job.config.output_dir), job.name, job.config.trainer.devices, own)
    with logs.own_log(path, own.rank) as stream:
        faulthandler.enable(stream)
        try:
            log.info("rank %d of %d is process %d", own.rank, own.world_size, os.getpid())
            result = _load(job.file, job.function)(resumed_after_restart(job.config))
            job.write_note(local_rank, {"result": result})
        except Exception as error:
            write_error(error, stream)
            status, line = verdict(error) or (DEFECT, _first_line(error))
            job.write_note(local_rank, {"time": time.time(), "status": status, "line": line})
            raise SystemExit(status) from None
        finally:
            faulthandler.disable()


def resumed_after_restart(config: Config) -> Config:
    """Return the configuration that goes on from the run's own last checkpoint if its group was started again."""
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if not restarts or not isinstance(config, TrainConfig):
        return config
    last = RunPaths(Path(config.output_dir)).last
    if not last.exists():
        return config
    log.info("going on from %s", last)
    return replace(config, resume=str(last))  # type: ignore[call-arg]
