"""The table of times, by hand."""

import pytest

from icnet.deploy.demo.timing import KEPT, StageTimes


def test_table_has_medians_and_99th_percentiles_without_the_first_picture():
    times = StageTimes()
    for stage, factor in (("read", 1), ("network", 10), ("draw", 2), ("write", 3)):
        times.add(stage, 5.0)  # warming up
        for number in range(101):  # 0 to 100 ms: the percentiles are whole
            times.add(stage, factor * number / 1000)
    assert times.table().split() == [
        "ms", "p50", "p99", "read", "50.0", "99.0", "network", "500.0", "990.0", "draw", "100.0", "198.0",
        "write", "150.0", "297.0",
    ]  # fmt: skip
    assert times.rate("network") == pytest.approx(2.0)


def test_only_picture_counts():
    times = StageTimes()
    for stage in ("read", "network", "draw", "write"):
        times.add(stage, 0.25)
    assert times.rate("network") == 4
    assert times.table().split()[-2:] == ["250.0", "250.0"]


def test_camera_without_end_takes_no_memory_without_end():
    times = StageTimes()
    times.add("read", 1.0)
    for _ in range(KEPT):
        times.add("read", 0.5)
    for _ in range(KEPT):
        times.add("read", 0.25)
    assert times.rate("read") == 4
