"""What all image cascades share (Zhao et al., ECCV 2018, arXiv 1704.08545)."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from icnet.models.backbone import Backbone, BasicBlock, Bottleneck
from icnet.models.modules import CascadeFeatureFusion, SamePadding, resize
from icnet.models.network import SegmentationNetwork
from icnet.models.pooling import PyramidPooling

RESNET_STAGES = (
    "sub1", "backbone.stem", "backbone.layer1", "backbone.layer2", "backbone.layer3", "backbone.layer4"
)  # fmt: skip
"""The ``stages`` of a cascade around a ResNet."""


class Cascade(SegmentationNetwork, ABC):
    """Three branches see the image at full, half and quarter resolution; two cascade feature fusions join them.

    The full image passes a few cheap convolutions (``sub1``), the half image the first part of the backbone (sub2), and
    the quarter image all of it, or the half image's features, halved once more, the rest of it (sub4). What a subclass
    makes are the modules named here and ``head_sub2``, ``head_sub4`` and ``classify``.

    Attributes:
        sub1: (N, 3, H, W) to features of about 1/8 of the size.
        backbone: Shared by sub2 and sub4; each runs only the layers whose result is used.
        cff_24: Fuses sub4 into sub2.
        cff_12: Fuses the result into sub1.
        align_corners: Of all resizes, see ``icnet.models.modules.resize``.
        quarter_branch: ``image`` or ``features``: what sub4 begins with.
        enlarge: How many times larger the image is made first, for small ones: thin things are lost at 1/8 of them.

    Shape:
        Input (N, 3, H, W) normalised float, H and W at least 64. In evaluation mode returns logits
        (N, num_classes, H, W); in training mode a dict of logits of at most 1/4 of the enlarged size (``sub124``), of
        about 1/8 (``sub24``) and of about 1/16 (``sub4``).
    """

    min_side: ClassVar[int] = 64  # the quarter image's branch shrinks by 32: below, nothing is left to pool
    loss_weights: ClassVar[Mapping[str, float]] = {"sub124": 1.0, "sub24": 0.4, "sub4": 0.4}  # the reference's
    static_graph: ClassVar[bool] = True
    align_corners: ClassVar[bool] = True
    quarter_branch: str = "image"
    enlarge: int = 1
    sub1: nn.Module
    backbone: Backbone
    cff_24: CascadeFeatureFusion
    cff_12: CascadeFeatureFusion

    def shrink(self, x: Tensor, factor: int) -> Tensor:
        """Resize to 1/2 or 1/4 of the size: by default each side rounded down."""
        return resize(x, (x.shape[2] // factor, x.shape[3] // factor), align_corners=self.align_corners)

    def head_sub2(self, middle: Tensor) -> Tensor:
        """Make sub2's output of the backbone's middle features."""
        return middle

    @abstractmethod
    def head_sub4(self, top: Tensor) -> Tensor:
        """Make sub4's output of the backbone's last features."""

    @abstractmethod
    def classify(self, fused: Tensor) -> Tensor:
        """Make the logits ``sub124`` of what the fusions give."""

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        """Segment; see the class for shapes.

        Raises:
            UserError: If a side of the image is shorter than ``min_side`` pixels.
        """
        self.check_size(image)
        height, width = image.shape[2], image.shape[3]
        if self.enlarge > 1:
            image = resize(image, (height * self.enlarge, width * self.enlarge), align_corners=self.align_corners)
        sub1 = self.sub1(image)
        middle = self.backbone.forward_mid(self.shrink(image, 2))
        sub2 = self.head_sub2(middle)
        if self.quarter_branch == "image":
            top = self.backbone(self.shrink(image, 4))
        else:
            top = self.backbone.forward_deep(self.shrink(middle, 2))
        sub24, aux_sub4 = self.cff_24(self.head_sub4(top), sub2)
        sub124, aux_sub24 = self.cff_12(sub24, sub1)
        logits = self.classify(sub124)
        if self.training:
            return {"sub124": logits, "sub24": aux_sub24, "sub4": aux_sub4}
        return resize(logits, (height, width), align_corners=self.align_corners)

    @classmethod
    @override
    def title(cls, name: str, options: Mapping[str, Any]) -> str:
        return f"{name}_{options['backbone']}" if "backbone" in options else name

    @override
    def imagenet_backbone(self) -> Backbone:
        return self.backbone

    @override
    def prepare_export(self, *, dynamic_size: bool) -> None:
        for module in list(self.modules()):
            if isinstance(module, (PyramidPooling, SamePadding)):
                module.symbolic_size = dynamic_size
            elif isinstance(module, CascadeFeatureFusion):
                module.prepare_export()

    @override
    def batchnorm_pairs(self) -> Iterator[tuple[str, str]]:
        """Yield all of them: those of the base, and ``conv1`` and ``bn1`` and so on in a ResNet's blocks."""
        yield from super().batchnorm_pairs()
        for name, module in self.named_modules():
            if isinstance(module, (BasicBlock, Bottleneck)):
                for child, _ in module.named_children():
                    if child.startswith("conv"):
                        yield f"{name}.{child}", f"{name}.{child.replace('conv', 'bn')}"
