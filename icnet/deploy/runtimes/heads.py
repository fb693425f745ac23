"""What an exported graph ends in: how it is computed in the graph, and what is made of it behind the graph."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

LARGEST_UINT8 = 255


@dataclass(frozen=True)
class Head:
    """The end of a graph.

    Args:
        about: What it gives, for people.
        outputs: The names of the graph's outputs.
        attach: Makes the outputs of (N, C, H, W) logits, inside the graph.
        scores: Makes (N, C, H, W) scores of the outputs and the number of classes; their largest tells the label.
        labels_only: Whether these scores are no logits.
        most_classes: How many classes it can tell apart.
    """

    about: str
    outputs: tuple[str, ...]
    attach: Callable[[Tensor], Tensor | tuple[Tensor, ...]]
    scores: Callable[[Sequence[Tensor], int], Tensor]
    labels_only: bool = True
    most_classes: int = 2**31 - 1


def confidence(logits: Tensor) -> Tensor:
    """Return the probability of the likeliest class, (N, H, W), of (N, C, H, W) logits.

    It is 1 / sum(exp(logit - largest)): softmax for that class alone, so that no second tensor of all classes is left.
    """
    return (logits - logits.amax(1, keepdim=True)).exp().sum(1).reciprocal()


def one_hot(labels: Tensor, count: int) -> Tensor:
    """Turn (N, H, W) labels into (N, count, H, W) zeros and ones."""
    return F.one_hot(labels.long(), count).permute(0, 3, 1, 2).float()


def spread(labels: Tensor, probability: Tensor, count: int) -> Tensor:
    """Make scores whose softmax gives each label its probability, and the other classes what is left in equal parts.

    Args:
        labels: (N, H, W) integers.
        probability: (N, H, W), that of the label.
        count: The number of classes.

    Returns:
        (N, count, H, W): log(p (count - 1) / (1 - p)) for the label, 0 for the others.
    """
    p = probability.clamp(max=1 - 1e-7)
    score = (p * max(count - 1, 1) / (1 - p)).log().clamp(min=1e-6)  # of the likeliest class p is at least 1 / count
    return one_hot(labels, count) * score.unsqueeze(1)


HEADS = {
    "logits": Head(
        "float32 (N, C, H, W)", ("logits",), lambda logits: logits, lambda outputs, count: outputs[0], labels_only=False
    ),
    "argmax": Head(
        "int32 labels (N, H, W)",
        ("labels",),
        lambda logits: logits.argmax(1).to(torch.int32),
        lambda outputs, count: one_hot(outputs[0], count),
    ),
    "argmax_u8": Head(
        "uint8 labels (N, H, W), a quarter of the bytes",
        ("labels",),
        lambda logits: logits.argmax(1).to(torch.uint8),
        lambda outputs, count: one_hot(outputs[0], count),
        most_classes=LARGEST_UINT8 + 1,
    ),
    "confidence": Head(
        "uint8 labels and float32 probabilities of them, (N, H, W) each",
        ("labels", "confidence"),
        lambda logits: (logits.argmax(1).to(torch.uint8), confidence(logits)),
        lambda outputs, count: spread(outputs[0], outputs[1], count),
        most_classes=LARGEST_UINT8 + 1,
    ),
}
"""The heads by the name of ``export.head``."""
