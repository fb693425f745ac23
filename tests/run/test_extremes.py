"""The scores beside the best and worst images."""

import pytest

from icnet.run.extremes import read_mious, write_mious


def test_scores_are_read_as_they_were_written(tmp_path):
    write_mious(tmp_path, {"best_1_a.jpg": 0.75, "worst_1_b.jpg": 0.0})
    assert read_mious(tmp_path) == {"best_1_a.jpg": 0.75, "worst_1_b.jpg": 0.0}


@pytest.mark.parametrize("text", [None, "", "[1]", '{"best_1_a.jpg": "high"}', '{"best_1_a.jpg": null}', "{"])
def test_scores_that_cannot_be_read_are_none(tmp_path, text):
    if text is not None:
        (tmp_path / "extremes.json").write_text(text)
    assert read_mious(tmp_path) == {}
