import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import icnet
from icnet.data.labels import CITYSCAPES_CLASSES
from icnet.deploy.demo import Demo, find_inputs, result_names
from icnet.errors import UserError
from tests.scripts import ScriptProcess

ROOT = Path(__file__).parents[2]


def write_image(path, height=70, width=90, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.random.default_rng(value).integers(0, 256, (height, width, 3), np.uint8)
    assert cv2.imwrite(str(path), picture)
    return path


def write_video(path, frames=3, fps=12.0):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (96, 64))
    assert writer.isOpened()
    for i in range(frames):
        writer.write(np.full((64, 96, 3), 40 * i % 256, np.uint8))
    writer.release()
    return path


@pytest.fixture
def demo(checkpoint, tmp_path):
    return Demo(icnet.load(checkpoint, "cpu"), tmp_path / "results")


def test_image_becomes_three_pictures_and_a_legend(demo, tmp_path, net, normalizer):
    path = write_image(tmp_path / "photo.png")
    demo.run([path])

    assert sorted(p.name for p in demo.output.iterdir()) == [
        "legend.png", "photo_ids.png", "photo_labels.png", "photo_overlay.png",
    ]  # fmt: skip
    image = cv2.imread(str(path))[..., ::-1].copy()
    expected = net(normalizer(torch.from_numpy(image).permute(2, 0, 1)[None]))[0].argmax(0).numpy()
    ids = cv2.imread(str(demo.output / "photo_ids.png"), cv2.IMREAD_UNCHANGED)
    assert (ids == expected).mean() > 0.999
    labels = cv2.imread(str(demo.output / "photo_labels.png"))[..., ::-1]
    assert np.array_equal(labels, CITYSCAPES_CLASSES.colorize(ids))
    assert re.search(r"1 images; network .* images/s \(torch\) on CPU \(.*\d+ threads\), with", demo.summary())
    assert "model trained on unknown data; results in" in demo.summary()


def test_small_images_come_back_at_their_size(demo, tmp_path):
    demo.run([write_image(tmp_path / "tiny.png", 9, 21)])
    assert cv2.imread(str(demo.output / "tiny_ids.png"), cv2.IMREAD_UNCHANGED).shape == (9, 21)


def test_video_becomes_a_video(demo, tmp_path):
    demo.run([write_video(tmp_path / "drive.mp4")])

    result = cv2.VideoCapture(str(demo.output / "drive_overlay.mp4"))
    assert result.get(cv2.CAP_PROP_FPS) == pytest.approx(12.0)
    assert (result.get(cv2.CAP_PROP_FRAME_WIDTH), result.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (96, 64)
    assert sum(result.read()[0] for _ in range(10)) == 3
    assert demo.images == 3


def test_inputs_are_files_folders_and_globs(tmp_path):
    a, b, video = write_image(tmp_path / "in/a.png"), write_image(tmp_path / "in/deep/b.JPG"), tmp_path / "in/c.mp4"
    video.touch()
    (tmp_path / "in/notes.txt").touch()
    write_image(tmp_path / "in/.cache/d.png")
    write_image(tmp_path / "in/results/a_overlay.png")
    out = tmp_path / "in/results"

    assert find_inputs(str(a), out) == [a]
    assert find_inputs(str(tmp_path / "in"), out) == [a, video, b]
    assert find_inputs(str(tmp_path / "in/*"), out) == [a, video]
    assert find_inputs(str(tmp_path / "in/**/*.JPG"), out) == [b]


def test_what_a_folder_or_glob_holds_beside_pictures_is_told(tmp_path, caplog):
    a = write_image(tmp_path / "in/a.png")
    b = write_image(tmp_path / "in/sub/B.TIF")
    for name in ("c.heic", "d.txt", "._a.png", ".trash/e.png", "sub/._B.TIF"):
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no picture")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/in").symlink_to(tmp_path / "in", target_is_directory=True)
    assert find_inputs(str(tmp_path / "in"), tmp_path / "out") == [a, b]
    assert find_inputs(str(tmp_path / "linked"), tmp_path / "out") == [
        tmp_path / "linked/in/a.png", tmp_path / "linked/in/sub/B.TIF",
    ]  # fmt: skip
    assert find_inputs(str(tmp_path / "in/*"), tmp_path / "out") == [a]
    told = [record.message for record in caplog.records]
    assert len(told) == 3
    for line, given in zip(told, ("in", "linked", "in/*"), strict=True):
        assert line.startswith(
            f"input={tmp_path / given}: 2 file(s) left out (1 with .heic, 1 with .txt), the first is"
        )
        assert "c.heic; taken: images and videos" in line


def test_names_never_collide():
    def names(*paths):
        return result_names([Path("/data", path) for path in paths])

    assert names("a/x.png", "a/y.png") == ["x", "y"]
    assert names("a/x.png", "b/x.png") == ["a_x", "b_x"]
    assert names("x.png", "x.jpg", "z.jpg") == ["x_png", "x_jpg", "z"]
    assert names("a/x.png", "b/x.png", "a_x.png") == ["a_x_png", "b_x", "a_x_png_2"]
    assert names("a/X.png", "b/x.png") == ["a_X", "b_x"]


def test_same_names_in_two_folders_are_both_written(demo, tmp_path):
    first, second = write_image(tmp_path / "a/x.png", value=1), write_image(tmp_path / "b/x.png", 64, 64, value=2)
    demo.run([first, second])

    assert cv2.imread(str(demo.output / "a_x_ids.png")).shape[:2] == (70, 90)
    assert cv2.imread(str(demo.output / "b_x_ids.png")).shape[:2] == (64, 64)


def test_folder_of_inputs_is_no_folder_for_results(tmp_path):
    names = ("a.png", "a_overlay.png", "legend.png", "deep/b.png")
    a, *_ = (write_image(tmp_path / "in" / name) for name in names)
    folder = tmp_path / "in"
    for text, output in (
        (folder, folder),
        (folder, folder / "." / ".." / "in"),
        (folder / "*.png", folder),
        (folder / "**/*.png", folder / "deep"),
        (a, folder),
        (tmp_path, folder.parent),  # nothing lies in it directly, but results would
    ):
        with pytest.raises(UserError, match=r"output=.* is a folder that input=.* takes files from; give another"):
            find_inputs(str(text), output)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(UserError, match="takes files from"):
        find_inputs(str(folder), tmp_path / "link")


def test_results_may_go_above_the_inputs(tmp_path):
    path = write_image(tmp_path / "in/deep/a.png")
    assert find_inputs(str(path.parent), tmp_path / "in") == [path]


def test_inputs_are_never_overwritten(demo, tmp_path):
    demo.output.mkdir()
    photo, video = write_image(tmp_path / "photo.png"), write_video(tmp_path / "drive.mp4")
    for name, other in (("photo_overlay.png", photo), ("photo_ids.png", photo), ("legend.png", photo),
                        ("drive_overlay.mp4", video)):  # fmt: skip
        given = write_image(tmp_path / "other" / "given.png", 64, 64)
        before = given.read_bytes()
        (demo.output / name).hardlink_to(given)  # one file by two names: comparing paths would miss it
        with pytest.raises(UserError, match=rf"{name} would overwrite the input .*given\.png; choose another folder"):
            demo.run([other, given])
        assert given.read_bytes() == before
        assert [path.name for path in demo.output.iterdir()] == [name]
        (demo.output / name).unlink()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.png", r"input=.*absent\.png does not exist; give an image"),
        ("empty", r"input=.*empty holds no image or video"),
        ("*.bmp", r"input=.*\*\.bmp matches no image or video"),
    ],
)
def test_missing_inputs_are_refused(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        find_inputs(str(tmp_path / name), tmp_path / "results")


def test_unreadable_inputs_are_named(demo, tmp_path):
    for name, problem in (("broken.png", "cannot be decoded as an image"), ("broken.mp4", "is not a readable video")):
        (tmp_path / name).write_bytes(b"not a picture")
        with pytest.raises(UserError, match=rf"{name} {problem}"):
            demo.run([tmp_path / name])


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_images_are_refused(demo, tmp_path, suffix):
    path = write_image(tmp_path / f"half.{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"half\.{suffix} is truncated"):
        demo.run([path])
    assert not list(demo.output.iterdir())


@pytest.mark.parametrize("kind", ["gray", "rgba", "16-bit", "16-bit gray"])
def test_images_of_other_kinds_are_shown_like_rgb(demo, tmp_path, kind):
    rng = np.random.default_rng(0)
    rgb = np.repeat(rng.integers(0, 256, (70, 90, 1), np.uint8), 3, 2) if "gray" in kind else rng.integers(
        0, 256, (70, 90, 3), np.uint8
    )  # fmt: skip
    stored = rgb[..., 0] if "gray" in kind else rgb[..., ::-1]
    if kind == "rgba":
        stored = np.dstack([stored, rng.integers(0, 256, (70, 90), np.uint8)])
    if "16" in kind:
        stored = stored.astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "other.png"), stored)
    cv2.imwrite(str(tmp_path / "plain.png"), rgb[..., ::-1])
    demo.run([tmp_path / "other.png", tmp_path / "plain.png"])

    other, plain = (cv2.imread(str(demo.output / f"{name}_overlay.png")) for name in ("other", "plain"))
    assert np.array_equal(other, plain)


def test_unwritable_output_is_refused(demo, tmp_path):
    path = write_image(tmp_path / "photo.png")
    (tmp_path / "file").touch()
    demo.output = tmp_path / "file" / "results"
    with pytest.raises(UserError, match=r"output=.*results cannot be made a folder \(Not a directory\)"):
        demo.run([path])


def run_script(script, *arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
def test_command_lines_export_and_show(net, tmp_path, save_ours):
    save_ours(net, tmp_path / "outputs/2026-01-01/run/checkpoints/best.ckpt", data={"name": "street"})
    write_image(tmp_path / "photos/one.jpg")

    done = run_script("export.py", "export.height=64", "export.width=96", "export.opset=11", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "run/checkpoints/best.ckpt" in done.stdout
    assert f"wrote {tmp_path / 'ICNet.onnx'}" in done.stdout
    assert "image float32 (1, 3, 64, 96)" in done.stdout
    assert re.search(r"trained on +│ street \(synthetic\)", done.stdout)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ICNet.onnx", "ICNet.onnx.json", "outputs", "photos"]

    done = run_script("demo.py", "input=photos/*.jpg", "output=shown", "ckpt=ICNet.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 images; network" in done.stdout
    assert "(onnxruntime)" in done.stdout
    assert "model trained on street (synthetic); results in shown" in done.stdout
    assert len(list((tmp_path / "shown").iterdir())) == 4


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_ends_the_process_leaves_a_video_that_plays(checkpoint, tmp_path, number):
    write_video(tmp_path / "long.mp4", frames=5000)
    shown = tmp_path / "shown"
    process = ScriptProcess("demo", f"ckpt={checkpoint}", "input=long.mp4", f"output={shown}", cwd=tmp_path)
    while process.poll() is None and not (shown / "long_overlay.mp4").exists():
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in errors) == (128 + number, False)
    assert all(cv2.VideoCapture(str(file)).read()[0] for file in shown.glob("*.mp4"))  # none if no frame was done


@pytest.mark.slow
def test_what_ends_the_process_leaves_nothing_of_an_export(checkpoint, tmp_path):
    process = ScriptProcess(
        "export", f"ckpt={checkpoint}", "export.height=512", "export.width=512", "output=out/net.onnx", cwd=tmp_path
    )
    while process.poll() is None and not list((tmp_path / "out").glob(".net.*")):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_command_line_leaves_pictures_and_their_results_alone(checkpoint, tmp_path):
    for name in ("a.png", "a_overlay.png", "legend.png"):
        write_image(tmp_path / "photos" / name)
    before = {path.name: path.read_bytes() for path in (tmp_path / "photos").iterdir()}

    done = run_script("demo.py", f"ckpt={checkpoint}", "input=photos", "output=photos", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: output=photos is a folder that input=photos takes files from")
    assert done.stderr.count("\n") == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "photos").iterdir()} == before


@pytest.mark.slow
def test_command_lines_end_with_one_line_and_status_2(tmp_path):
    for script, arguments, message in (
        ("export.py", [], "error: ckpt is not given and there is no best checkpoint below outputs/"),
        (
            "export.py",
            ["export.batch=many"],
            "error: export.batch=many is out of range; give a number from 1",
        ),
        ("demo.py", [], "error: input is not given"),
    ):
        done = run_script(script, *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith(message)
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
