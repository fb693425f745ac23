"""The demo as a whole on a network whose probabilities are known."""

import csv
import re
import resource
from _thread import interrupt_main

import cv2
import numpy as np
import pytest

from icnet.deploy.demo import Camera, Demo
from icnet.deploy.demo.video_file import RESERVE
from icnet.deploy.inference import Inference
from icnet.errors import UserError


def write_reds(path, *values, reds):
    (frame,) = reds(values)
    path.parent.mkdir(exist_ok=True)
    assert cv2.imwrite(str(path), frame)
    return path


def tints(frames):
    """Which class tints each half of frames drawn with alpha=1: ``(left, right)``."""
    return [tuple(int(frame[32, column, 0] > 128) for column in (16, 48)) for frame in frames]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------- videos and cameras


def test_frames_keep_their_order_and_number(model, reds, capture, played, tmp_path):
    pattern = [(i % 2, i // 2 % 2) for i in range(23)]
    capture({"a.mp4": reds(*pattern)})
    demo = Demo(model, tmp_path / "shown", alpha=1.0)
    demo.run([tmp_path / "a.mp4"])
    assert tints(played(tmp_path / "shown/a_overlay.mp4")) == pattern
    assert demo.images == 23


def test_smoothing_calms_labels_and_begins_anew_with_each_video(model, reds, capture, played, tmp_path):
    frames = {"a.mp4": reds((0.8, 1), (0.4, 1), (0.4, 1), (0.8, 1)), "b.mp4": reds(*[(0.3, 0)] * 3)}
    for smooth, expected in ((0.6, [(1, 1)] * 4), (0.0, [(1, 1), (0, 1), (0, 1), (1, 1)])):
        capture(frames)
        demo = Demo(model, tmp_path / f"shown{smooth}", alpha=1.0, smooth=smooth)
        demo.run([tmp_path / "a.mp4", tmp_path / "b.mp4"])
        assert tints(played(demo.output / "a_overlay.mp4")) == expected
        assert tints(played(demo.output / "b_overlay.mp4")) == [(0, 0)] * 3  # with what was before, the right were 1
        after = [", 0.00% with smooth=0.6"] * 2 if smooth else ["", ""]
        assert demo.summary().splitlines()[:2] == [
            f"{tmp_path / 'a.mp4'}: 33.33% of the labels change from each frame to the next{after[0]}",
            f"{tmp_path / 'b.mp4'}: 0.00% of the labels change from each frame to the next{after[1]}",
        ]


def test_summary_ends_with_times_and_rates(model, reds, tmp_path):
    demo = Demo(model, tmp_path / "shown")
    demo.run([write_reds(tmp_path / "a.png", 0, 1, reds=reds)])
    *table, last = demo.summary().splitlines()
    assert [line.split()[0] for line in table] == ["ms", "read", "network", "draw", "write"]
    assert all(re.fullmatch(r"\w+ +\d+\.\d +\d+\.\d", line) for line in table[1:])
    assert re.match(r"1 images; network \d+\.\d\d images/s \(red\) on CPU .*, with reading and writing \d", last)


def test_camera_ends_after_frames(model, reds, capture, played, tmp_path):
    opened = capture({Camera(0): reds(*[(1, 0)] * 9)})
    demo = Demo(model, tmp_path / "shown", frames=4)
    demo.run([Camera(0)])
    assert demo.images == 4
    assert len(played(tmp_path / "shown/camera_0_overlay.mp4")) >= 4  # repeated where time has passed
    assert names(tmp_path / "shown") == ["camera_0_overlay.mp4", "legend.png"]
    assert opened[0].released


def test_ctrl_c_ends_a_camera_well(model, reds, capture, played, tmp_path):
    opened = capture(
        {Camera(0): reds(*[(1, 0), (0, 0)] * 500)}, before=lambda number: interrupt_main() if number == 9 else None
    )
    demo = Demo(model, tmp_path / "shown", confidence=True)
    demo.run([Camera(0)])
    assert 4 <= demo.images <= 12
    assert len(played(tmp_path / "shown/camera_0_overlay.mp4")) >= demo.images
    assert names(tmp_path / "shown") == ["camera_0_overlay.mp4", "confidence.csv", "legend.png"]
    assert opened[0].released
    assert demo.summary().startswith("camera:0: 50.00% of the labels change")  # one half of each frame


def test_ctrl_c_ends_files_but_what_was_written_plays(model, reds, capture, played, tmp_path):
    frames = reds(*[(1, 0)] * 500)
    capture({"a.mp4": frames, "b.mp4": frames}, before=lambda number: interrupt_main() if number == 9 else None)
    demo = Demo(model, tmp_path / "shown")
    with pytest.raises(KeyboardInterrupt):
        demo.run([tmp_path / "a.mp4", tmp_path / "b.mp4"])
    assert 4 <= len(played(tmp_path / "shown/a_overlay.mp4")) == demo.images <= 12


def test_camera_that_is_unplugged_leaves_a_video_and_an_error(model, reds, capture, played, tmp_path):
    capture({Camera(0): reds(*[(1, 0)] * 5)})
    demo = Demo(model, tmp_path / "shown")
    with pytest.raises(UserError, match="camera:0 gave no more pictures after 5 frames"):
        demo.run([Camera(0)])
    assert demo.images == 5
    assert len(played(tmp_path / "shown/camera_0_overlay.mp4")) >= 5
    assert demo.summary()


def test_full_disk_in_the_middle_of_a_video(model, capture, played, tmp_path):
    noise = list(np.random.default_rng(0).integers(0, 256, (60, 240, 320, 3), np.uint8))
    opened = capture({"a.mp4": noise * 5})
    demo = Demo(model, tmp_path / "shown", alpha=0.0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (RESERVE + 600_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"a_overlay\.mp4 has no room on its disk for more than the \d+ frames"):
            demo.run([tmp_path / "a.mp4"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 5 < len(played(tmp_path / "shown/a_overlay.mp4")) == demo.images < 300
    assert opened[-1].released


# ---------------------------------------------------------------- bad files


@pytest.fixture
def mixed(tmp_path, reds):
    """Two images and a video that can't be read between others, in the order of their names."""
    folder = tmp_path / "in"
    good = [write_reds(folder / f"{name}.png", 1, 0, reds=reds) for name in ("a", "c", "e")]
    for name in ("b.png", "d.mp4"):
        (folder / name).write_bytes(b"no picture")
    return sorted([*good, folder / "b.png", folder / "d.mp4"])


def test_bad_files_are_reported_and_the_others_done(model, mixed, tmp_path, caplog):
    demo = Demo(model, tmp_path / "shown")
    with pytest.raises(UserError) as failed:
        demo.run(mixed)
    assert re.match(r"2 of 5 inputs failed, the first: .*b\.png cannot be decoded as an image", str(failed.value))
    assert names(tmp_path / "shown") == sorted(
        [f"{name}_{kind}.png" for name in "ace" for kind in ("overlay", "labels", "ids")] + ["legend.png"]
    )
    told = [record.message for record in caplog.records]
    assert len(told) == 2
    assert "b.png cannot be decoded" in told[0]
    assert "d.mp4 is not a readable video" in told[1]
    assert all(line.endswith("; going on with the other inputs") for line in told)
    assert demo.images == 3


def test_strict_ends_at_the_first_bad_file(model, mixed, tmp_path):
    demo = Demo(model, tmp_path / "shown", strict=True)
    with pytest.raises(UserError, match=r"b\.png cannot be decoded as an image"):
        demo.run(mixed)
    assert names(tmp_path / "shown") == ["a_ids.png", "a_labels.png", "a_overlay.png"]


def test_picture_that_the_network_refuses_is_a_bad_file(model, reds, capture, played, tmp_path, monkeypatch):
    """Even in the middle of a video, of which what came before is kept."""
    segment = model.segmenter.forward
    calls = []

    def refuse(image):
        calls.append(image)
        if len(calls) in (2, 6):
            raise UserError("too small")
        return segment(image)

    monkeypatch.setattr(model.segmenter, "forward", refuse)
    images = [write_reds(tmp_path / f"{name}.png", 1, 0, reds=reds) for name in "abc"]
    capture({"d.mp4": reds(*[(1, 0)] * 9)})
    demo = Demo(model, tmp_path / "shown")
    with pytest.raises(UserError, match="2 of 5 inputs failed, the first: too small"):
        demo.run([*images, tmp_path / "d.mp4", write_reds(tmp_path / "e.png", 1, 0, reds=reds)])
    assert len(calls) == 7  # no more of the video
    assert len(played(tmp_path / "shown/d_overlay.mp4")) == 2
    assert {name[0] for name in names(tmp_path / "shown")} == {"a", "c", "d", "e", "l"}
    assert len(demo.failures) == 2


@pytest.mark.parametrize(("strict", "images", "error"), [(False, 3, "2 of 5 inputs failed"), (True, 1, "cannot be")])
def test_command_ends_with_status_2_and_still_sums_up(script, checkpoint, mixed, tmp_path, strict, images, error):
    done = script(
        "demo", f"ckpt={checkpoint}", f"input={mixed[0].parent}", f"output={tmp_path / 'shown'}", "device=cpu",
        f"strict={str(strict).lower()}",
    )  # fmt: skip
    assert done.status == 2
    assert error in done.error
    assert f"{images} images; network" in done.out


# ---------------------------------------------------------------- confidence


def test_confidence_is_a_picture_and_a_mean(model, reds, capture, tmp_path):
    """0.8 and 0.4 of red are 0.8 and 0.6 of something; with smooth=0.5, 0.8 and 0.4 become 0.8 and 0.6."""
    capture({"b.mp4": reds((0.8, 0.4), (0.4, 0.4))})
    inputs = [write_reds(tmp_path / "a.png", 0.8, 0.4, reds=reds), tmp_path / "b.mp4"]
    demo = Demo(model, tmp_path / "shown", confidence=True, smooth=0.5)
    demo.run(inputs)
    grey = cv2.imread(str(tmp_path / "shown/a_confidence.png"), cv2.IMREAD_UNCHANGED)
    assert grey.shape == (64, 64)
    assert (grey[:, :32] == 204).all()
    assert (grey[:, 32:] == 153).all()
    with (tmp_path / "shown/confidence.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["input", "frame", "confidence"]
    assert [row[:2] for row in rows] == [[str(inputs[0]), ""], [str(inputs[1]), "0"], [str(inputs[1]), "1"]]
    assert [float(row[2]) for row in rows] == pytest.approx([0.7, 0.7, 0.6], abs=1e-5)
    assert names(tmp_path / "shown") == [
        "a_confidence.png", "a_ids.png", "a_labels.png", "a_overlay.png", "b_overlay.mp4", "confidence.csv",
        "legend.png",
    ]  # fmt: skip


def test_file_that_knows_labels_only_has_no_probabilities(model, tmp_path):
    model.segmenter.labels_only, model.segmenter.knows_confidence = True, False
    for given, named in (({"smooth": 0.5}, r"smooth=0\.5"), ({"confidence": True}, "confidence=true")):
        with pytest.raises(UserError, match=rf"^{named} needs probabilities, and red\.net knows labels only; expo"):
            Demo(model, tmp_path / "shown", **given)
    Demo(model, tmp_path / "shown")


def test_file_may_know_the_confidence_of_its_labels(model, reds, tmp_path):
    write_reds(tmp_path / "a.png", 0.8, 0.4, reds=reds)
    model.segmenter.labels_only = True  # as export.head=confidence, and its probabilities are those of its softmax
    Demo(model, tmp_path / "shown", confidence=True).run([tmp_path / "a.png"])
    shown = cv2.imread(str(tmp_path / "shown/a_confidence.png"), cv2.IMREAD_GRAYSCALE)
    assert shown[0, [0, -1]].tolist() == [204, 153]  # 0.8 red; 0.6 dark
    with pytest.raises(UserError, match=r"smooth=0\.5 needs probabilities"):
        Demo(model, tmp_path / "shown", smooth=0.5)
    model.inference = Inference(flip=True)  # the mean of two such probabilities says nothing
    with pytest.raises(UserError, match="confidence=true needs probabilities"):
        Demo(model, tmp_path / "shown", confidence=True)


def test_table_of_confidence_that_cannot_be_written_is_told(model, reds, tmp_path):
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown/confidence.csv").symlink_to("/dev/full")
    with pytest.raises(
        UserError, match=r"confidence\.csv cannot be written \(No space left on device\); choose another"
    ):
        Demo(model, tmp_path / "shown", confidence=True).run([write_reds(tmp_path / "a.png", 0, 1, reds=reds)])


def test_run_that_failed_leaves_nothing_to_the_next(model, reds, capture, played, tmp_path):
    """Not its last frame, which would be smoothed into others of another size, either."""
    (tmp_path / "shown").mkdir()
    demo = Demo(model, tmp_path / "shown", alpha=1.0, smooth=0.9, confidence=True)
    capture({"a.mp4": reds(*[(1, 1)] * 3, size=(64, 80)), "b.mp4": reds(*[(0, 0)] * 3)}, before=lambda number: None)
    (tmp_path / "shown/a_overlay.mp4").mkdir()
    with pytest.raises(UserError, match=r"a_overlay\.mp4 cannot be written"):
        demo.run([tmp_path / "a.mp4"])
    demo.run([tmp_path / "b.mp4"])
    assert tints(played(tmp_path / "shown/b_overlay.mp4")) == [(0, 0)] * 3


def test_smoothing_of_images_alone_is_told(model, reds, tmp_path, caplog):
    Demo(model, tmp_path / "shown", smooth=0.5).run([write_reds(tmp_path / "a.png", 0, 1, reds=reds)])
    assert [record.message for record in caplog.records] == [
        "smooth=0.5 is for videos and cameras; an image has nothing before it"
    ]
