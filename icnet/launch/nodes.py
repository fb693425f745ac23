"""Where the nodes of a run find each other, and form one process group."""

import json
import logging
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from hydra.types import RunMode
from torch.distributed import PrefixStore, TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousError,
    RendezvousHandler,
    RendezvousParameters,
    RendezvousStoreInfo,
)
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler
from torch.distributed.elastic.utils import store as exchange

from icnet.config import TrainerConfig
from icnet.errors import UserError
from icnet.launch.rank import ProcessRank

log = logging.getLogger(__name__)

ASK_SECONDS = 1  # how often a node asks whether another one, whose processes died, waits for it
EXIT_SECONDS = 300  # how long a node whose processes are done waits for the others; the engine behind torchrun's number

# Kept for a whole sweep: one node may come for the next job before another has left this one.
_rendezvous: list[RendezvousHandler] = []


@dataclass(frozen=True)
class ProcessGroup:
    """A group of processes that is about to start, as this node sees it."""

    run_id: str
    processes: int  # on each node
    address: str  # of the store in which the processes find each other
    port: int
    restarts: int = 0
    node: int = 0
    nodes: int = 1
    stores: tuple[Any, ...] = field(default=(), repr=False)  # as long as the group lasts

    def rank(self, local_rank: int) -> ProcessRank:
        """Return the rank of one of this node's processes."""
        return ProcessRank(
            self.node * self.processes + local_rank, local_rank, self.node, self.processes, self.nodes * self.processes
        )

    def environment(self, local_rank: int) -> dict[str, str]:
        """Return the variables that tell a process its place, those of torchrun."""
        rank = self.rank(local_rank)
        values = {
            "RANK": rank.rank,
            "LOCAL_RANK": rank.local_rank,
            "GROUP_RANK": rank.node,
            "LOCAL_WORLD_SIZE": rank.local_world_size,
            "WORLD_SIZE": rank.world_size,
            "MASTER_ADDR": self.address,
            "MASTER_PORT": self.port,
            "TORCHELASTIC_RUN_ID": self.run_id,
            "TORCHELASTIC_RESTART_COUNT": self.restarts,
            "TORCHELASTIC_USE_AGENT_STORE": True,  # the launcher keeps the store, not rank 0
        }
        return {key: str(value) for key, value in values.items()}


class Nodes:
    """The nodes of a run; one node needs no more than itself.

    Args:
        trainer: Says how many nodes there are and where they meet.
        about: Hydra's configuration of the job.

    Raises:
        UserError: If there are several, and no meeting place or no common run folder.
    """

    def __init__(self, trainer: TrainerConfig, about: Any) -> None:
        number = about.job.num if about.mode == RunMode.MULTIRUN else 0
        self._run_id = f"{about.job.name}_{number}"
        self._address = "localhost"  # the machine's own name may lead nowhere
        self._handler: RendezvousHandler | None = None
        self._asked = 0.0
        if trainer.num_nodes == 1:
            return
        _check(trainer, about)
        local = str(trainer.rdzv_endpoint).rpartition(":")[0] in {"localhost", "127.0.0.1"}
        self._address = "localhost" if local else socket.getfqdn()
        self._handler = get_rendezvous_handler(
            RendezvousParameters(
                backend="c10d",
                endpoint=str(trainer.rdzv_endpoint),
                run_id=self._run_id,
                min_nodes=trainer.num_nodes,
                max_nodes=trainer.num_nodes,
                local_addr=self._address,
            )
        )
        _rendezvous.append(self._handler)

    def form_group(self, processes: int, restarts: int) -> ProcessGroup:
        """Wait for all nodes, and agree with them.

        Args:
            processes: On this node.
            restarts: How often this node has started its processes again; the largest number of all nodes counts.

        Raises:
            UserError: If the nodes start different numbers of processes.
        """
        if self._handler is None:
            server = TCPStore(self._address, 0, is_master=True, wait_for_workers=False)
            return ProcessGroup(self._run_id, processes, self._address, server.port, restarts, stores=(server,))
        met = self._handler.next_rendezvous()
        node, nodes = met.rank, met.world_size
        store = PrefixStore("icnet", met.store)
        own = json.dumps([processes, restarts]).encode()
        told = [json.loads(text) for text in exchange.synchronize(store, own, node, nodes, "node/")]
        counts = [count for count, _ in told]
        if len(set(counts)) > 1:
            raise UserError(
                f"the nodes start {', '.join(map(str, counts))} processes; give the same trainer.devices on each"
            )
        stores: list[Any] = [store]
        if node == 0:
            stores.append(TCPStore(self._address, 0, is_master=True, wait_for_workers=False))
        port = stores[-1].port if node == 0 else None
        master = RendezvousStoreInfo.build(node, store, self._address, port)
        restarts = max(count for _, count in told)
        return ProcessGroup(
            self._run_id, processes, master.master_addr, master.master_port, restarts, node, nodes, tuple(stores)
        )

    def wait_for_this_one(self) -> bool:
        """Return whether another node is back at the meeting place, because its processes died."""
        if self._handler is None or time.monotonic() < self._asked + ASK_SECONDS:
            return False
        self._asked = time.monotonic()
        return self._handler.num_nodes_waiting() > 0

    def leave_together(self, group: ProcessGroup) -> None:
        """Wait until the processes of the other nodes are done too: the first node keeps the store that they use."""
        if group.nodes > 1:
            with suppress(RuntimeError):  # of an end of the time, or of the connection
                exchange.barrier(group.stores[0], group.nodes, "done", EXIT_SECONDS)

    def close(self) -> None:
        """End the meeting: a node that still comes learns that there is nobody."""
        if self._handler is not None:
            self._handler.shutdown()


@contextmanager
def meeting(trainer: TrainerConfig, about: Any) -> Iterator[Nodes]:
    """Give the nodes of a run, and say in one line if they do not find each other.

    Raises:
        UserError: If they do not, or cannot.
    """
    with _quiet_terminal():
        nodes = None
        try:
            nodes = Nodes(trainer, about)
            if trainer.num_nodes > 1:
                log.info("waiting for %d nodes at %s", trainer.num_nodes, trainer.rdzv_endpoint)
            yield nodes
        except RendezvousError as error:
            where = f"trainer.rdzv_endpoint={trainer.rdzv_endpoint}"
            raise UserError(
                f"{trainer.num_nodes} nodes did not meet at {where} ({type(error).__name__}); give the same command on "
                "each, and see the logs of the others"
            ) from error
        finally:
            if nodes is not None:
                nodes.close()


def _check(trainer: TrainerConfig, about: Any) -> None:
    if not trainer.rdzv_endpoint:
        raise UserError(
            f"trainer.num_nodes={trainer.num_nodes} needs trainer.rdzv_endpoint=HOST:PORT, the same on each node, "
            "where HOST is one of them and PORT is free there"
        )
    key = "hydra.sweep.dir" if about.mode == RunMode.MULTIRUN else "hydra.run.dir"
    if not any(override.startswith(f"{key}=") for override in about.overrides.hydra):
        raise UserError(
            f"trainer.num_nodes={trainer.num_nodes} needs {key}=PATH, the same on each node; "
            "by default it is named after the time, which may differ"
        )


@contextmanager
def _quiet_terminal() -> Iterator[None]:
    """Keep the rendezvous's own log to the file: on the terminal one line says what has happened."""
    engine, streams = logging.getLogger("torch.distributed"), (sys.stdout, sys.stderr)
    files = [handler for handler in logging.getLogger().handlers if getattr(handler, "stream", None) not in streams]
    terminal, engine.handlers = engine.handlers, [*files, logging.NullHandler()]
    try:
        yield
    finally:
        engine.handlers = terminal
