"""Order, sharding and resuming of the loaders."""

import logging
import random
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, OnExceptionCheckpoint

from icnet.data.datamodule import EpochSampler, SegmentationDataModule, collate
from icnet.data.dataset import SegmentationDataset
from icnet.data.device_augmentation import WindowTransform
from icnet.data.packed import PackedSamples, SamplesInMemory
from icnet.data.transforms import TrainTransform
from icnet.errors import UserError
from icnet.training.callbacks.last_checkpoint import LastCheckpoint

MakeDataset = Callable[..., SegmentationDataset]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")  # its advice on workers and folders

SAMPLES, BATCH = 11, 2
STEPS = SAMPLES // BATCH  # per epoch


def _fake_trainer(rank: int, world_size: int) -> Any:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    return SimpleNamespace(global_rank=rank, world_size=world_size, strategy=strategy)


def _module(train: SegmentationDataset, *, workers: int = 0, **arguments: Any) -> SegmentationDataModule:
    return SegmentationDataModule(train, train, batch_size=BATCH, workers=workers, seed=3, **arguments)


# Order


def test_order_differs_by_epoch_and_seed_and_repeats() -> None:
    def order(seed: int, epoch: int) -> list[tuple[int, int]]:
        sampler = EpochSampler(20, seed)
        sampler.seek(epoch)
        return list(sampler)

    assert order(1, 2) == order(1, 2)
    indices = [tuple(index for index, _ in order(*key)) for key in ((1, 1), (1, 2), (2, 1), (2, 2))]
    assert len(set(indices)) == 4
    assert all(sorted(each) == list(range(20)) for each in indices)
    assert {epoch for _, epoch in order(1, 7)} == {7}


@pytest.mark.parametrize("world_size", [2, 3])
def test_training_shards_are_equal_and_disjoint(world_size: int) -> None:
    whole = list(EpochSampler(11, 1))
    shards = [list(EpochSampler(11, 1, rank, world_size)) for rank in range(world_size)]
    assert {len(shard) for shard in shards} == {11 // world_size}
    together = [key for shard in shards for key in shard]
    assert set(together) == set(whole[: len(together)])
    assert len(set(together)) == len(together)


def test_sampler_passes_over_what_is_done() -> None:
    sampler = EpochSampler(11, 1)
    sampler.seek(4)
    whole = list(sampler)
    sampler.seek(4, 6)
    assert list(sampler) == whole[6:]
    assert len(sampler) == 11


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_have_contract_and_fixed_shape(make_dataset: MakeDataset, workers: int) -> None:
    module = _module(make_dataset(SAMPLES, transform=TrainTransform((16, 24), (16, 40))), workers=workers)
    batches = list(module.train_dataloader())
    assert len(batches) == STEPS == len(module.train_dataloader())
    for batch in batches:
        assert (batch["image"].dtype, batch["image"].shape) == (torch.uint8, (BATCH, 3, 16, 24))
        assert (batch["mask"].dtype, batch["mask"].shape) == (torch.uint8, (BATCH, 16, 24))
        assert batch["name"] == [f"frame{index:03d}" for index in batch["index"].tolist()]


def test_samples_do_not_depend_on_worker_count(make_dataset: MakeDataset) -> None:
    train = make_dataset(SAMPLES, transform=TrainTransform((16, 24), (16, 40), color_jitter=0.2), seed=8)
    none, two = (list(_module(train, workers=workers).train_dataloader()) for workers in (0, 2))
    for one, other in zip(none, two, strict=True):
        assert one["name"] == other["name"]
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["mask"], other["mask"])


def test_loading_leaves_global_generator_alone(make_dataset: MakeDataset) -> None:
    before = torch.get_rng_state()
    module = _module(make_dataset(4))
    list(module.train_dataloader())
    list(module.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


# Validation


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_shards_cover_each_image_once(make_dataset: MakeDataset, world_size: int) -> None:
    module = _module(make_dataset(7), eval_batch_size=2)
    seen: list[int] = []
    for rank in range(world_size):
        module.trainer = _fake_trainer(rank, world_size)
        shard = [index for batch in module.val_dataloader() for index in batch["index"].tolist()]
        assert shard == list(range(rank, 7, world_size))
        seen += shard
    assert sorted(seen) == list(range(7))


def test_fewer_images_than_ranks_are_refused(make_dataset: MakeDataset) -> None:
    module = _module(make_dataset(2, title="street (val)"))
    module.trainer = _fake_trainer(0, 3)
    with pytest.raises(UserError, match=r"street \(val\) has 2 images for 3 devices; lower trainer.devices"):
        module.val_dataloader()


def test_images_of_different_size_name_both_and_key(make_dataset: MakeDataset) -> None:
    small, large = make_dataset(1, (8, 16))[0], make_dataset(2, (10, 20))[1]
    with pytest.raises(UserError, match=r"frame000 is 16x8 and frame001 is 20x10; set data.eval_batch_size=1"):
        collate([small, large])


# Errors


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 5), (2, 3), (4, 1)])
def test_too_few_samples_name_counts_and_keys(make_dataset: MakeDataset, world_size: int, batch_size: int) -> None:
    train = make_dataset(3 if world_size == 4 else 4, title="street (train)")
    module = SegmentationDataModule(train, train, batch_size=batch_size)
    module.trainer = _fake_trainer(0, world_size)
    with pytest.raises(UserError) as caught:
        module.train_dataloader()
    for word in ("street (train)", f"{len(train)} samples", str(batch_size), "trainer.batch_size"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("loader", "workers"), [("train_dataloader", 0), ("val_dataloader", 0), ("train_dataloader", 1)]
)
def test_damaged_file_is_one_line_from_workers_too(make_dataset: MakeDataset, loader: str, workers: int) -> None:
    train = make_dataset(2)
    path = train.samples[1].image
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError) as caught:
        list(getattr(_module(train, workers=workers), loader)())
    assert str(caught.value).startswith(f"{path} is truncated")
    assert "\n" not in str(caught.value)


def test_module_without_training_set_only_evaluates(make_dataset: MakeDataset) -> None:
    val = make_dataset(2)
    module = SegmentationDataModule(None, val, batch_size=1, workers=0)
    assert len(list(module.test_dataloader())) == 2
    assert module.classes is val.classes
    with pytest.raises(ValueError, match="without a training set"):
        module.train_dataloader()


def test_worker_keys_are_left_out_without_workers(make_dataset: MakeDataset) -> None:
    loader = _module(make_dataset(2), workers=0, prefetch_factor=4).val_dataloader()
    assert (loader.num_workers, loader.persistent_workers, loader.prefetch_factor) == (0, False, None)
    assert not loader.pin_memory  # no accelerator
    loader = _module(make_dataset(2), workers=1, prefetch_factor=4).val_dataloader()
    assert (loader.num_workers, loader.persistent_workers, loader.prefetch_factor) == (1, True, 4)


# Threads


class _Threads:
    """An augmentation whose images tell how many threads OpenCV and PyTorch use where it runs."""

    def set_random_state(self, generator: np.random.Generator, shared: random.Random) -> None:
        pass

    def __call__(self, *, image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        counts = np.array([cv2.getNumThreads(), torch.get_num_threads(), 0], np.uint8)
        return {"image": np.tile(counts, (2, 2, 1)), "mask": mask[:2, :2]}


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(7)
    torch.set_num_threads(3)
    yield
    cv2.setNumThreads(before[0])
    torch.set_num_threads(before[1])


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize(("workers", "threads"), [(0, 3), (2, 1)])
def test_who_loads_takes_no_more_threads_than_it_says(
    make_dataset: MakeDataset, caplog: pytest.LogCaptureFixture, workers: int, threads: int
) -> None:
    caplog.set_level(logging.INFO)
    module = _module(make_dataset(4, transform=_Threads()), workers=workers)
    module.setup("fit")
    for batch in module.train_dataloader():
        assert batch["image"][0, :2, 0, 0].tolist() == [threads, threads]
    if workers:
        told = r"data\.workers=2: 2 processes load for 1 device\(s\), with 1 thread each, as .* 3 thread\(s\) of each"
    else:
        told = r"data\.workers=0: this process loads by itself, between its steps, with its 3 thread\(s\)"
    assert re.search(told, caplog.text)


def test_more_loaders_than_cores_are_pointed_out(make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icnet.data.datamodule._cores", lambda: 8)
    module = _module(make_dataset(2), workers=4)
    assert "8 processes load for 2 device(s)" in module.loading(2)
    assert "more than 8" not in module.loading(2)
    assert module.loading(3).endswith("; more than 8 at once only help where files come slowly")


# Resuming


class _Recorder(pl.LightningModule):
    """Notes what it is trained on."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.fail_at = fail_at
        self.trained: list[tuple[list[str], int]] = []
        self.batch_indices: list[int] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        if self.fail_at is not None and self.global_step == self.fail_at:
            raise RuntimeError("the machine stops")
        self.trained.append((batch["name"], int(batch["image"].sum())))
        self.batch_indices.append(batch_idx)
        return self.weight.sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def _fit(
    data: SegmentationDataModule,
    folder: Path,
    callbacks: list[Callback] | None = None,
    fail_at: int | None = None,
    resume: Path | None = None,
    **limits: Any,
) -> _Recorder:
    model = _Recorder(fail_at)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[*(callbacks or []), LastCheckpoint(folder / "last.ckpt")],  # as every run has
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **limits,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not resumable.*")
        trainer.fit(model, datamodule=data, ckpt_path=resume)
    return model


EPOCHS = {"max_epochs": 4}
BY_STEPS = {"max_epochs": -1, "max_steps": 4 * STEPS}
SHORT = {"max_epochs": 4, "limit_train_batches": 3}


@pytest.mark.parametrize(
    ("limits", "saving", "step", "workers"),
    [
        (EPOCHS, {"every_n_train_steps": 3}, 3, 0),
        (EPOCHS, {"every_n_train_steps": 3}, 9, 2),  # in the second epoch
        (EPOCHS, {"every_n_train_steps": STEPS}, STEPS, 0),  # after the last batch, before its validation
        (EPOCHS, {"every_n_epochs": 1, "save_on_train_epoch_end": True}, STEPS, 2),
        (EPOCHS, {"every_n_epochs": 1, "save_on_train_epoch_end": False}, STEPS, 2),  # after validation
        (BY_STEPS, {"every_n_train_steps": 3}, 9, 0),
        (BY_STEPS, {"every_n_epochs": 1, "save_on_train_epoch_end": True}, STEPS, 2),
        (BY_STEPS, {"every_n_epochs": 1, "save_on_train_epoch_end": False}, 2 * STEPS, 0),
        (SHORT, {"every_n_train_steps": 4}, 4, 0),
        (SHORT, {"every_n_epochs": 1, "save_on_train_epoch_end": True}, 6, 0),
    ],
)
def test_resumed_run_sees_the_rest_of_the_uninterrupted_one(
    make_dataset: MakeDataset, tmp_path: Path, limits: dict, saving: dict, step: int, workers: int
) -> None:
    train = make_dataset(SAMPLES, transform=TrainTransform((16, 16), (16, 32)))
    saver = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, **saving)
    whole = _fit(_module(train, workers=workers), tmp_path, [saver], **limits)
    per_epoch = limits.get("limit_train_batches", STEPS)
    assert whole.batch_indices == list(range(per_epoch)) * 4

    resumed = _fit(_module(train, workers=workers), tmp_path, resume=tmp_path / f"step={step}.ckpt", **limits)
    assert resumed.trained == whole.trained[step:]
    assert resumed.batch_indices == whole.batch_indices[step:]


@pytest.mark.parametrize("workers", [0, 2])
def test_run_that_broke_off_inside_a_step_resumes_with_that_step(
    make_dataset: MakeDataset, tmp_path: Path, workers: int
) -> None:
    train = make_dataset(SAMPLES, transform=TrainTransform((16, 16), (16, 32)))
    whole = _fit(_module(train), tmp_path, **EPOCHS)
    saver = OnExceptionCheckpoint(tmp_path)
    with pytest.raises(RuntimeError, match="the machine stops"):
        _fit(_module(train, workers=workers), tmp_path, [saver], fail_at=7, **EPOCHS)
    resumed = _fit(_module(train, workers=workers), tmp_path, resume=tmp_path / "on_exception.ckpt", **EPOCHS)
    assert resumed.trained == whole.trained[7:]


@pytest.mark.parametrize("kind", ["packed", "memory"])
def test_run_resumed_inside_an_epoch_from_decoded_samples_sees_the_rest_of_one_from_files(
    make_dataset: MakeDataset, tmp_path: Path, kind: str
) -> None:
    plain, cached = (make_dataset(SAMPLES, transform=TrainTransform((16, 16), (16, 32))) for _ in range(2))
    args = cached.samples, cached.decode
    if kind == "packed":
        cached.cache = PackedSamples(tmp_path / "packed", *args, cached.coding, "toys")
    else:
        cached.cache = SamplesInMemory(*args, "toys")
    saver = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=3)
    whole = _fit(_module(plain), tmp_path, [saver], **EPOCHS)
    resumed = _fit(_module(cached, workers=2), tmp_path, resume=tmp_path / "step=3.ckpt", **EPOCHS)
    assert resumed.trained == whole.trained[3:]


@pytest.mark.parametrize(("workers", "accumulate"), [(0, 1), (2, 2)])
def test_augmented_on_the_device_a_run_sees_the_same_and_resumes_inside_an_epoch(
    make_dataset: MakeDataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    workers: int,
    accumulate: int,
) -> None:
    host, device = (
        make_dataset(SAMPLES, transform=transform)
        for transform in (TrainTransform((16, 16), (16, 32)), WindowTransform(TrainTransform((16, 16), (16, 32))))
    )
    saver = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=2)
    limits = {"accumulate_grad_batches": accumulate, **EPOCHS}
    whole = _fit(_module(device, workers=workers), tmp_path, [saver], **limits)
    like = _fit(_module(host), tmp_path, **limits)
    assert [names for names, _ in whole.trained] == [names for names, _ in like.trained]
    for (_, ours), (_, theirs) in zip(whole.trained, like.trained, strict=True):
        assert abs(ours - theirs) <= 2 * BATCH * 3 * 16 * 16  # grey levels

    resumed = _fit(_module(device, workers=workers), tmp_path, resume=tmp_path / "step=2.ckpt", **limits)
    assert resumed.trained == whole.trained[2 * accumulate :]
    assert caplog.text.count("takes longer than host where the device is a CPU") == 2  # as it is in the two runs


def test_no_sample_repeats_within_an_epoch(make_dataset: MakeDataset, tmp_path: Path) -> None:
    model = _fit(_module(make_dataset(SAMPLES)), tmp_path, **EPOCHS)
    epochs = [model.trained[start : start + STEPS] for start in range(0, 4 * STEPS, STEPS)]
    names = [[name for batch, _ in epoch for name in batch] for epoch in epochs]
    assert all(len(set(each)) == STEPS * BATCH for each in names)
    assert len({tuple(each) for each in names}) == 4


def test_resume_with_other_batch_size_warns(make_dataset: MakeDataset, tmp_path: Path) -> None:
    train = make_dataset(SAMPLES)
    saver = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=3)
    _fit(_module(train), tmp_path, [saver], max_epochs=1)
    other = SegmentationDataModule(train, train, batch_size=1, workers=0, seed=3)
    with pytest.warns(UserWarning, match="batch_size was 2, is 1"):
        _fit(other, tmp_path, resume=tmp_path / "step=3.ckpt", max_epochs=1)
