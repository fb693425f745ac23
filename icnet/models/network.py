"""What every network says of itself, so that nobody else has to know it by name."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from icnet.errors import UserError
from icnet.models.modules import IMAGENET_MEAN, IMAGENET_STD, ConvBNReLU, ImageNormalizer


@dataclass(frozen=True)
class Option:
    """An argument of a network's constructor that a user may choose.

    Args:
        default: Its value where nothing is given; what is given has to be of the same type, or of any if it is None. A
            list is taken for a tuple.
        choices: The allowed values; empty for all.
    """

    default: Any
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True)
class NetworkDescription:
    """What rebuilds a network, by ``icnet.models.rebuild_network``; a checkpoint's ``model``.

    Args:
        name: Its name in ``icnet.models.NETWORKS``.
        options: All of its options.
        num_classes: Number of classes.
        widths: Of a pruned network, channels out and in of each module that is narrower than its class makes it, by
            the module's name; see ``icnet.models.pruning``.
    """

    name: str
    options: dict[str, Any]
    num_classes: int
    widths: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return it as files hold it: without widths unless it is pruned."""
        told = asdict(self)
        return told if self.widths else {key: value for key, value in told.items() if key != "widths"}


class SegmentationNetwork(nn.Module):
    """Base of all networks: a module that gives logits, and the facts that training, export and reports ask for.

    A subclass takes ``num_classes`` and its options as keyword arguments, sets ``loss_weights``, and overrides what
    differs from the defaults below. An entry in ``icnet.models.NETWORKS`` makes it known to all scripts.

    Args:
        num_classes: Number of classes.

    Attributes:
        name_in_files: What exports and the Ascend port's logs call it; empty for its name in ``NETWORKS``.
        options: The constructor's further arguments by name.
        min_side: Shortest side of an image in pixels.
        divisor: What both sides have to be a multiple of; 1 = anything.
        loss_weights: The training outputs' names, and the weight of each in the loss unless ``loss.weights`` says else.
        classifiers: How the names of those parameters begin whose shape depends on the number of classes.
        parts: What ``optim.freeze`` may name, and how the names of the modules in each begin, such as ``backbone.``.
        stages: Modules that make up most of the memory of a training step, each behind the other:
            ``trainer.activation_checkpointing`` keeps nothing but their inputs. They draw no random numbers.
        static_graph: Whether a training step does the same whatever the images are and however often it was done, so
            that DDP may rely on it.
        mean: Of the input, per RGB channel, for images scaled to 0-1.
        std: Likewise.
        widths: How narrow the modules of a pruned network are, see ``NetworkDescription``; empty if it is not.

    Shape:
        Input (N, 3, H, W) normalised float. In evaluation mode returns logits (N, num_classes, H, W); in training mode
        a dict with logits (N, num_classes, h, w) of any size for every name in ``loss_weights``.
    """

    name_in_files: ClassVar[str] = ""
    options: ClassVar[Mapping[str, Option]] = {}
    min_side: ClassVar[int] = 1
    divisor: ClassVar[int] = 1
    loss_weights: ClassVar[Mapping[str, float]]
    classifiers: ClassVar[tuple[str, ...]] = ()
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    stages: ClassVar[tuple[str, ...]] = ()
    static_graph: ClassVar[bool] = False
    mean: ClassVar[tuple[float, float, float]] = IMAGENET_MEAN
    std: ClassVar[tuple[float, float, float]] = IMAGENET_STD

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.widths: Mapping[str, Sequence[int]] = {}

    @classmethod
    def title(cls, name: str, options: Mapping[str, Any]) -> str:
        """Return what reports call the network.

        Args:
            name: Its name in ``NETWORKS``.
            options: All of its options.
        """
        return name

    @classmethod
    def allowed_side(cls, side: int) -> int:
        """Return the shortest side from ``side`` pixels on that the network takes."""
        return allowed_side(side, cls.min_side, cls.divisor)

    def check_size(self, image: Tensor) -> None:
        """Refuse an image that the network cannot take; for the beginning of ``forward``.

        Args:
            image: (N, 3, H, W).

        Raises:
            UserError: If a side is too short or no multiple of ``divisor``.
        """
        if torch.compiler.is_exporting():  # a side that becomes a number here would be fixed in the program
            return
        height, width = int(image.shape[2]), int(image.shape[3])
        fit = self.allowed_side(height), self.allowed_side(width)
        if fit != (height, width):
            wrong = "does not suit"
            if min(height, width) < self.min_side:
                wrong, fit = "is too small for", (self.allowed_side(1), self.allowed_side(1))
            raise UserError(
                f"an image of {height}x{width} (height x width) {wrong} {type(self).__name__}; resize it to sides of "
                f"{describe_sides(self.min_side, self.divisor, ' each')}, such as {fit[0]}x{fit[1]}"
            )

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Return the parameters trained at ``optim.lr`` times ``optim.backbone_lr_mult``: those of ImageNet weights."""
        backbone = self.imagenet_backbone()
        return [] if backbone is None else list(backbone.parameters())

    def head_parameters(self) -> list[nn.Parameter]:
        """Return all other parameters, trained at ``optim.lr`` times ``optim.head_lr_mult``."""
        backbone = {id(parameter) for parameter in self.backbone_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in backbone]

    def imagenet_backbone(self) -> nn.Module | None:
        """Return the part that ``model.backbone_weights`` are loaded into; None if there are no such weights."""
        return None

    @classmethod
    def translate_imagenet(cls, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Give the tensors of a file of ImageNet weights the names that they have in ``imagenet_backbone()``.

        Args:
            state_dict: As the file names them, without ``module.``.
        """
        return state_dict

    def normalizer(self) -> ImageNormalizer:
        """Return what turns uint8 images into the network's input."""
        return ImageNormalizer(self.mean, self.std)

    def batchnorm_pairs(self) -> Iterator[tuple[str, str]]:
        """Yield the names of each convolution and the batch normalisation that is given nothing but its output.

        Those are folded into one for inference; any other stays as it is. By default the pairs in every ``ConvBNReLU``
        and of neighbours in a ``Sequential``, unless a class of its own runs them in another way; a network that runs
        only parts of one, or pairs modules of its own, overrides this.
        """
        for name, module in self.named_modules():
            pairs: list[tuple[str, str]] = []
            if isinstance(module, ConvBNReLU) and type(module).forward is ConvBNReLU.forward:
                pairs = [("conv", "bn")]
            elif isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
                # With every place of a module that is used several times: the neighbours are those that run in turn.
                children = [child for child, _ in module.named_modules(remove_duplicate=False) if "." not in child][1:]
                pairs = list(zip(children, children[1:], strict=False))
            for conv, norm in pairs:
                if can_fold(module.get_submodule(conv), module.get_submodule(norm)):
                    yield f"{name}.{conv}".lstrip("."), f"{name}.{norm}".lstrip(".")

    def prepare_export(self, *, dynamic_size: bool) -> None:
        """Get ready for being traced as ONNX; called on a copy that is used for nothing else.

        Args:
            dynamic_size: Whether height and width stay open in the graph, or are those of the traced image.
        """


def allowed_side(side: int, min_side: int, divisor: int) -> int:
    """Return the shortest side from ``side`` pixels on that is at least ``min_side`` and a multiple of ``divisor``."""
    return -(-max(side, min_side) // divisor) * divisor


def describe_sides(min_side: int, divisor: int, each: str = "") -> str:
    """Say which sides are allowed, for messages, such as ``at least 64 pixels each, a multiple of 32``."""
    return f"at least {min_side} pixels{each}" + (f", a multiple of {divisor}" if divisor > 1 else "")


def can_fold(conv: nn.Module, norm: nn.Module) -> bool:
    """Tell whether ``norm`` behind ``conv`` is a fixed scale and shift per channel that the weights can take in."""
    # Subclasses may compute anything; without running statistics every batch has a scale of its own.
    return type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.running_mean is not None
