"""Counting label pixels, and the class weights that follow: worked by hand."""

import numpy as np
import pytest

from icnet import config
from icnet.data import statistics
from icnet.data.statistics import WEIGHTINGS, count_pixels, enet, median_frequency, median_frequency_root

# Three masks of 8 pixels and 4 classes; class 3 never occurs, and 4 pixels of the second mask are ignored.
PIXELS = np.array([[6, 2, 0, 0], [4, 0, 0, 0], [2, 0, 6, 0]])
IGNORED = np.array([0, 4, 0])


def test_median_frequency_is_that_of_the_hand_worked_masks():
    # freq: 12 of 24 pixels, 2 of 8, 6 of 8; their median is 1/2.
    assert median_frequency(PIXELS, IGNORED) == pytest.approx([1, 2, 2 / 3, 0])


def test_root_of_median_frequency_is_that_of_the_hand_worked_masks():
    assert median_frequency_root(PIXELS, IGNORED) == pytest.approx([1, 1.41421, 0.81650, 0], abs=1e-5)


def test_enet_weights_are_those_of_the_hand_worked_masks():
    # Shares of the 20 labelled pixels: 0.6, 0.1, 0.3. 1 / ln(1.62), 1 / ln(1.12), 1 / ln(1.32).
    assert enet(PIXELS, IGNORED) == pytest.approx([2.07286, 8.82391, 3.60189, 0], abs=1e-4)


@pytest.mark.parametrize("rule", WEIGHTINGS)
def test_class_that_never_occurs_gets_no_weight_and_moves_no_other(rule):
    weigh = WEIGHTINGS[rule].weigh
    assert weigh(PIXELS, IGNORED)[3] == 0
    assert weigh(PIXELS[:, :3], IGNORED) == pytest.approx(weigh(PIXELS, IGNORED)[:3])
    assert weigh(np.zeros((2, 3), np.int64), np.array([8, 8])).tolist() == [0, 0, 0]


def test_classes_that_are_as_frequent_get_the_same_weight():
    even = np.array([[4, 4], [4, 4]])
    assert median_frequency(even, np.zeros(2, np.int64)) == pytest.approx([1, 1])
    assert len(set(enet(even, np.zeros(2, np.int64)))) == 1


def test_rules_of_the_configuration_are_those_that_exist():
    assert set(config.CLASS_WEIGHTINGS) == set(WEIGHTINGS)


@pytest.mark.parametrize("exact", [2**24, 40])  # 40: two rows of 16 pixels at a time
def test_pixels_are_counted_by_class(monkeypatch, exact):
    monkeypatch.setattr(statistics, "EXACT", exact)
    mask = np.random.default_rng(0).choice(np.array([0, 1, 4, 255], np.uint8), (9, 16))
    expected = [int((mask == number).sum()) for number in (0, 1, 2, 3, 4, 255)]
    assert count_pixels(mask, 5).tolist() == expected
    assert count_pixels(mask[:, ::2], 5).sum() == 9 * 8  # a view counts its own pixels
