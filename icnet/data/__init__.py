"""Data sets, augmentation and loading.

A data set of your own is a ``DataSet`` with an entry in ``DATASETS``::

    DATASETS["mine"] = MyDataSet
"""

from collections.abc import Mapping
from typing import Any

from icnet.data.base import DataSet, SamplePaths, pair_up
from icnet.data.camvid import CamVid
from icnet.data.cityscapes import Cityscapes
from icnet.data.folder import Folder
from icnet.data.labels import ClassTable, train_id_table
from icnet.data.street.data_set import Street
from icnet.errors import UserError

__all__ = ["DATASETS", "ClassTable", "DataSet", "SamplePaths", "find_data_set", "pair_up", "train_id_table"]

DATASETS: dict[str, type[DataSet]] = {
    "cityscapes": Cityscapes,
    "camvid": CamVid,
    "folder": Folder,
    "street": Street,
}
"""What ``data.name`` may be."""


def find_data_set(name: str) -> type[DataSet]:
    """Return the class of a name.

    Raises:
        UserError: If there is none.
    """
    if name not in DATASETS:
        raise UserError(f"data={name} is unknown; choose one of {', '.join(DATASETS)}")
    return DATASETS[name]


def public_description(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an exported file tells of its data: what eval.py needs, and no paths, which may be private.

    Args:
        data: The ``data`` group of the configuration that a checkpoint was made with; may be empty.
    """
    known = DATASETS.get(data.get("name", ""))
    told = set(known.options) - set(known.private_options) if known else set()
    reading = ("mask_encoding", "image_bits")
    described = {key: data[key] for key in ("name", "val_split", *reading, *sorted(told)) if key in data}
    own = {key: value for key, value in (data.get("options") or {}).items() if key in told}
    return described | ({"options": own} if own else {})
