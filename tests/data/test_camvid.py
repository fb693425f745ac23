"""Finding the files of CamVid."""

from pathlib import Path

import numpy as np
import pytest

from icnet.data.camvid import CamVid
from icnet.data.dataset import SegmentationDataset
from icnet.data.labels import CAMVID_CLASSES
from icnet.errors import UserError


def test_list_samples_pairs_by_name(camvid_root: Path) -> None:
    samples = CamVid(str(camvid_root)).list_samples("trainval")
    assert [sample.name for sample in samples] == ["0001TP_006690", "0006R0_f00930", "0016E5_07959"]
    assert samples[2].mask == camvid_root / "valannot/0016E5_07959.png"


def test_void_becomes_ignored(camvid_root: Path) -> None:
    dataset = SegmentationDataset(CamVid(camvid_root).list_samples("val"), CAMVID_CLASSES, CamVid.label_table)
    assert set(np.unique(dataset[0]["mask"])) == {*range(11), 255}


def test_missing_folder_names_key(camvid_root: Path) -> None:
    for root in (None, camvid_root / "nowhere"):
        with pytest.raises(UserError, match=r"data\.root.*trainannot.*data=street"):
            CamVid(root).list_samples("train")


def test_absent_split_names_folder(camvid_root: Path) -> None:
    with pytest.raises(UserError, match=r"holds no test/\*\.png"):
        CamVid(camvid_root).list_samples("test")


def test_unmatched_files_are_named(camvid_root: Path) -> None:
    (camvid_root / "train/0001TP_006690.png").unlink()
    with pytest.raises(UserError, match=r"1 label file.*trainannot/0001TP_006690.png"):
        CamVid(camvid_root).list_samples("train")
