"""Finding the files of Cityscapes."""

from pathlib import Path

import numpy as np
import pytest

from icnet.data.cityscapes import LABEL_TABLES, Cityscapes
from icnet.data.dataset import SegmentationDataset
from icnet.data.labels import CITYSCAPES_CLASSES
from icnet.data.masks import read_mask
from icnet.errors import UserError


def test_list_samples_names_and_sorts(cityscapes_root: Path) -> None:
    samples = Cityscapes(cityscapes_root).list_samples("train")
    assert [sample.name for sample in samples] == [
        "aachen_000000_000019",
        "aachen_000001_000019",
        "zurich_000000_000019",
    ]
    assert samples[2].image == cityscapes_root / "leftImg8bit/train/zurich/zurich_000000_000019_leftImg8bit.png"
    assert samples[2].mask == cityscapes_root / "gtFine/train/zurich/zurich_000000_000019_gtFine_labelIds.png"


def test_trainval_is_train_then_val(cityscapes_root: Path) -> None:
    both = Cityscapes(cityscapes_root).list_samples("train") + Cityscapes(cityscapes_root).list_samples("val")
    assert Cityscapes(cityscapes_root).list_samples("trainval") == both
    assert len(both) == 5


def test_test_split_without_labels_is_all_ignored(cityscapes_root: Path) -> None:
    samples = Cityscapes(cityscapes_root).list_samples("test")
    assert [sample.mask for sample in samples] == [None]
    item = SegmentationDataset(samples, CITYSCAPES_CLASSES, LABEL_TABLES["labelIds"])[0]
    assert item["mask"].shape == item["image"].shape[1:]
    assert (item["mask"] == 255).all()


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_both_label_kinds_give_train_ids(cityscapes_root: Path, kind: str) -> None:
    samples = Cityscapes(cityscapes_root, kind).list_samples("val")
    mask = SegmentationDataset(samples, CITYSCAPES_CLASSES, LABEL_TABLES[kind])[1]["mask"].numpy()
    stored = read_mask(samples[1].mask)  # type: ignore[arg-type]
    assert set(np.unique(mask)) == {*range(19), 255}
    expected = stored if kind == "labelTrainIds" else LABEL_TABLES[kind][stored]
    np.testing.assert_array_equal(mask, expected)


def test_label_ids_under_train_id_table_are_refused(cityscapes_root: Path) -> None:
    samples = Cityscapes(cityscapes_root, "labelIds").list_samples("val")
    dataset = SegmentationDataset(samples, CITYSCAPES_CLASSES, LABEL_TABLES["labelTrainIds"], title="cityscapes (val)")
    with pytest.raises(UserError, match=r"gtFine_labelIds.png holds label ids 19-33, .*allows 0-18, 255; .*label_kind"):
        dataset[0]


def test_root_comes_from_key_then_environment(cityscapes_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITYSCAPES_DATASET", "/nowhere")
    assert Cityscapes(str(cityscapes_root)).folder() == cityscapes_root
    monkeypatch.setenv("CITYSCAPES_DATASET", str(cityscapes_root))
    assert Cityscapes(None).folder() == cityscapes_root


@pytest.mark.parametrize(
    ("root", "variable", "said"),
    [
        (None, None, "neither data.root nor"),
        ("/nowhere", None, "data.root is /nowhere, which is not a folder"),
        (None, "/nowhere", "CITYSCAPES_DATASET is /nowhere, which is not a folder"),
        ("EMPTY", None, "which holds no leftImg8bit"),
    ],
)
def test_missing_root_names_every_way_out(
    root: str | None, variable: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CITYSCAPES_DATASET", raising=False)
    if variable:
        monkeypatch.setenv("CITYSCAPES_DATASET", variable)
    with pytest.raises(UserError) as caught:
        Cityscapes(str(tmp_path) if root == "EMPTY" else root).folder()
    message = str(caught.value)
    assert "\n" not in message
    for word in (said, "data.root", "CITYSCAPES_DATASET", "data=street"):
        assert word in message


def test_empty_split_names_what_was_sought(cityscapes_root: Path) -> None:
    for path in (cityscapes_root / "leftImg8bit/val").rglob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match=r"data.root=.*leftImg8bit/val/.*CITYSCAPES_DATASET.*data=street"):
        Cityscapes(cityscapes_root).list_samples("val")


def test_unknown_split_lists_known(cityscapes_root: Path) -> None:
    with pytest.raises(UserError, match="split vall is unknown; .*train, val, trainval, test"):
        Cityscapes(cityscapes_root).list_samples("vall")


def test_image_without_label_is_counted_and_named(cityscapes_root: Path) -> None:
    for path in (cityscapes_root / "gtFine/train/aachen").glob("*labelIds.png"):
        path.unlink()
    with pytest.raises(UserError, match=r"^2 image file\(s\) have no label, the first is .*aachen_000000_000019_left"):
        Cityscapes(cityscapes_root).list_samples("train")


def test_label_without_image_is_counted_and_named(cityscapes_root: Path) -> None:
    (cityscapes_root / "leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png").unlink()
    with pytest.raises(UserError, match=r"^1 label file\(s\) have no image, the first is .*lindau.*labelIds.png"):
        Cityscapes(cityscapes_root).list_samples("val")


def test_missing_train_id_files_point_to_label_kind(cityscapes_root: Path) -> None:
    for path in cityscapes_root.rglob("*labelTrainIds.png"):
        path.unlink()
    with pytest.raises(UserError, match="csCreateTrainIdLabelImgs, or use data.label_kind=labelIds"):
        Cityscapes(cityscapes_root, "labelTrainIds").list_samples("train")
