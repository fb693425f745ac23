"""ICNet (Zhao et al., ECCV 2018, arXiv 1704.08545) in the form of its best-known PyTorch implementation."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from icnet.models.backbone import BLOCKS, Backbone, ResNet
from icnet.models.cascade import RESNET_STAGES, Cascade
from icnet.models.modules import CascadeFeatureFusion, cheap_convolutions, resize
from icnet.models.network import Option
from icnet.models.pooling import PyramidPooling
from icnet.models.published import from_imagenet


class ImageCascade(Cascade):
    """The reference's image cascade around any backbone; its training outputs are exact for sides divisible by 32.

    Args:
        num_classes: Number of classes.
        make_backbone: Builds what sub2 and sub4 share.
        quarter_branch: See ``Cascade``.
        enlarge: See ``Cascade``.
    """

    classifiers: ClassVar[tuple[str, ...]] = ("classifier.", "cff_24.aux_classifier.", "cff_12.aux_classifier.")
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "sub1": ("sub1.",), "backbone": ("backbone.",), "head": ("cff_24.", "cff_12.", "classifier.")
    }  # fmt: skip

    def __init__(
        self, num_classes: int, make_backbone: Callable[[], Backbone], quarter_branch: str = "image", enlarge: int = 1
    ) -> None:
        super().__init__(num_classes)
        self.quarter_branch = quarter_branch
        self.enlarge = enlarge
        self.sub1 = cheap_convolutions(32, 32, 64)
        self.backbone = make_backbone()
        self.pyramid_pooling = PyramidPooling()
        classifier = partial(nn.Conv2d, out_channels=num_classes, kernel_size=1, bias=False)
        self.cff_24 = CascadeFeatureFusion(self.backbone.out_channels, self.backbone.mid_channels, 128, classifier)
        self.cff_12 = CascadeFeatureFusion(128, 64, 128, classifier)
        self.classifier = classifier(128)

    @classmethod
    @override
    def title(cls, name: str, options: Mapping[str, Any]) -> str:
        return super().title(name, options) + (f"_x{options['enlarge']}" if options["enlarge"] > 1 else "")

    @override
    def head_sub4(self, top: Tensor) -> Tensor:
        return self.pyramid_pooling(top)

    @override
    def classify(self, fused: Tensor) -> Tensor:
        # A 1x1 convolution without bias commutes with a bilinear resize: classify first, resize 19 channels, not 128.
        logits = self.classifier(fused)
        return resize(logits, (2 * logits.shape[2], 2 * logits.shape[3]))


ENLARGE = Option(1, (1, 2))


class ICNet(ImageCascade):
    """The image cascade on a dilated ResNet.

    Args:
        num_classes: Number of classes.
        backbone: One of ``icnet.models.backbone.BLOCKS``.
        quarter_branch: ``image``, as the reference has it, or ``features``, as other ICNets have: sub4 begins with
            sub2's features at half their size, instead of a second, smaller image.
        enlarge: How many times larger images are made first, 1 or 2.
    """

    name_in_files: ClassVar[str] = "ICNet"  # as the Ascend port writes it
    options: ClassVar[Mapping[str, Option]] = {
        "backbone": Option("resnet50", tuple(BLOCKS)), "quarter_branch": Option("image", ("image", "features")),
        "enlarge": ENLARGE,
    }  # fmt: skip
    stages: ClassVar[tuple[str, ...]] = RESNET_STAGES

    def __init__(
        self, num_classes: int, backbone: str = "resnet50", quarter_branch: str = "image", enlarge: int = 1
    ) -> None:
        super().__init__(num_classes, partial(ResNet, backbone), quarter_branch, enlarge)

    @classmethod
    @override
    def title(cls, name: str, options: Mapping[str, Any]) -> str:
        return super().title(name, options) + ("" if options["quarter_branch"] == "image" else "_features")

    @classmethod
    @override
    def translate_imagenet(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return from_imagenet(state_dict)
