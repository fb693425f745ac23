"""Flicker and the exponential mean, by hand."""

import numpy as np
import pytest
import torch

from icnet.deploy.demo.labelling import Labeller
from icnet.deploy.demo.smoothing import ExponentialMean, Flicker


def test_flicker_is_the_share_of_labels_that_change():
    flicker = Flicker()
    assert flicker.share is None
    flicker.add(np.array([[0, 1], [2, 3]]))
    assert flicker.share is None
    flicker.add(np.array([[0, 1], [2, 9]]))
    assert flicker.share == 1 / 4
    flicker.add(np.array([[1, 1], [9, 3]]))
    assert flicker.share == (1 + 3) / 8


def test_mean_counts_older_frames_less_and_less():
    mean, generator = ExponentialMean(0.75), torch.Generator().manual_seed(0)
    given = [torch.rand(2, 3, 4, generator=generator) for _ in range(4)]
    before = [frame.clone() for frame in given]
    out = [mean(frame).clone() for frame in given]
    a, b, c, d = given
    expected = (a, 0.75 * a + 0.25 * b, 0.5625 * a + 0.1875 * b + 0.25 * c)
    for got, wanted in zip(out, expected, strict=False):
        torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(out[3], 0.421875 * a + 0.140625 * b + 0.1875 * c + 0.25 * d)
    assert all(torch.equal(frame, old) for frame, old in zip(given, before, strict=True))


def test_labels_of_the_mean_flicker_less(model, reds):
    """Red is 0.8, 0.4, 0.4, 0.8 on the left; its mean with 0.6 is 0.8, 0.64, 0.544, 0.6464: red all the time."""
    labeller = Labeller(model, 0.6, confidence=True)
    frames = [frame[..., ::-1] for frame in reds((0.8, 0.2), (0.4, 0.2), (0.4, 0.2), (0.8, 0.2))]
    results = [labeller(frame) for frame in frames]
    assert [(result.labels[0, 0], result.labels[0, -1]) for result in results] == [(1, 0)] * 4
    assert labeller.flicker.share == 2 / 6  # two of three changes, on one half
    assert labeller.smoothed_flicker.share == 0
    for result, left in zip(results, (0.8, 0.64, 0.544, 0.6464), strict=True):
        assert result.confidence[0, 0] == round(255 * left)
        assert result.confidence[0, -1] == round(255 * 0.8)
        assert result.mean_confidence == pytest.approx((left + 0.8) / 2, abs=1e-5)


def test_without_smoothing_labels_are_those_of_the_network(model, reds):
    for confidence in (False, True):
        labeller = Labeller(model, 0.0, confidence=confidence)
        results = [labeller(frame[..., ::-1]) for frame in reds((0.8, 0.2), (0.4, 0.2), (0.4, 0.9))]
        assert [(result.labels[0, 0], result.labels[0, -1]) for result in results] == [(1, 0), (0, 0), (0, 1)]
        assert labeller.flicker.share == 2 / 4
        assert labeller.smoothed_flicker.share is None
        assert (results[0].confidence is None) is (results[0].mean_confidence is None) is not confidence
