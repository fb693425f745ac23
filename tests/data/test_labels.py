"""The label tables against cityscapesScripts."""

import numpy as np
import pytest

from icnet.data.labels import (
    CAMVID_CLASSES,
    CITYSCAPES_CLASSES,
    CITYSCAPES_LABELS,
    LABEL_ID_TO_TRAIN_ID,
    TRAIN_ID_TO_LABEL_ID,
)

official = pytest.importorskip("cityscapesscripts.helpers.labels")


def test_cityscapes_labels_equal_cityscapesscripts() -> None:
    ours = {row.name: row[1:] for row in CITYSCAPES_LABELS}
    theirs = {
        row.name: (row.id, row.trainId if 0 <= row.trainId < 19 else 255, row.category, row.color)
        for row in official.labels
    }
    assert ours == theirs


def test_cityscapes_classes_are_in_train_id_order() -> None:
    for train_id, name in enumerate(CITYSCAPES_CLASSES.names):
        assert official.name2label[name].trainId == train_id
        assert official.name2label[name].color == CITYSCAPES_CLASSES.palette[train_id]
        assert official.name2label[name].category == CITYSCAPES_CLASSES.categories[train_id]
    assert len(CITYSCAPES_CLASSES) == 19


def test_label_id_table_maps_every_stored_id() -> None:
    for label_id in range(256):
        row = official.id2label.get(label_id)
        expected = -1 if row is None else row.trainId if row.trainId != -1 else 255
        assert LABEL_ID_TO_TRAIN_ID[label_id] == expected


def test_train_ids_return_to_label_ids() -> None:
    np.testing.assert_array_equal(LABEL_ID_TO_TRAIN_ID[TRAIN_ID_TO_LABEL_ID], np.arange(19))


def test_colorize_paints_palette_and_black() -> None:
    painted = CAMVID_CLASSES.colorize(np.array([[0, 10], [255, 11]]))
    assert painted.tolist() == [[[128, 128, 128], [0, 128, 192]], [[0, 0, 0], [0, 0, 0]]]


@pytest.mark.parametrize("kind", [np.int16, np.int64, np.uint64])
def test_colorize_paints_no_class_where_a_byte_would_wrap(kind) -> None:
    painted = CAMVID_CLASSES.colorize(np.array([[256, 266, -1, -256]]).astype(kind))
    assert not painted.any()


def test_colorize_paints_bytes_as_other_integers() -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for given in (mask, mask.T, mask[::2, ::-3]):
        assert np.array_equal(CITYSCAPES_CLASSES.colorize(given), CITYSCAPES_CLASSES.colorize(given.astype(np.int64)))
    assert CITYSCAPES_CLASSES.colorize(np.zeros((0, 5), np.uint8)).shape == (0, 5, 3)
