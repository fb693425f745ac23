"""Time one training step: forward, loss, backward, optimizer.

    python -m benchmarks.train_step
    python -m benchmarks.train_step --reference ../ICNet-pytorch
    python -m benchmarks.train_step --height 256 --width 256 --batch 1 --device cuda --dtype bfloat16
    python -m benchmarks.train_step --also compiled checkpointed
    python -m benchmarks.train_step --optimizer adamw --also loop foreach fused

Ours is what ``train.py`` builds from its defaults and gets uint8 images, so its time includes the normalisation; the
reference gets normalised images, and its own loss. Both start with the same weights; "first loss" is the one before any
step, and differs by the reference's way of resizing labels. "GiB" is what a step takes at most beyond weights and
optimizer state. ``--also`` lets variants of ours take turns with it: ``compiled`` by inductor, ``captured`` as CUDA
graphs, ``checkpointed`` as ``trainer.activation_checkpointing=true`` does, the others by how the optimizer steps.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks import common
from benchmarks.memory import PeakMemory
from benchmarks.reference import import_reference
from icnet import factory
from icnet.config import DataConfig, ModelConfig, TrainConfig
from icnet.data.labels import CITYSCAPES_CLASSES, IGNORE_INDEX, LABEL_ID_TO_TRAIN_ID
from icnet.data.street import draw_scene
from icnet.models.published import from_reference
from icnet.training.activation_checkpointing import checkpoint_activations
from icnet.training.callbacks.compile_network import CUDA_GRAPH, INDUCTOR, compiled
from icnet.training.optim import FUSED, adamw, parameter_groups, sgd
from icnet.training.segmentation_task import SegmentationTask

DIFFERENT = 4  # images in a batch; drawing one of 960x960 takes a second
COMPILERS = {"compiled": INDUCTOR, "captured": CUDA_GRAPH}
KINDS = {
    "loop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True, "fused": False},
    "fused": {"foreach": False, "fused": True},
}
"""How torch's optimizers can step."""


def main() -> None:
    """Parse the command line, run, print."""
    parser = common.parser(__doc__, repeats=5, threads=2)
    common.add_network_options(parser, height=960, width=960)
    parser.add_argument("--batch", type=int, default=2, help="images in a step")
    parser.add_argument("--optimizer", default="sgd", choices=("sgd", "adamw"))
    parser.add_argument("--also", nargs="*", default=[], choices=(*COMPILERS, "checkpointed", *KINDS), help="variants")
    args = parser.parse_args()
    device = common.prepare(args.threads, args.device)

    image, mask = (tensor.to(device) for tensor in batch(args.batch, args.height, args.width))
    task = build(args.backbone).to(device)
    losses: dict[str, Callable[[], Tensor]] = {"icnet": partial(loss_of, task, image, mask)}
    groups: dict[str, list[dict[str, object]]] = {"icnet": parameters(task)}
    variants: dict[str, SegmentationTask] = {}
    for name in args.also:
        with common.autocast(device, args.dtype):
            variants[name] = variant(name, task, args.backbone, image)
        losses[name] = partial(loss_of, variants[name], image, mask)
        groups[name] = parameters(variants[name])

    if args.reference:
        network, criterion = import_reference(args.reference, "models.icnet:ICNet", "utils.loss:ICNetLoss")
        torch.manual_seed(0)
        reference_net = network(len(CITYSCAPES_CLASSES), args.backbone, pretrained_base=False).to(device).train()
        for ours in (task, *variants.values()):
            ours.net.load_state_dict(from_reference(reference_net.state_dict()))
        normalized = task.net.normalizer().to(device)(image)
        target = mask.long().masked_fill(mask == IGNORE_INDEX, -1)
        losses = {common.REFERENCE: lambda: criterion()(reference_net(normalized), target), **losses}
        groups[common.REFERENCE] = [{"params": list(reference_net.parameters())}]

    memory = PeakMemory(device)
    first: dict[str, str] = {}

    def timed(name: str) -> Callable[..., None]:
        def loss() -> Tensor:
            with common.autocast(device, args.dtype):
                return losses[name]()

        step = training_step(loss, groups[name], args.optimizer, KINDS.get(name))

        def once(turn: int = 0) -> None:
            first.setdefault(name, f"{step().item():.4f}")

        return once

    steps = {name: timed(name) for name in losses}
    seconds = common.take_turns(steps, args.repeats, device)
    for name, once in steps.items():
        memory.measure(name, once)
    title = f"training step, {args.backbone}, batch {args.batch}, {args.height}x{args.width}, {args.dtype}, {device}"
    more = {"GiB": memory.column(), "first loss": first}
    common.print_table(title, seconds, baseline=common.REFERENCE, device=device, more=more)


def batch(size: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Draw street scenes: (N, 3, H, W) uint8 images and (N, H, W) uint8 train ids."""
    drawn = [draw_scene(seed, height, width) for seed in range(min(size, DIFFERENT))]
    scenes = [drawn[number % DIFFERENT] for number in range(size)]
    images = torch.from_numpy(np.stack([image for image, _ in scenes])).permute(0, 3, 1, 2).contiguous()
    return images, torch.from_numpy(np.stack([LABEL_ID_TO_TRAIN_ID[labels] for _, labels in scenes])).byte()


def build(backbone: str) -> SegmentationTask:
    """Return what ``train.py`` trains by default, with its network in training mode."""
    config = TrainConfig(
        data=DataConfig(name="street"), model=ModelConfig(backbone=backbone), output_dir="outputs/benchmark"
    )
    return factory.task(config, CITYSCAPES_CLASSES).train()


def variant(name: str, task: SegmentationTask, backbone: str, image: Tensor) -> SegmentationTask:
    """Return another task with the same weights, of which ``name`` says what is different."""
    made = build(backbone).to(task.device)
    made.net.load_state_dict(task.net.state_dict())
    if name in COMPILERS:
        made.compiled = compiled(made.net, made.prepared(image), COMPILERS[name])
    if name == "checkpointed":
        checkpoint_activations(made.net)
    return made


def loss_of(task: SegmentationTask, image: Tensor, mask: Tensor) -> Tensor:
    """Return the loss that is trained."""
    return task.criterion(task(image), mask)["loss"]


def parameters(task: SegmentationTask) -> list[dict[str, object]]:
    """Return the optimizer's groups."""
    return parameter_groups(task.net.backbone_parameters(), task.net.head_parameters(), 0.01, 1.0)


def training_step(
    loss: Callable[[], Tensor], groups: list[dict[str, object]], name: str = "sgd", kind: dict[str, bool] | None = None
) -> Callable[[], Tensor]:
    """Return what makes one step of the optimizer, and returns the loss before it.

    Args:
        loss: Computes it.
        groups: The parameters.
        name: ``sgd`` or ``adamw``.
        kind: How torch steps; None for what training chooses.
    """
    device = next(iter(groups[0]["params"])).device.type  # type: ignore[call-overload]
    if name == "adamw":
        optimizer = adamw(groups, (0.9, 0.999), 1e-4, fused=device in FUSED)
    else:
        optimizer = sgd(groups, 0.9, 1e-4, nesterov=False, fused=device in FUSED)
    for group in optimizer.param_groups:
        group.update(kind or {})
    for group in optimizer.param_groups:
        group["lr"] = 0.01

    def step() -> Tensor:
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return value

    return step


if __name__ == "__main__":
    main()
