"""A network whose probabilities are written in the picture, and videos and cameras made of arrays."""

import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from icnet.data.labels import ClassTable
from icnet.deploy import Segmenter
from icnet.deploy.api import Model
from icnet.deploy.inference import Inference


class RedSegmenter(Segmenter):
    """The probability of its second class is a pixel's red, from 0 to 255."""

    runtime = "red"

    def open(self, path, device):
        raise NotImplementedError

    def forward(self, image):
        red = (image[:, 0].float() / 255).clamp(1e-6, 1 - 1e-6)
        return torch.stack([1 - red, red], 1).log()


class Capture:
    """What cv2.VideoCapture is, but for arrays; ``before`` is called with the number of each frame."""

    def __init__(self, frames, fps=10.0, stated=None, before=lambda number: None):
        self.frames, self.fps, self.before, self.number, self.released = frames, fps, before, 0, False
        self.stated = len(frames) if stated is None else stated

    def get(self, key):
        return {cv2.CAP_PROP_FPS: self.fps, cv2.CAP_PROP_FRAME_COUNT: self.stated}[key]

    def read(self):
        if self.number == len(self.frames):
            return False, None
        self.before(self.number)
        self.number += 1
        return True, self.frames[self.number - 1]

    def release(self):
        self.released = True


def _reds(*values, size=(64, 64)):
    """Frames (B, G, R) whose halves, left and right, are of a red each: ``_reds((0.8, 0.2), ...)``."""
    frames = []
    for left, right in values:
        frame = np.zeros((*size, 3), np.uint8)
        frame[:, : size[1] // 2, 2], frame[:, size[1] // 2 :, 2] = round(255 * left), round(255 * right)
        frames.append(frame)
    return frames


@pytest.fixture
def reds():
    return _reds


@pytest.fixture
def model() -> Model:
    segmenter = RedSegmenter(ClassTable(("dark", "red"), ((0, 0, 90), (255, 0, 0))), {}, Path("red.net"))
    return Model(segmenter, Inference(), torch.device("cpu"))


@pytest.fixture
def capture(monkeypatch):
    """Let inputs be read from arrays: ``capture({"a.mp4": frames, Camera(0): ...}, **of_capture)``."""

    def use(frames, **options):
        opened = []

        def open_(source):
            opened.append(Capture(frames[source if source in frames else source.name], **options))
            return opened[-1]

        monkeypatch.setattr("icnet.deploy.demo.frames._open", open_)
        return opened

    return use


@pytest.fixture
def played():
    """The frames of a video file, RGB."""

    def play(path):
        video, frames = cv2.VideoCapture(str(path)), []
        while (picture := video.read())[0]:
            frames.append(picture[1][..., ::-1])
        return frames

    return play


@pytest.fixture(autouse=True)
def ctrl_c():
    """Ctrl-C raises here, also where this process runs in the background of a shell, which has it ignore that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
