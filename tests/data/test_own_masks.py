"""Masks as people have them, through the configuration: by label id or by colour, or refused."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from icnet.config import DataConfig
from icnet.data.dataset import SegmentationDataset
from icnet.errors import UserError
from icnet.factory.data import data_module

ROAD, CAR, TREE = (128, 64, 128), (0, 0, 142), (0, 128, 0)
THREE = ({"name": "road", "color": ROAD}, {"name": "car", "color": CAR}, {"name": "tree", "color": TREE})
LABELS = np.array([[0, 1, 2], [2, 2, 1]], np.uint8)  # train ids
COLORED = np.array([ROAD, CAR, TREE], np.uint8)[LABELS]

Own = Callable[..., SegmentationDataset]


def palette_image(indices: np.ndarray, colors: Sequence[Sequence[int]]) -> Image.Image:
    """Return a palette image; entries that are not given are black."""
    image = Image.fromarray(np.asarray(indices, np.uint8)).convert("P")
    image.putpalette([*np.ravel(colors).tolist(), *[0] * (768 - 3 * len(colors))])
    return image


@pytest.fixture
def own(tmp_path: Path) -> Own:
    """Write a person's own data with these masks and return its validation set."""

    def make(
        *masks: Image.Image | np.ndarray,
        classes: Sequence[Mapping[str, object]] = THREE,
        ignore: Sequence[object] = (),
        kind: str = "PNG",
        saving: Mapping[str, object] | None = None,
        **keys: object,
    ) -> SegmentationDataset:
        for folder in ("images", "masks"):
            (tmp_path / folder / "val").mkdir(parents=True, exist_ok=True)
        rows = [{**row, "color": list(row["color"])} for row in classes]  # type: ignore[call-overload]
        (tmp_path / "classes.yaml").write_text(yaml.safe_dump({"classes": rows, "ignore": [*ignore]}))
        for number, mask in enumerate(masks):
            image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
            # Called .png whatever it is: its content counts.
            image.save(tmp_path / "masks" / "val" / f"{number}.png", kind, **(saving or {}))
            Image.new("RGB", image.size).save(tmp_path / "images" / "val" / f"{number}.png")
        data = DataConfig(name="folder", root=str(tmp_path), workers=0, **keys)  # type: ignore[arg-type]
        return data_module(data, seed=0).val

    return make


def train_ids(dataset: SegmentationDataset, index: int = 0) -> list[list[int]]:
    return dataset[index]["mask"].tolist()


BINARY = np.array([[0, 255, 255]], np.uint8)


def test_binary_mask_of_0_and_255_holds_both_classes(own: Own) -> None:
    classes = ({"name": "background", "color": (10, 0, 0)}, {"name": "crack", "color": (255, 0, 0), "ids": [255]})
    assert train_ids(own(BINARY, classes=classes)) == [[0, 1, 1]]


def test_255_that_no_class_claims_is_ignored(own: Own) -> None:
    assert train_ids(own(BINARY)) == [[0, 255, 255]]


def test_class_has_several_ids_and_0_is_void(own: Own) -> None:
    classes = (
        {"name": "road", "color": ROAD, "ids": [1]},
        {"name": "car", "color": CAR, "ids": [2, 30]},
    )
    mask = np.array([[0, 1, 2, 30, 255]], np.uint8)
    assert train_ids(own(mask, classes=classes, ignore=[0])) == [[255, 0, 1, 1, 255]]
    with pytest.raises(UserError, match=r"holds label ids 0, but folder, val allows 1-2, 30, 255"):
        train_ids(own(mask, classes=classes))


@pytest.mark.parametrize("largest", [300, 65535])
def test_16_bit_mask_is_read_by_ids_above_255(own: Own, largest: int) -> None:
    classes = ({"name": "road", "color": ROAD}, {"name": "car", "color": CAR, "ids": [largest]})
    assert train_ids(own(np.array([[0, largest, 255]], np.uint16), classes=classes)) == [[0, 1, 255]]
    assert train_ids(own(np.array([[0, 0, 255]], np.uint8), classes=classes)) == [[0, 0, 255]]
    with pytest.raises(UserError, match=rf"0\.png holds label ids 256, but folder, val allows 0, 255, {largest};"):
        train_ids(own(np.array([[0, 256, 0]], np.uint16), classes=classes))


def test_16_bit_mask_is_read_where_all_ids_fit(own: Own) -> None:
    assert train_ids(own(LABELS.astype(np.uint16))) == LABELS.tolist()
    with pytest.raises(UserError, match=r"0\.png holds label ids 7, 300, but folder, val allows 0-2, 255;"):
        train_ids(own(np.array([[0, 300, 7]], np.uint16)))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_of_the_classes_are_read_by_colour(own: Own, mode: str, kind: str) -> None:
    dataset = own(Image.fromarray(COLORED).convert(mode), kind=kind, saving={"lossless": True})
    assert train_ids(dataset) == LABELS.tolist()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_palette_is_read_by_colour_where_its_indices_are_no_ids(own: Own, kind: str) -> None:
    palette = [(1, 1, 1)] * 40 + [TREE, ROAD, CAR]
    indices = np.array([41, 42, 40])[LABELS]  # road, car, tree
    assert train_ids(own(palette_image(indices, palette), kind=kind)) == LABELS.tolist()


OTHER_ORDER = palette_image(np.array([1, 2, 0])[LABELS], [TREE, ROAD, CAR])  # as tools sort them


def test_palette_in_another_order_than_the_classes_is_refused(own: Own) -> None:
    with pytest.raises(UserError) as caught:
        own(OTHER_ORDER)
    assert (
        r"0.png (8-bit palette) can be read in two ways: its value 0 is road as a label id, but its colour (0, 128, 0) "
        "is tree; say which is meant with data.mask_encoding=ids or data.mask_encoding=colors"
    ) in str(caught.value)


def test_mask_encoding_says_how_to_read_a_palette(own: Own) -> None:
    assert train_ids(own(OTHER_ORDER, mask_encoding="colors")) == LABELS.tolist()
    assert train_ids(own(OTHER_ORDER, mask_encoding="ids")) == np.array([1, 2, 0])[LABELS].tolist()


def test_colours_that_a_tool_made_a_palette_of_are_refused_or_read_by_colour(own: Own) -> None:
    drawn = Image.fromarray(COLORED).quantize(3)
    assert np.array(drawn).max() == 2  # indices that are ids of classes
    assert not np.array_equal(np.array(drawn), LABELS)  # of other ones
    with pytest.raises(UserError, match="can be read in two ways"):
        own(drawn)
    assert train_ids(own(drawn, mask_encoding="colors")) == LABELS.tolist()


def voc_color(index: int) -> tuple[int, ...]:
    """Pascal VOC's colour map: the index's bits, from the lowest, dealt to R, G, B from their highest bit."""
    color = [0, 0, 0]
    for bit in range(8):
        color[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return tuple(color)


def test_palette_of_pascal_voc_is_read_by_index(own: Own) -> None:
    assert (voc_color(15), voc_color(255)) == ((192, 128, 128), (224, 224, 192))  # person, border
    names = ("background", *(f"class{number}" for number in range(1, 21)))
    classes = [{"name": name, "color": voc_color(index)} for index, name in enumerate(names)]
    mask = palette_image(np.array([[0, 15, 20, 255]]), [voc_color(index) for index in range(256)])
    assert train_ids(own(mask, classes=classes)) == [[0, 15, 20, 255]]
    # As colours, the border is none of a class.
    with pytest.raises(UserError, match=r"the colour \(224, 224, 192\) in 1 pixels, the first at row 0, column 3, but"):
        train_ids(own(mask, classes=classes, mask_encoding="colors"))
    border = [voc_color(255)]
    by_color = own(mask, classes=classes, mask_encoding="colors", ignore=[list(*border)])
    assert train_ids(by_color) == [[0, 15, 20, 255]]


def test_palette_of_other_colours_is_read_by_index(own: Own) -> None:
    assert train_ids(own(palette_image(LABELS, [(0, 0, 0), (255, 0, 0), (0, 255, 0)]))) == LABELS.tolist()


def test_gray_mask_is_read_by_id_whatever_its_shade(own: Own) -> None:
    classes = (*THREE, {"name": "black", "color": (0, 0, 0)})
    assert train_ids(own(LABELS, classes=classes)) == LABELS.tolist()  # a gray 0 is road, though black is a class


BLACK_AND_WHITE = ({"name": "sea", "color": (0, 0, 0)}, {"name": "ice", "color": (255, 255, 255)})


def test_gray_mask_with_the_grays_of_the_classes_is_refused(own: Own) -> None:
    with pytest.raises(
        UserError, match=r"its value 255 is ignored as a label id, but its colour \(255, 255, 255\) is ice"
    ):
        own(BINARY, classes=BLACK_AND_WHITE)
    assert train_ids(own(BINARY, classes=BLACK_AND_WHITE, mask_encoding="colors")) == [[0, 1, 1]]
    assert train_ids(own(BINARY, classes=BLACK_AND_WHITE, mask_encoding="ids")) == [[0, 255, 255]]
    one = np.array([[0, 1, 1]], np.uint8)
    assert train_ids(own(one, classes=BLACK_AND_WHITE)) == [[0, 1, 1]]
    claimed = (BLACK_AND_WHITE[0], {**BLACK_AND_WHITE[1], "ids": [255]})
    assert train_ids(own(BINARY, classes=claimed)) == [[0, 1, 1]]


def test_unknown_colour_is_named_with_its_pixels(own: Own) -> None:
    colored = COLORED.copy()
    colored[0, 2] = colored[1, 0] = (9, 8, 7)
    colored[1, 1] = (1, 2, 3)
    with pytest.raises(UserError) as caught:
        train_ids(own(colored))
    assert (
        "0.png holds the colour (9, 8, 7) in 2 pixels, the first at row 0, column 2 (and 1 further unknown colour), "
        "but no class of folder, val has it"
    ) in str(caught.value)
    dataset = own(colored, ignore=[[9, 8, 7], [1, 2, 3]])
    assert train_ids(dataset) == [[0, 1, 255], [255, 255, 1]]


def test_colour_of_two_classes_is_refused_only_where_colours_are_read(own: Own) -> None:
    classes = (*THREE[:2], {"name": "path", "color": ROAD})
    with pytest.raises(UserError, match=r"road and path of folder, val have the same colour \(128, 64, 128\)"):
        own(COLORED, classes=classes)
    assert train_ids(own(LABELS, classes=classes)) == LABELS.tolist()
    assert train_ids(own(palette_image(LABELS, [ROAD, CAR, ROAD]), classes=classes)) == LABELS.tolist()


def test_equal_channels_are_ids_where_the_configuration_says_so(own: Own) -> None:
    three = np.repeat(LABELS[..., None], 3, 2)
    assert train_ids(own(three, mask_encoding="ids")) == LABELS.tolist()
    with pytest.raises(UserError, match=r"the colour \(0, 0, 0\) .* equal channels are label ids, set data\.mask_enc"):
        train_ids(own(three))
    with pytest.raises(UserError, match="is 8-bit RGB with different channels, .*data.mask_encoding=colors"):
        train_ids(own(COLORED, mask_encoding="ids"))


def test_masks_of_two_kinds_are_refused(own: Own) -> None:
    with pytest.raises(
        UserError, match=r"two ways, by label id as .*1\.png and by colour as .*0\.png; store all in one"
    ):
        own(COLORED, LABELS)


def test_file_is_read_like_its_neighbours(own: Own) -> None:
    strange = palette_image(np.zeros((2, 3)), [(9, 8, 7)])  # its index 0 is road's id, its colour nobody's
    assert train_ids(own(strange)) == [[0] * 3] * 2
    dataset = own(COLORED, strange)
    with pytest.raises(UserError, match=r"1\.png holds the colour \(9, 8, 7\) in 6 pixels"):
        train_ids(dataset, 1)


def test_late_file_of_another_kind_is_refused(own: Own) -> None:
    late = [COLORED if number == 1 else LABELS for number in range(40)]  # 16 of them are looked at
    dataset = own(*late)
    with pytest.raises(UserError, match=r"1\.png is 8-bit RGB, and other masks hold label ids"):
        train_ids(dataset, 1)
    late = [LABELS.astype(np.uint16) if number == 1 else COLORED for number in range(40)]
    dataset = own(*late)
    with pytest.raises(UserError, match=r"1\.png is 16-bit gray, but the masks of folder, val hold colours"):
        train_ids(dataset, 1)


def test_late_palette_that_disagrees_is_refused(own: Own) -> None:
    late = [OTHER_ORDER if number == 1 else LABELS for number in range(40)]
    dataset = own(*late)
    with pytest.raises(UserError, match=r"1\.png \(8-bit palette\) can be read in two ways"):
        train_ids(dataset, 1)


def test_mask_turned_against_its_image_is_explained(own: Own, tmp_path: Path) -> None:
    dataset = own(LABELS)
    Image.new("RGB", (2, 3)).save(tmp_path / "images/val/0.png")
    with pytest.raises(UserError, match=r"0\.png is 2x3 .* mask .*0\.png is 3x2; .*: one is turned by 90 degrees"):
        dataset[0]
