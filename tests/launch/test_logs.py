"""Each process of a run has a log file of its own."""

from pathlib import Path

from icnet.launch.logs import log_path
from icnet.launch.rank import ProcessRank


def test_log_is_named_after_device_and_node():
    assert log_path(Path("run"), "train", 2, ProcessRank(local_rank=1)) == Path("run/train_1.log")
    assert log_path(Path("run"), "train", [2, 3], ProcessRank(local_rank=1, node=1)) == Path("run/train_node1_3.log")
