"""Augmentation on an NPU: the CPU's values, and nothing that the host would wait for; run in the simulation."""

import random

import numpy as np
import torch

from icnet import npu
from icnet.data.device_augmentation import Windows, WindowTransform, collate_windows, finish
from icnet.data.transforms import TrainTransform
from tests.npu.inside.check_step import DATA_DEPENDENT, Record


def test_augmented_batch_is_the_cpus_and_nobody_waits_for_it():
    npu.load()
    transform = WindowTransform(TrainTransform((40, 48), (20, 90), blur=1.0, color_jitter=0.3))
    samples = []
    for index, shape in enumerate([(50, 60), (33, 70), (9, 12)]):
        generator = np.random.default_rng(index)
        transform.set_random_state(generator, random.Random(index))
        image, mask = generator.integers(0, 256, (*shape, 3), np.uint8), generator.integers(0, 19, shape, np.uint8)
        samples.append({**transform(image=image, mask=mask), "name": "", "index": index})
    batch = collate_windows(samples)
    expected = finish(batch)
    there = {**batch, "windows": Windows(*(tensor.to("npu:0") for tensor in batch["windows"]))}
    with Record() as record:
        finished = finish(there)
    assert finished["image"].device == torch.device("npu", 0)
    assert torch.equal(finished["image"].cpu(), expected["image"])
    assert torch.equal(finished["mask"].cpu(), expected["mask"])
    assert {name for name, _, _ in record.calls} & DATA_DEPENDENT == set()
    tensors = [tensor for _, given, returned in record.calls for tensor in (*given, *returned)]
    assert {tensor.device.type for tensor in tensors if tensor.dim()} == {"npu"}
    assert not {tensor.dtype for tensor in tensors} & {torch.float64}
