"""The ends of a graph: what comes out, and what is made of it."""

import pytest
import torch

from icnet.config import ExportOptions
from icnet.deploy.export import GraphSpec
from icnet.deploy.runtimes.heads import HEADS, confidence
from icnet.errors import UserError
from icnet.models import build_network

LOGITS = torch.tensor([[2.0, -1.0], [1.0, 0.0], [0.0, 5.0]]).view(1, 3, 1, 2)


def test_confidence_is_the_largest_probability():
    # exp(0) + exp(-1) + exp(-2) = 1.50321, exp(-6) + exp(-5) + exp(0) = 1.00922
    torch.testing.assert_close(confidence(LOGITS), torch.tensor([[[1 / 1.503215, 1 / 1.009217]]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(confidence(100 * LOGITS), torch.ones(1, 1, 2))  # nothing overflows


@pytest.mark.parametrize(("head", "dtype"), [("argmax", torch.int32), ("argmax_u8", torch.uint8)])
def test_labels_come_back_as_one_hot(head, dtype):
    labels = HEADS[head].attach(LOGITS)
    assert labels.dtype == dtype
    assert labels.tolist() == [[[0, 2]]]
    assert HEADS[head].scores([labels], 3).tolist() == [[[[1, 0]], [[0, 0]], [[0, 1]]]]


def test_scores_of_the_confidence_head_have_its_probabilities():
    labels, probability = HEADS["confidence"].attach(LOGITS)
    assert (labels.dtype, probability.dtype) == (torch.uint8, torch.float32)
    found = HEADS["confidence"].scores([labels, probability], 3).softmax(1)
    torch.testing.assert_close(found.amax(1), probability)
    assert torch.equal(found.argmax(1), labels.long())
    torch.testing.assert_close(found[0, 1, 0, 0], found[0, 2, 0, 0])  # what is left, in equal parts


@pytest.mark.parametrize("probability", [1 / 3 - 1e-7, 1 / 3, 1.0])
def test_label_stays_the_largest_at_the_ends_of_the_range(probability):
    scores = HEADS["confidence"].scores(
        [torch.tensor([[[2]]], dtype=torch.uint8), torch.full((1, 1, 1), probability)], 3
    )
    assert scores.isfinite().all()
    assert scores.argmax(1).item() == 2
    assert scores.softmax(1)[0, 2].item() == pytest.approx(probability, abs=1e-6)


@pytest.mark.parametrize("head", ["argmax_u8", "confidence"])
def test_more_classes_than_a_byte_holds_are_refused(head):
    net = build_network("icnet", 257, backbone="resnet18")
    with pytest.raises(UserError, match=f"head={head} has room for 256 classes and the network has 257; give argmax"):
        GraphSpec(64, 64, head=head).check_network(net)
    GraphSpec(64, 64, head="argmax").check_network(net)


def test_schema_names_the_same_heads():
    for head in (*HEADS, None):
        assert ExportOptions(head=head).head == head
    with pytest.raises(UserError, match=f"choose one of {', '.join(HEADS)}"):
        ExportOptions(head="softmax")
