"""Validation within a training: whole images, of any size."""

import pytest
import torch
from torch import nn

from icnet.data.labels import ClassTable
from icnet.deploy.inference import Inference
from icnet.models import SegmentationNetwork
from icnet.training.losses import CascadeLoss
from icnet.training.segmentation_task import SegmentationTask

CLASSES = ClassTable(("dark", "bright", "red"), ((0, 0, 0), (255, 255, 255), (255, 0, 0)))


class Quartered(SegmentationNetwork):
    """Takes sides that are multiples of 4, from 32 on, and notes the sizes it was given."""

    min_side = 32
    divisor = 4
    loss_weights = {"main": 1.0}

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.conv = nn.Conv2d(3, num_classes, 4, stride=4)
        self.sizes: list[tuple[int, int]] = []

    def forward(self, image):
        self.check_size(image)
        self.sizes.append(tuple(image.shape[2:]))
        return nn.functional.interpolate(self.conv(image), image.shape[2:])


class Segment:
    """The task as an evaluation sees a model."""

    min_side, divisor = Quartered.min_side, Quartered.divisor

    def __init__(self, task: SegmentationTask) -> None:
        self.task = task

    def __call__(self, image):
        return self.task(image)


@pytest.fixture
def task():
    torch.manual_seed(0)
    return SegmentationTask(
        Quartered(3), CascadeLoss({"main": 1.0}, ignore_index=255, resize="nearest"), CLASSES, lambda task: None, {}
    ).eval()


@pytest.mark.parametrize(
    ("size", "taken"), [((63, 63), (64, 64)), ((30, 65), (32, 72)), ((16, 40), (32, 80)), ((64, 36), (64, 36))]
)
def test_image_is_enlarged_for_the_network_as_in_an_evaluation(task, size, taken):
    image = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    mask = torch.randint(0, 3, (2, *size), dtype=torch.uint8)
    preds = task.validation_step({"image": image, "mask": mask, "index": torch.arange(2)}, 0)
    assert task.net.sizes == [taken]
    assert torch.equal(preds, Inference()(Segment(task), image).argmax(1))
    assert task.metrics.compute()["confusion"].sum() == mask.numel()
