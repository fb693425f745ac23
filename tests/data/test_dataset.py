"""Reading samples, and saying what is wrong with a file."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from icnet.data import images as module
from icnet.data.base import SamplePaths
from icnet.data.dataset import SegmentationDataset
from icnet.data.images import read_image
from icnet.data.labels import CITYSCAPES_CLASSES, LABEL_ID_TO_TRAIN_ID, ClassTable, train_id_table
from icnet.data.masks import read_mask
from icnet.data.transforms import Drawn, TrainTransform
from icnet.errors import UserError

MakeDataset = Callable[..., SegmentationDataset]


def test_sample_has_documented_types(make_dataset: MakeDataset) -> None:
    item = make_dataset(2, (24, 48))[1]
    assert (item["image"].dtype, item["image"].shape) == (torch.uint8, (3, 24, 48))
    assert (item["mask"].dtype, item["mask"].shape) == (torch.uint8, (24, 48))
    assert (item["name"], item["index"]) == ("frame001", 1)


def test_image_is_rgb(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(1)
    with Image.open(dataset.samples[0].image) as image:
        np.testing.assert_array_equal(dataset[0]["image"].permute(1, 2, 0), np.array(image.convert("RGB")))


def test_number_of_classes_follows_table(make_dataset: MakeDataset) -> None:
    two = ClassTable(("a", "b"), ((0, 0, 0), (1, 1, 1)))
    with pytest.raises(ValueError, match="below 2"):
        SegmentationDataset([], two, train_id_table([(0, 2)]))
    assert len(SegmentationDataset([], two, train_id_table([(0, 1)])).classes) == 2


def test_same_key_gives_same_sample_in_any_order(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(3, transform=TrainTransform((16, 16), (16, 40), color_jitter=0.3), seed=5)
    keys = [(index, epoch) for epoch in (0, 1) for index in range(3)]
    forward = {key: dataset[key] for key in keys}
    for key in reversed(keys):
        assert torch.equal(dataset[key]["image"], forward[key]["image"])
        assert torch.equal(dataset[key]["mask"], forward[key]["mask"])
    assert not torch.equal(forward[0, 0]["image"], forward[0, 1]["image"])
    assert torch.equal(dataset[2]["image"], forward[2, 0]["image"])  # a plain index is epoch 0


def test_other_seed_gives_other_sample(make_dataset: MakeDataset) -> None:
    one, two = (make_dataset(1, transform=TrainTransform((16, 16), (16, 40)), seed=seed) for seed in (1, 2))
    assert not torch.equal(one[0]["image"], two[0]["image"])


def test_flip_blur_and_scale_are_drawn_independently(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(1, transform=TrainTransform((16, 16), (24, 48)))
    seen = set()
    draw = dataset.transform.draw

    def record(shape: tuple[int, int]) -> Drawn:
        drawn = draw(shape)
        seen.add((drawn.flip, drawn.kernel is not None, drawn.size[0] > 36))
        return drawn

    monkeypatch.setattr(dataset.transform, "draw", record)
    for epoch in range(80):
        dataset[0, epoch]
    assert len(seen) == 8


@pytest.mark.parametrize("bits", [4, 8])
def test_palette_mask_gives_indices(tmp_path: Path, bits: int) -> None:
    count = 2**bits
    ids = np.arange(count, dtype=np.uint8).reshape(2, -1)
    image = Image.fromarray(ids).convert("P")
    image.putpalette([value % 256 for color in range(count) for value in (color * 40, 255 - color, 7)])
    image.save(tmp_path / "mask.png", bits=bits)
    assert (tmp_path / "mask.png").read_bytes()[24:26] == bytes((bits, 3))
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), ids)


def test_unknown_label_ids_are_listed(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset(1, title="cityscapes (train)")
    mask = np.zeros((24, 48), np.uint8)
    mask[-1, -4:] = (40, 41, 200, 7)  # outside most crops: the whole mask is checked
    cv2.imwrite(str(tmp_path / "mask0.png"), mask)
    with pytest.raises(UserError) as caught:
        dataset[0]
    assert "mask0.png holds label ids 40-41, 200, but cityscapes (train) allows 0-33" in str(caught.value)


def test_unequal_sizes_are_both_told(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset(1)
    cv2.imwrite(str(tmp_path / "mask0.png"), np.zeros((12, 24), np.uint8))
    with pytest.raises(UserError, match=r"image0.png is 48x24 .*mask0.png is 24x12"):
        dataset[0]


def _image_bytes(suffix: str, pixels: np.ndarray) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


NOISE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (_image_bytes(".png", NOISE)[:-500], "is truncated after"),
        (_image_bytes(".png", NOISE)[:-6], "is truncated after"),
        (_image_bytes(".jpg", NOISE)[:-300], "is truncated after"),
        (b"<html>404</html>", "cannot be decoded"),
        (b"", "cannot be decoded"),
        (_image_bytes(".png", NOISE)[:200] + _image_bytes(".png", NOISE)[-12:], "is truncated after"),
        (None, "cannot be read"),
    ],
)
def test_unreadable_image_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "image.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_palette_mask_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(NOISE).quantize(200).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + data[-12:])
    with pytest.raises(UserError, match="mask.png is truncated"):
        read_mask(path)


def test_no_label_file_gives_ignored_mask(make_dataset: MakeDataset) -> None:
    sample = make_dataset(1).samples[0]
    unlabelled = SegmentationDataset(
        [SamplePaths("x", sample.image, None)],
        CITYSCAPES_CLASSES,
        LABEL_ID_TO_TRAIN_ID,
        transform=TrainTransform((16, 16), (16, 40)),
    )
    assert (unlabelled[0]["mask"] == 255).all()


@pytest.mark.parametrize("kind", ["gray", "RGB", "RGBA", "16-bit"])
def test_fast_decoder_gives_the_pixels_of_opencv(tmp_path, monkeypatch, kind):
    pytest.importorskip("kornia_rs")
    shape = {"gray": (40, 30), "RGB": (40, 30, 3), "RGBA": (40, 30, 4), "16-bit": (40, 30, 3)}[kind]
    dtype = np.uint16 if kind == "16-bit" else np.uint8
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype))
    fast = read_image(path)
    monkeypatch.setattr(module, "decode_png", None)
    np.testing.assert_array_equal(fast, read_image(path))
    assert fast.shape == (40, 30, 3)
