"""One process or many: running a function on every device of this machine, and of others.

Processes are started and watched by the engine behind torchrun, which takes a function and its argument, so that a
job of a sweep is not the command line run again.
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
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from icnet.config import EvalConfig, TrainConfig, TrainerConfig
from icnet.errors import UserError
from icnet.launch import rank as group
from icnet.launch.command import DEFECT, USER_MISTAKE, verdict, write_error
from icnet.run.paths import RunPaths

Config = TypeVar("Config", TrainConfig, EvalConfig)
Result = TypeVar("Result")

log = logging.getLogger(__name__)

PEER_SECONDS = 5
"""How long processes may go on that have lost one of theirs. Most notice, and write down what they were doing; one that
waits for its device does not, and would go on waiting until the collective's own time limit."""
STOP_SECONDS = 60
"""How long processes that were asked to stop may take to save, as long as none of them is missing."""
HEEDED_SIGNALS = "TORCHELASTIC_SIGNALS_TO_HANDLE"  # the engine's
TERMINATED = 128 + signal.SIGTERM  # the shell's convention; CheckpointOnSignal ends with it

# Kept for a whole sweep: one node may come for the next job before another has left this one.
_rendezvous: list[Any] = []


def run(function: Callable[[Config], Result], config: Config, processes: int) -> Result | None:
    """Run a function here, or in several processes that form one group.

    Args:
        function: A function at the top level of a file, called as ``function(config)`` in every process.
        config: Its argument; pickled for other processes. ``trainer`` says on which nodes and devices and how often
            processes that died are started again, then with ``resume=auto`` if they left a checkpoint.
        processes: How many on this node. A single one on a single node without restarts runs in place; and so does
            each process of a group that torchrun or SLURM started.

    Returns:
        What the first process of all returned; None on other nodes than its own.

    Raises:
        UserError: The one that any of the processes ended with; the others are stopped.
        RankDied: If one of the processes ended otherwise, and that more often than ``trainer.max_restarts``.
        SystemExit: With 128 and the signal's number if this process was asked to stop; the group had time to save.
    """
    trainer = config.trainer
    if group.joined():
        _resume_after_restart(config)
        return function(config)
    if processes == 1 and trainer.num_nodes == 1 and not trainer.max_restarts:
        return function(config)
    about = HydraConfig.get()
    _check_nodes(trainer, about)
    if trainer.max_restarts:  # the engine's shared store would give new processes the addresses of those that died
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    methods = multiprocessing.get_all_start_methods()
    if (
        multiprocessing.get_start_method() not in methods
    ):  # in a process of joblib's, whose own our processes do not know
        multiprocessing.set_start_method(methods[0], force=True)
    with tempfile.TemporaryDirectory() as folder, _signals_given_back(), _quiet_terminal():
        level = logging.getLogger().level
        spec = WorkerSpec(
            role=about.job.name,
            local_world_size=processes,
            entrypoint=_process,
            args=(function.__code__.co_filename, function.__name__, config, about.job.name, Path(folder), level),
            rdzv_handler=_meeting_place(trainer, about),
            max_restarts=trainer.max_restarts,
            monitor_interval=0.1,
        )
        agent = _Agent(spec, Path(folder), config)
        if trainer.num_nodes > 1:
            log.info("waiting for %d nodes at %s", trainer.num_nodes, trainer.rdzv_endpoint)
        try:
            result = agent.run()
        except SignalException as stop:
            raise SystemExit(128 + stop.sigval) from None
        except RendezvousError as error:
            where = f"trainer.rdzv_endpoint={trainer.rdzv_endpoint}"
            raise UserError(
                f"{trainer.num_nodes} nodes did not meet at {where} ({type(error).__name__}); give the same command on "
                "each, and see the logs of the others"
            ) from error
        finally:
            spec.rdzv_handler.shutdown()
    if result.is_failed():
        raise agent.failure or group.RankDied(f"a process of this group could not be started; see {config.output_dir}")
    return result.return_values.get(0)


def _check_nodes(trainer: TrainerConfig, about: Any) -> None:
    if trainer.num_nodes == 1:
        return
    if not trainer.rdzv_endpoint:
        raise UserError(
            f"trainer.num_nodes={trainer.num_nodes} needs trainer.rdzv_endpoint=HOST:PORT, the same on each node, "
            "where HOST is one of them and PORT is free there"
        )
    key = "hydra.sweep.dir" if about.mode == RunMode.MULTIRUN else "hydra.run.dir"
    if not any(word.startswith(f"{key}=") for word in about.overrides.hydra):
        raise UserError(
            f"trainer.num_nodes={trainer.num_nodes} needs {key}=PATH, the same on each node; "
            "by default it is named after the time, which may differ"
        )


def _meeting_place(trainer: TrainerConfig, about: Any) -> Any:
    """Return where the nodes find each other; one node needs no more than itself."""
    number = about.job.num if about.mode == RunMode.MULTIRUN else 0
    host = (trainer.rdzv_endpoint or "localhost").rpartition(":")[0]
    alone = trainer.num_nodes == 1 or host in {"localhost", "127.0.0.1"}
    handler = get_rendezvous_handler(
        RendezvousParameters(
            backend="c10d",
            endpoint=(trainer.num_nodes > 1 and trainer.rdzv_endpoint) or "localhost:0",
            run_id=f"{about.job.name}_{number}",
            min_nodes=trainer.num_nodes,
            max_nodes=trainer.num_nodes,
            local_addr="localhost" if alone else None,  # the machine's own name may lead nowhere
        )
    )
    if trainer.num_nodes > 1:
        _rendezvous.append(handler)
    return handler


@contextmanager
def _signals_given_back() -> Iterator[None]:
    """Undo what the engine does to this process's signals: the next job of a sweep may run in place."""
    known = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    }
    # A signal that is ignored, as nohup has it, stays so.
    heeded = ",".join(number.name for number, handler in known.items() if handler != signal.SIG_IGN)
    before = os.environ.get(HEEDED_SIGNALS)
    os.environ[HEEDED_SIGNALS] = before or heeded
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(HEEDED_SIGNALS, None)
        for number, handler in known.items():
            signal.signal(number, handler)


@contextmanager
def _quiet_terminal() -> Iterator[None]:
    """Keep the engine's own log to the file: on the terminal one line says what has happened."""
    engine, streams = logging.getLogger("torch.distributed"), (sys.stdout, sys.stderr)
    files = [handler for handler in logging.getLogger().handlers if getattr(handler, "stream", None) not in streams]
    terminal, engine.handlers = engine.handlers, [*files, logging.NullHandler()]
    try:
        yield
    finally:
        engine.handlers = terminal


class _Agent(LocalElasticAgent):
    """torchrun's agent, but within seconds a broken group is ended, and it is said which rank broke it.

    Args:
        spec: What to run.
        folder: Where the processes leave what they ended with.
        config: Of the run.
    """

    def __init__(self, spec: WorkerSpec, folder: Path, config: TrainConfig | EvalConfig) -> None:
        super().__init__(spec, DefaultLogsSpecs(str(folder / "engine")))
        self.failure: UserError | group.RankDied | None = None
        self._folder = folder
        self._config = config
        self._processes: dict[int, Any] = {}  # by rank

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        for note in self._folder.glob("*.json"):
            note.unlink()
        before = multiprocessing.active_children()
        try:
            pids = super()._start_workers(worker_group)
        except BaseException:  # asked to stop half-way: Python would wait for those that have started
            for process in multiprocessing.active_children():
                if process not in before:
                    process.kill()
            raise
        alive = {process.pid: process for process in multiprocessing.active_children()}
        ranks = {worker.global_rank: alive.get(pids[worker.local_rank]) for worker in worker_group.workers}
        self._processes = {rank: process for rank, process in ranks.items() if process}
        return pids

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        noticed_first = any(process.exitcode is not None for process in self._processes.values())
        if not noticed_first:
            result = super()._monitor_workers(worker_group)  # where all processes end that have done their work
            if not result.is_failed():
                return result
        ended = self._ended(PEER_SECONDS)
        if noticed_first and TERMINATED in ended.values():  # somebody asked them, rather than this process
            raise SignalException("the processes were asked to stop", signal.SIGTERM)
        self.failure = self._explain(worker_group, ended)
        if isinstance(self.failure, UserError):
            self._remaining_restarts = 0
        elif self._remaining_restarts:
            log.warning("%s; starting again (restarts left: %d)", self.failure, self._remaining_restarts - 1)
        return RunResult(state=WorkerState.FAILED)

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, *args: Any, **kwargs: Any) -> None:
        asked = isinstance(sys.exc_info()[1], SignalException)
        for process in self._processes.values():
            if process.exitcode is None:
                process.terminate()  # for Ctrl-C too: SIGTERM is the signal that ranks agree on
        self._ended(STOP_SECONDS if asked else PEER_SECONDS)
        super()._shutdown(death_sig, *args, **kwargs)

    def _ended(self, seconds: float) -> dict[int, int]:
        """Wait for all processes to end, then kill the rest; returns the exit codes of those that ended."""
        processes = self._processes
        deadline, broken = time.monotonic() + seconds, False
        try:
            while time.monotonic() < deadline:
                codes = {process.exitcode for process in processes.values()}
                if None not in codes:
                    break
                if codes - {None, 0, TERMINATED} and not broken:  # the others have lost one to save with
                    broken, deadline = True, min(deadline, time.monotonic() + PEER_SECONDS)
                time.sleep(0.05)
            return {rank: process.exitcode for rank, process in processes.items() if process.exitcode is not None}
        finally:  # also on a second Ctrl-C
            for process in processes.values():
                if process.exitcode is None:
                    process.kill()
                    process.join()

    def _explain(self, worker_group: WorkerGroup, ended: dict[int, int]) -> UserError | group.RankDied:
        """Find the rank that ended first. Those that left no note were killed, and are the reason for the others."""
        notes = {rank: self._note(rank) for rank in ended}
        mistakes = [note for note in notes.values() if note.get("status") == USER_MISTAKE]
        if mistakes:
            return UserError(mistakes[0]["line"])
        rank = min(ended, key=lambda rank: notes[rank].get("time", 0))
        code = ended[rank]
        local_rank = next(worker.local_rank for worker in worker_group.workers if worker.global_rank == rank)
        place = group.Place(rank, local_rank, worker_group.group_rank or 0)
        devices = self._config.trainer.devices
        path = group.log_path(Path(self._config.output_dir), worker_group.spec.role, devices, place)
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit status {code}"
        why = f" ({notes[rank]['line']})" if notes[rank] else ""
        device = devices[local_rank] if isinstance(devices, list) else local_rank
        return group.RankDied(f"rank {rank} (device {device}) {how}{why}; its log is {path}")

    def _note(self, rank: int) -> dict[str, Any]:
        path = self._folder / f"{rank}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


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


def _process(file: str, name: str, config: Config, job: str, folder: Path, level: int) -> Any:
    """Run in a process of a group: log into a file of its own, and leave a note if it ends before it is done."""
    os.setpgrp()  # Ctrl-C then reaches the parent alone, which passes it on once, as SIGTERM
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)  # for loaders, as in place
    place = group.joined() or group.Place()
    logging.basicConfig(level=level, format=group.LOG_FORMAT, handlers=[logging.StreamHandler(sys.stdout)])
    path = group.log_path(Path(config.output_dir), job, config.trainer.devices, place)
    with group.own_log(path, place.rank) as stream:
        faulthandler.enable(stream)
        try:
            log.info("rank %d of %d is process %d", place.rank, place.size, os.getpid())
            _resume_after_restart(config)
            return _load(file, name)(config)
        except Exception as error:
            write_error(error, stream)
            status, line = verdict(error) or (DEFECT, _first_line(error))
            note = {"time": time.time(), "status": status, "line": line}
            (folder / f"{place.rank}.json").write_text(json.dumps(note), encoding="utf-8")
            raise SystemExit(status) from None
        finally:
            faulthandler.disable()


def _resume_after_restart(config: TrainConfig | EvalConfig) -> None:
    """Go on from the run's own last checkpoint if the group was started again."""
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if restarts and isinstance(config, TrainConfig) and RunPaths(Path(config.output_dir)).last.exists():
        config.resume = "auto"
