"""Saving when a run is asked to stop."""

import logging
import signal
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import distributed
from typing_extensions import override

log = logging.getLogger(__name__)

HEEDED = (signal.SIGTERM, signal.SIGINT)
DEVICES_ASK = {"npu"}
"""Where ranks can only talk by way of their devices: torch_npu 2.13 makes no gloo group beside one bound to NPUs."""


class CheckpointOnSignal(Callback):
    """Save ``last.ckpt`` when SIGTERM or Ctrl-C ends the run in training, with exit status 143 or 130.

    In the middle of a validation nothing is saved: half-counted scores could not be continued. The last checkpoint
    then is that of the epoch before, and a resumed run trains the epoch again, to the same weights.

    The handler only takes a note, and the run ends after a whole optimizer step: neither half-accumulated gradients nor
    half-updated weights are in any checkpoint. A second Ctrl-C does not wait, and saves nothing. Several processes get
    the signal at different places, so after each step they ask each other for a note, from host to host (but on NPUs),
    so that no device has to finish first; Lightning's handler would send a message from where the others may be waiting
    for gradients, and wait for ever.

    Args:
        path: ``last.ckpt``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._asked: int | None = None  # the signal's number
        self._stop = False  # agreed on by all ranks
        self._handlers: dict[signal.Signals, Any] = {}  # those before ours
        self._hosts: Any = None  # the group in which they ask; None for the one that there is
        self._hosts_ask = False  # from host to host, rather than by way of the devices

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning has registered its own handler just before. A signal that is ignored, as nohup has it, stays so.
        for number in HEEDED:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._note)
        self._hosts_ask = trainer.world_size > 1 and pl_module.device.type not in DEVICES_ASK
        if self._hosts_ask:
            self._hosts = None if distributed.get_backend() == "gloo" else distributed.new_group(backend="gloo")
            # Lightning asks too, by way of the devices and before every batch; its handler, which this is about, is not
            # there any more.
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _ask_nobody  # type: ignore[method-assign]

    def _note(self, number: int, frame: Any) -> None:
        if self._asked == number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = number

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch:
            if trainer.world_size > 1:  # the validation that follows would count the ranks' shares
                return
        elif (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        asked = self._asked is not None
        if self._hosts_ask:
            votes = torch.tensor(int(asked))
            distributed.all_reduce(votes, distributed.ReduceOp.MAX, self._hosts)
            asked = bool(votes)
        elif trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        self._stop = asked

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._stop:  # the step before is accounted for, in the loggers too
            raise self._request()

    @override
    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if self._asked is not None:  # there is nothing to save, so nothing to agree on
            raise self._request()

    def _request(self) -> SIGTERMException:
        request = SIGTERMException()
        request.code = 128 + (self._asked or signal.SIGTERM)  # without it the run would look finished
        return request

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._give_back()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._give_back()
        if not isinstance(exception, (SIGTERMException, KeyboardInterrupt)):
            return
        if isinstance(exception, SIGTERMException):
            exception.code = exception.code or 128 + signal.SIGTERM  # Lightning's own, from before the training began
            if trainer.training:
                trainer.save_checkpoint(self.path, weights_only=False)
        if self.path.exists():
            log.warning("stopped at step %d; resume with resume=%s", trainer.global_step, self.path)
        else:
            log.warning("stopped before there was a checkpoint")

    def _give_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


def _ask_nobody() -> None:
    pass
