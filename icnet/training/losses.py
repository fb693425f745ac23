"""The cascade loss: cross entropy on each of a network's training outputs."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def masked_cross_entropy(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Cross entropy per pixel, zero where the label is ignored.

    Ignored pixels are given class 0 and masked afterwards, so no target outside the classes ever reaches the kernel:
    some devices answer such a target with a wrong number instead of an error.

    Args:
        logits: (N, C, H, W) floating point.
        target: (N, H, W) integer train ids; anything where not ``valid``.
        valid: (N, H, W) bool.

    Returns:
        (N, H, W) float32.
    """
    safe = target.masked_fill(~valid, 0).long()
    loss = F.cross_entropy(logits.float(), safe, reduction="none")
    return loss * valid


def resize_labels(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Pick labels by nearest neighbour on the grid with aligned corners, the grid of every resize in the network.

    Args:
        mask: (N, H, W) integer labels.
        size: (height, width) of the result.

    Returns:
        (N, height, width) labels, each of them one of the input's.
    """
    rows, columns = (
        torch.linspace(0, length - 1, wanted, device=mask.device).round().long()
        for length, wanted in zip(mask.shape[1:], size, strict=True)
    )
    return mask.index_select(1, rows).index_select(2, columns)


def blend_labels(mask: Tensor, size: tuple[int, int], ignore_index: int) -> Tensor:
    """Resize class ids as the reference does: bilinearly, then truncated, with ignore as -1.

    Between classes 5 and 11 this invents class 8; it exists to reproduce published numbers, not to be used otherwise.

    Args:
        mask: (N, H, W) integer train ids.
        size: (height, width) of the result.
        ignore_index: The value of ignored labels in ``mask``.

    Returns:
        (N, height, width) int64, -1 where ignored.
    """
    ids = mask.float().masked_fill(mask == ignore_index, -1.0)
    return F.interpolate(ids[:, None], size=size, mode="bilinear", align_corners=True)[:, 0].long()


class CascadeLoss(nn.Module):
    """Weighted sum of the cross entropies of a network's training outputs, as the paper's cascade label guidance.

    Args:
        weights: Weight of each output by name; the paper's lambdas.
        ignore_index: Mask value that does not count.
        resize: How outputs and labels meet: ``nearest`` picks labels at each output's size, ``logits`` enlarges the
            outputs to the labels' size, ``blend`` is the reference's bilinear blending of class ids.
        class_weights: One weight per class; the mean is then weighted, as in ``torch.nn.CrossEntropyLoss``.
        ohem_threshold: Online hard example mining (Shrivastava et al., CVPR 2016): only pixels whose true class gets
            a probability of at most this count; 0 switches it off.
        ohem_min_kept: Share of the labelled pixels that count at least, the least probable ones.

    Shape:
        Outputs: dict of (N, C, h, w) logits. Mask: (N, H, W) integer train ids.
        Returns a dict with ``loss`` and one ``loss_<output>`` for each output, all float32 scalars. Where no pixel is
        labelled the loss is 0, with a gradient of 0.
    """

    class_weights: Tensor | None

    def __init__(
        self, weights: Mapping[str, float], *, ignore_index: int, resize: str = "nearest",
        class_weights: Sequence[float] | None = None, ohem_threshold: float = 0.0, ohem_min_kept: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.weights = dict(weights)
        self.ignore_index = ignore_index
        self.resize = resize
        self.ohem_threshold = ohem_threshold
        self.ohem_min_kept = ohem_min_kept
        table = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", table, persistent=False)

    def forward(self, outputs: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """Compute the loss; see the class for shapes."""
        losses = {f"loss_{name}": self.single(outputs[name], mask) for name in self.weights}
        total = sum(weight * losses[f"loss_{name}"] for name, weight in self.weights.items())
        return {"loss": torch.as_tensor(total), **losses}

    def single(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Loss of one output.

        Args:
            logits: (N, C, h, w).
            mask: (N, H, W).
        """
        size = (logits.shape[2], logits.shape[3])
        if self.resize == "logits" and size != mask.shape[1:]:
            logits = F.interpolate(logits.float(), size=mask.shape[1:], mode="bilinear", align_corners=True)
            target, valid = mask, mask != self.ignore_index
        elif self.resize == "blend":
            target = blend_labels(mask, size, self.ignore_index)
            valid = target >= 0
        else:
            target = mask if size == mask.shape[1:] else resize_labels(mask, size)
            valid = target != self.ignore_index
        loss = masked_cross_entropy(logits, target, valid)
        if self.ohem_threshold > 0:
            valid = valid & self._hard(loss.detach(), valid)
        weight = valid.float()
        if self.class_weights is not None:
            weight = weight * self.class_weights[target.masked_fill(~valid, 0).long()]
        total = weight.sum()
        return (loss * weight).sum() / torch.where(total > 0, total, torch.ones_like(total))

    def _hard(self, loss: Tensor, valid: Tensor) -> Tensor:
        """(N, h, w) bool: where the true class is improbable, and in any case the least probable share."""
        probability = torch.exp(-loss).masked_fill(~valid, 2.0)  # ignored pixels sort last
        kept = (valid.sum() * self.ohem_min_kept).ceil().long().clamp(min=1)
        least = probability.flatten().sort().values.gather(0, kept[None] - 1)
        return probability <= least.clamp(min=self.ohem_threshold)
