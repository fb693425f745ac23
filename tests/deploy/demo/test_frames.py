"""Reading images, videos and cameras."""

import cv2
import numpy as np
import pytest

from icnet.deploy.demo import Camera, find_inputs, result_names
from icnet.deploy.demo.frames import count_frames, read_frames
from icnet.errors import UserError


def test_camera_is_an_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_inputs("camera:0", tmp_path / "out") == [Camera(0)]
    assert find_inputs("camera:12", tmp_path / "out") == [Camera(12)]
    assert result_names([Camera(12)]) == ["camera_12"]
    for given in ("camera:", "camera:x", "camera:-1", "camera:99999999999", "camera:²"):
        with pytest.raises(UserError, match=r"^input=camera:.* is no camera; give its number, such as input=camera:0$"):
            find_inputs(given, tmp_path / "out")
    (tmp_path / "camera:1").touch()
    assert [str(path) for path in find_inputs("camera:1", tmp_path / "out")] == ["camera:1"]


def test_missing_camera_is_told_in_one_line(capfd):
    with pytest.raises(UserError, match=r"^input=camera:9876 is not there or in use by another program; connect it"):
        next(read_frames(Camera(9876)))
    assert capfd.readouterr() == ("", "")


def test_camera_gives_frames_with_their_time(capture, reds, monkeypatch):
    clock = iter([50.0, 50.25, 51.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    (opened,) = [capture({Camera(0): reds((0.2, 0.4), (0.6, 0.8), (1, 0), (0, 0))}, fps=0.0)]
    frames = list(read_frames(Camera(0), limit=3))
    assert [frame.seconds for frame in frames] == [0.0, 0.25, 1.0]
    assert [frame.number for frame in frames] == [0, 1, 2]
    assert {frame.fps for frame in frames} == {25.0}  # it doesn't say
    assert [frame.image[0, 0].tolist() for frame in frames] == [[51, 0, 0], [153, 0, 0], [255, 0, 0]]  # RGB
    assert opened[0].released
    assert count_frames(Camera(0), 3) == 3
    assert count_frames(Camera(0)) is None


def test_camera_that_fails_is_told_after_its_frames(capture, reds):
    capture({Camera(0): reds((0, 0), (1, 1))})
    frames = read_frames(Camera(0))
    assert [next(frames).number, next(frames).number] == [0, 1]
    with pytest.raises(UserError, match=r"^camera:0 gave no more pictures after 2 frames"):
        next(frames)


def test_video_that_ends_early_is_told(capture, reds, tmp_path, caplog):
    capture({"a.mp4": reds((0, 0), (1, 1))}, stated=5)
    path = tmp_path / "a.mp4"
    assert [frame.fps for frame in read_frames(path)] == [10.0, 10.0]
    assert [record.message for record in caplog.records] == [f"{path} says that it has 5 frames; 2 could be read"]
    assert len(list(read_frames(path, limit=2))) == 2
    assert (count_frames(path), count_frames(path, 3)) == (5, 3)
    assert len(caplog.records) == 1


def test_image_is_one_frame(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((3, 4, 3), (10, 20, 30), np.uint8))
    (frame,) = read_frames(tmp_path / "a.png", limit=5)
    assert frame.image.tolist() == [[[30, 20, 10]] * 4] * 3
    assert (frame.fps, frame.seconds, count_frames(tmp_path / "a.png")) == (0, None, 1)
