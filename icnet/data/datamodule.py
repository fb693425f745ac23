"""Loading in batches, over several devices, resumable in the middle of an epoch."""

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Sampler, default_collate
from typing_extensions import override

from icnet.data.dataset import SegmentationDataset
from icnet.data.device_augmentation import WindowTransform, collate_windows, finish
from icnet.data.labels import ClassTable
from icnet.errors import UserError

log = logging.getLogger(__name__)


class EpochSampler(Sampler[tuple[int, int]]):
    """This rank's share of a shuffled epoch, as (index, epoch) keys.

    The order is a function of (seed, epoch) alone. Every rank gets the same number of samples: the last few of the
    order are left out if they do not go round.

    Args:
        samples: Number of samples in the data set.
        seed: Seed of the order.
        rank: This process among ``world_size``.
        world_size: Number of processes.
    """

    def __init__(self, samples: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.samples = samples
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.done = 0

    def seek(self, epoch: int, done: int = 0) -> None:
        """Choose the epoch and how many of this rank's samples to pass over; holds from the next ``iter`` on."""
        # Not called set_epoch: Lightning would call that after the workers have begun to load (seen in 2.6.6).
        self.epoch, self.done = epoch, done

    def __len__(self) -> int:
        """Return this rank's number of samples in a whole epoch."""
        return self.samples // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield the keys of what is left of the epoch."""
        # Mixed, so that seed 1 in epoch 2 and seed 2 in epoch 1 differ.
        mixed = int(np.random.SeedSequence((self.seed, self.epoch)).generate_state(1)[0])
        generator = torch.Generator().manual_seed(mixed)
        order = torch.randperm(self.samples, generator=generator)[: len(self) * self.world_size]
        epoch = self.epoch
        return iter([(index, epoch) for index in order[self.rank :: self.world_size][self.done :].tolist()])


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack samples to a batch.

    Returns:
        ``image`` (N, 3, H, W) uint8, ``mask`` (N, H, W) uint8, ``name`` list of str, ``index`` (N,) int64; of samples
        that the device augments, see ``icnet.data.device_augmentation``.

    Raises:
        UserError: The images differ in size.
    """
    first = samples[0]
    if "window" in first:
        return collate_windows(samples)
    for other in samples[1:]:
        if other["image"].shape != first["image"].shape:
            sizes = [f"{s['name']} is {s['image'].shape[2]}x{s['image'].shape[1]}" for s in (first, other)]
            raise UserError(
                f"images of one batch differ in size (width x height): {' and '.join(sizes)}; "
                "set data.eval_batch_size=1"
            )
    return default_collate(list(samples))


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_worker(_: int) -> None:
    """Keep each loader process to one thread (the processes are the parallelism) and let it be ended."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    # Lightning's handler, which a forked worker inherits, notes SIGTERM and goes on: the worker could not be ended.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Loader(DataLoader):
    """A DataLoader whose user errors stay one line when they come from a worker process."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return self._with_plain_errors(super().__iter__())

    @staticmethod
    def _with_plain_errors(batches: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from batches
        except UserError as error:
            # A worker's error arrives with the worker's traceback as its message; the last line is the message.
            raise UserError(str(error).rstrip().rsplit("\n", 1)[-1].rpartition("UserError: ")[2]) from None


class _TrainLoader(_Loader):
    """Starts each iteration at the epoch and batch where the trainer stands, though ``len`` stays that of an epoch.

    ``state_dict`` and ``load_state_dict`` tell Lightning that the loader resumes in mid-epoch. The position itself is
    in Lightning's loop counters, which the checkpoint holds anyway and which count trained, not prefetched, batches.
    """

    position: Callable[[], tuple[int, int]]

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        epoch, batches = self.position()
        self.sampler.seek(epoch, batches * self.batch_size)  # type: ignore[attr-defined, operator]
        return super().__iter__()

    def state_dict(self) -> dict[str, int]:
        """Return what the order of samples depends on."""
        sampler: Any = self.sampler
        return {
            "samples": sampler.samples,
            "seed": sampler.seed,
            "world_size": sampler.world_size,
            "batch_size": self.batch_size or 1,
        }

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Warn if the interrupted run would have gone on with other samples; called on a resume in mid-epoch only."""
        now = self.state_dict()
        changed = [f"{key} was {state_dict.get(key)}, is {now[key]}" for key in now if state_dict.get(key) != now[key]]
        if changed:
            rank_zero_warn(
                f"resuming inside an epoch with other data loading ({'; '.join(changed)}): some samples of this epoch "
                "may come twice or not at all"
            )


class SegmentationDataModule(pl.LightningDataModule):
    """Loaders for training and validation.

    Sharding over devices is done here (build the Trainer with ``use_distributed_sampler=False``): training shards have
    equal length, validation shards hold every image exactly once.

    Args:
        train: Training set, or None if there is nothing to train.
        val: Validation set.
        batch_size: Training samples per device and step.
        eval_batch_size: Validation images per device and step.
        workers: Loader processes per device and loader; 0 = load in the training process.
        pin_memory: Page-lock batches; only where an accelerator is.
        persistent_workers: Keep worker processes from epoch to epoch.
        prefetch_factor: Batches that each worker loads ahead.
        seed: Seed of the training order.
    """

    def __init__(
        self,
        train: SegmentationDataset | None,
        val: SegmentationDataset,
        *,
        batch_size: int,
        eval_batch_size: int = 1,
        workers: int = 4,
        pin_memory: bool = True,
        persistent_workers: bool = True,
        prefetch_factor: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.train = train
        self.val = val
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.workers = workers
        self.pin_memory = pin_memory
        self.persistent_workers = persistent_workers
        self.prefetch_factor = prefetch_factor
        self.seed = seed

    @property
    def classes(self) -> ClassTable:
        """The classes of the validation set."""
        return self.val.classes

    @override
    def setup(self, stage: str) -> None:
        """Decode what is cached, in the first process that comes, while the others wait; say who loads with how much.

        Raises:
            UserError: A sample cannot be used, or there is not enough room.
        """
        for dataset in (self.train if stage == "fit" else None, self.val):
            if dataset is not None and dataset.cache is not None:
                dataset.cache.pack(_cores())
        if not self.workers:
            cv2.setNumThreads(torch.get_num_threads())  # this process's share of the cores; they take turns
        if stage == "fit":
            log.info("%s", self.loading(1 if self.trainer is None else self.trainer.num_devices))
            if isinstance(getattr(self.train, "transform", None), WindowTransform) and not self._on_accelerator():
                log.warning("data.augment_on=device takes longer than host where the device is a CPU, as it is here")

    def loading(self, devices: int) -> str:
        """Say which processes load with how many threads, and why so many.

        Args:
            devices: How many train on this machine.
        """
        cores, threads = _cores(), torch.get_num_threads()
        if not self.workers:
            return f"data.workers=0: this process loads by itself, between its steps, with its {threads} thread(s)"
        processes = self.workers * devices
        crowded = f"; more than {cores} at once only help where files come slowly" if processes > cores else ""
        return (
            f"data.workers={self.workers}: {processes} processes load for {devices} device(s), with 1 thread each, as "
            f"they share {cores} core(s) with each other and with {threads} thread(s) of each training process{crowded}"
        )

    @override
    def train_dataloader(self) -> DataLoader:
        """Return this rank's training loader: shuffled, batches of equal size.

        Raises:
            UserError: There are not enough samples for one step.
        """
        if self.train is None:
            raise ValueError("this data module was built without a training set")
        rank, world_size = self._rank_and_world_size()
        if len(self.train) < self.batch_size * world_size:
            raise UserError(
                f"{self.train.title} has {len(self.train)} samples but one step takes {self.batch_size} on each of "
                f"{world_size} device(s); lower trainer.batch_size or trainer.devices"
            )
        sampler = EpochSampler(len(self.train), self.seed, rank, world_size)
        loader = _TrainLoader(
            self.train, batch_size=self.batch_size, sampler=sampler, drop_last=True, **self._loader_options()
        )
        loader.position = self._position
        return loader

    @override
    def val_dataloader(self) -> DataLoader:
        """Return this rank's validation loader: in order, every image on exactly one rank.

        Raises:
            UserError: There are fewer images than ranks.
        """
        rank, world_size = self._rank_and_world_size()
        if len(self.val) < world_size:  # a rank without a batch would leave the others waiting
            raise UserError(
                f"{self.val.title} has {len(self.val)} images for {world_size} devices; lower trainer.devices"
            )
        shard = range(rank, len(self.val), world_size)
        return _Loader(self.val, batch_size=self.eval_batch_size, sampler=shard, **self._loader_options())

    @override
    def test_dataloader(self) -> DataLoader:
        return self.val_dataloader()

    @override
    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        return finish(batch)

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _loader_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "collate_fn": collate,
            "num_workers": self.workers,
            "pin_memory": self.pin_memory and self._on_accelerator(),
            # Its own, because loaders draw worker seeds and would move the global generator with every epoch.
            "generator": torch.Generator().manual_seed(self.seed),
        }
        if self.workers:
            options |= {
                "worker_init_fn": start_worker,
                "persistent_workers": self.persistent_workers,
                "prefetch_factor": self.prefetch_factor,
            }
        return options

    def _on_accelerator(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type != "cpu"

    def _position(self) -> tuple[int, int]:
        """Return the epoch to train and how many of its batches are done, from Lightning's counters.

        They are exact on a resume too, where the run has ``LastCheckpoint`` among its callbacks, as every run has.
        """
        if self.trainer is None:
            return 0, 0
        loop = self.trainer.fit_loop
        progress: Any = loop.epoch_loop.batch_progress  # Lightning types its counters too narrowly
        # Until the first batch after a resume, `current` counts the interrupted epoch; otherwise that of the last one.
        return self.trainer.current_epoch, progress.current.processed if loop.restarting else 0
