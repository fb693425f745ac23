"""Videos play however their writing ends."""

import resource
import shutil
from collections import namedtuple
from contextlib import contextmanager

import numpy as np
import pytest

from icnet.deploy.demo.video_file import RESERVE, VideoFile
from icnet.errors import UserError

SIZE = (240, 320)


@contextmanager
def full_disk(size):
    """Let no file grow beyond a number of bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill(video, noise):
    for i in range(1000):
        video.write(noise[i % 8])


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 256, (8, *SIZE, 3), np.uint8)


def test_video_holds_what_was_written(tmp_path, played):
    video = VideoFile(tmp_path / "a.mp4", 12.0, SIZE)
    for value in (40, 120, 200):
        video.write(np.full((*SIZE, 3), (value, 90, 30), np.uint8))
    video.finish()
    frames = played(tmp_path / "a.mp4")
    assert len(frames) == 3
    for frame, value in zip(frames, (40, 120, 200), strict=True):
        assert np.abs(frame.mean((0, 1)) - (value, 90, 30)).max() < 4


def test_frames_of_a_camera_are_repeated_until_their_time(tmp_path, played):
    """At 10 frames per second: the second 0.1 s later, a third at 0.52 s, and one that comes early."""
    video, counts = VideoFile(tmp_path / "a.mp4", 10.0, SIZE), []
    for seconds in (0.0, 0.1, 0.52, 0.53):
        video.write(np.zeros((*SIZE, 3), np.uint8), seconds)
        counts.append(video.frames)
    video.finish()
    assert counts == [1, 2, 6, 7]
    assert len(played(tmp_path / "a.mp4")) == 7


def test_full_disk_is_told_while_what_was_written_plays(tmp_path, played, noise):
    path = tmp_path / "a.mp4"
    with full_disk(RESERVE + 800_000):
        video = VideoFile(path, 25.0, SIZE)
        with pytest.raises(UserError, match=r"a\.mp4 has no room on its disk for more than the \d+ frames .*make room"):
            fill(video, noise)
        video.close()
    assert 5 < video.frames < 1000
    assert len(played(path)) == video.frames
    assert path.stat().st_size < RESERVE + 800_000


def test_disk_that_others_fill_is_noticed(tmp_path, played, noise, monkeypatch):
    usage = namedtuple("usage", "free")
    video = VideoFile(tmp_path / "a.mp4", 25.0, SIZE)
    video.write(noise[0])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(RESERVE))
    with pytest.raises(UserError, match="no room"):
        video.write(noise[1])
    video.close()
    assert len(played(tmp_path / "a.mp4")) == 1


def test_no_room_from_the_beginning_leaves_no_file(tmp_path):
    with full_disk(1 << 10), pytest.raises(UserError, match=r"a\.mp4 has no room on its disk for a video; make room"):
        VideoFile(tmp_path / "a.mp4", 25.0, SIZE)
    VideoFile(tmp_path / "b.mp4", 25.0, SIZE).close()
    assert list(tmp_path.iterdir()) == []


def test_file_that_is_not_whole_is_never_taken_for_one(tmp_path, noise, monkeypatch):
    """Over a quota, which nothing tells before."""
    monkeypatch.setattr(VideoFile, "_check_room", lambda self: None)
    with full_disk(300_000):
        video = VideoFile(tmp_path / "a.mp4", 25.0, SIZE)
        for i in range(40):
            video.write(noise[i % 8])
        with pytest.raises(UserError, match=r"a\.mp4 could not be written whole \(0 of 40 frames\); make room"):
            video.finish()
