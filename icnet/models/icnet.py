"""ICNet (Zhao et al., ECCV 2018, arXiv 1704.08545) in the form of its best-known PyTorch implementation."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from icnet.models.backbone import BLOCKS, Backbone, BasicBlock, Bottleneck, ResNet
from icnet.models.modules import CascadeFeatureFusion, ConvBNReLU, PyramidPooling, SamePadding, resize
from icnet.models.network import Option, SegmentationNetwork
from icnet.models.published import from_imagenet


class ImageCascade(SegmentationNetwork):
    """The image cascade around any backbone: three branches see the image at full, half and quarter resolution.

    The full image passes three cheap convolutions (sub1), the half image the first half of the backbone (sub2), the
    quarter image all of it (sub4); two cascade feature fusions bring them together. Both smaller branches share the
    backbone's weights, and each runs only the layers whose result is used.

    Args:
        num_classes: Number of classes.
        make_backbone: Builds what sub2 and sub4 share.

    Shape:
        Input (N, 3, H, W) normalised float, H and W at least 64. In evaluation mode returns logits
        (N, num_classes, H, W); in training mode a dict of logits at about 1/4 (``sub124``), 1/8 (``sub24``) and 1/16
        (``sub4``) of the size, exactly so for sides divisible by 32.
    """

    min_side: ClassVar[int] = 64  # the quarter image's branch shrinks by 32: below, nothing is left to pool
    loss_weights: ClassVar[Mapping[str, float]] = {"sub124": 1.0, "sub24": 0.4, "sub4": 0.4}  # the reference's
    classifiers: ClassVar[tuple[str, ...]] = ("classifier.", "cff_24.aux_classifier.", "cff_12.aux_classifier.")
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "sub1": ("sub1.",), "backbone": ("backbone.",), "head": ("cff_24.", "cff_12.", "classifier.")
    }  # fmt: skip
    static_graph: ClassVar[bool] = True

    def __init__(self, num_classes: int, make_backbone: Callable[[], Backbone]) -> None:
        super().__init__(num_classes)
        self.sub1 = nn.Sequential(
            ConvBNReLU(3, 32, 3, stride=2), ConvBNReLU(32, 32, 3, stride=2), ConvBNReLU(32, 64, 3, stride=2)
        )
        self.backbone = make_backbone()
        self.pyramid_pooling = PyramidPooling()
        self.cff_24 = CascadeFeatureFusion(self.backbone.out_channels, self.backbone.mid_channels, 128, num_classes)
        self.cff_12 = CascadeFeatureFusion(128, 64, 128, num_classes)
        self.classifier = nn.Conv2d(128, num_classes, 1, bias=False)

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        """Segment; see the class for shapes.

        Raises:
            UserError: If a side of the image is shorter than 64 pixels.
        """
        self.check_size(image)
        height, width = image.shape[2], image.shape[3]
        sub1 = self.sub1(image)
        sub2 = self.backbone.forward_mid(resize(image, (height // 2, width // 2)))
        sub4 = self.pyramid_pooling(self.backbone(resize(image, (height // 4, width // 4))))
        sub24, aux_sub4 = self.cff_24(sub4, sub2)
        sub124, aux_sub24 = self.cff_12(sub24, sub1)
        # A 1x1 convolution without bias commutes with a bilinear resize: classify first, resize 19 channels, not 128.
        logits = self.classifier(sub124)
        logits = resize(logits, (2 * logits.shape[2], 2 * logits.shape[3]))
        if self.training:
            return {"sub124": logits, "sub24": aux_sub24, "sub4": aux_sub4}
        return resize(logits, (height, width))

    @override
    def imagenet_backbone(self) -> Backbone:
        return self.backbone

    @override
    def prepare_export(self, *, dynamic_size: bool) -> None:
        for module in self.modules():
            if isinstance(module, (PyramidPooling, SamePadding)):
                module.symbolic_size = dynamic_size


class ICNet(ImageCascade):
    """The image cascade on a dilated ResNet.

    Args:
        num_classes: Number of classes.
        backbone: One of ``icnet.models.backbone.BLOCKS``.
    """

    name_in_files: ClassVar[str] = "ICNet"  # as the Ascend port writes it
    options: ClassVar[Mapping[str, Option]] = {"backbone": Option("resnet50", tuple(BLOCKS))}
    stages: ClassVar[tuple[str, ...]] = (
        "sub1", "backbone.stem", "backbone.layer1", "backbone.layer2", "backbone.layer3", "backbone.layer4"
    )  # fmt: skip

    def __init__(self, num_classes: int, backbone: str = "resnet50") -> None:
        super().__init__(num_classes, partial(ResNet, backbone))

    @classmethod
    @override
    def title(cls, name: str, options: Mapping[str, Any]) -> str:
        return f"{name}_{options['backbone']}"

    @classmethod
    @override
    def translate_imagenet(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return from_imagenet(state_dict)

    @override
    def batchnorm_pairs(self) -> Iterator[tuple[str, str]]:
        """Yield all of them: those of the base, and ``conv1`` and ``bn1`` and so on in the backbone's blocks."""
        yield from super().batchnorm_pairs()
        for name, module in self.named_modules():
            if isinstance(module, (BasicBlock, Bottleneck)):
                for child, _ in module.named_children():
                    if child.startswith("conv"):
                        yield f"{name}.{child}", f"{name}.{child.replace('conv', 'bn')}"
