"""Time one whole image through the network in evaluation mode.

    python -m benchmarks.forward
    python -m benchmarks.forward --reference ../ICNet-pytorch
    python -m benchmarks.forward --height 256 --width 512 --backbone resnet101 --device cuda --dtype bfloat16
    python -m benchmarks.forward --device cuda --dtype float16 --also compiled graph --repeats 200

"as shipped" is what evaluation and the demo run: a uint8 image in, normalisation included. The reference's network and
"network only" get the normalised image; "plain module" is the network without what ``TorchSegmenter`` does to it. With
--reference both have the same weights (its initial ones, seed 0), and the largest difference of two logits is shown
beside the largest logit. ``--also`` adds variants of "as shipped": ``compiled`` by torch.compile, ``graph`` as
a CUDA graph, which is started as a whole. From 100 rounds on the 99th percentile is shown too.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import common
from benchmarks.reference import import_reference
from icnet import factory
from icnet.config import ModelConfig
from icnet.data.labels import CITYSCAPES_CLASSES
from icnet.data.street import draw_scene
from icnet.deploy.runtimes.torch_segmenter import TorchSegmenter
from icnet.models.published import from_reference

ROUNDS_OF_P99 = 100  # fewer tell nothing about the slowest in a hundred


def compiled(segmenter: nn.Module, image: Tensor) -> Callable[[], Tensor]:
    """Return what computes the segmenter's logits of ``image`` once it was compiled, in the first call."""
    return partial(torch.compile(segmenter, dynamic=False), image)


def captured(segmenter: nn.Module, image: Tensor) -> Callable[[], Tensor]:
    """Return what starts everything that the segmenter does to ``image`` at once, as a CUDA graph."""
    # Weights that autocast had cast before would not be part of the graph, and freed behind its back.
    casts = torch.autocast(
        "cuda", torch.get_autocast_dtype("cuda"), enabled=torch.is_autocast_enabled("cuda"), cache_enabled=False
    )
    stream = torch.cuda.Stream()  # a capture needs another than the usual one, and everything set up before it
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), casts:
        for _ in range(3):
            segmenter(image)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), casts:
        logits = segmenter(image)

    def replay() -> Tensor:
        graph.replay()
        return logits

    return replay


VARIANTS = {"compiled": compiled, "graph": captured}


def main() -> None:
    """Parse the command line, run, print."""
    parser = common.parser(__doc__, repeats=7, threads=2)
    common.add_network_options(parser, height=1024, width=2048)
    parser.add_argument("--batch", type=int, default=1, help="images at once")
    parser.add_argument("--also", nargs="*", default=[], choices=VARIANTS, help="variants of ours")
    args = parser.parse_args()
    device = common.prepare(args.threads, args.device)

    net = factory.network(ModelConfig(backbone=args.backbone), CITYSCAPES_CLASSES.names, channels_last=False)
    reference_net = None
    if args.reference:
        (reference,) = import_reference(args.reference, "models.icnet:ICNet")
        torch.manual_seed(0)
        reference_net = reference(len(CITYSCAPES_CLASSES), args.backbone, pretrained_base=False).eval().to(device)
        net.load_state_dict(from_reference(reference_net.state_dict()))
    net = net.eval().to(device)
    segmenter = TorchSegmenter(net, net.normalizer(), CITYSCAPES_CLASSES).to(device)

    pixels = torch.from_numpy(draw_scene(1, args.height, args.width)[0]).permute(2, 0, 1)
    image = pixels.expand(args.batch, -1, -1, -1).contiguous().to(device)
    normalized = net.normalizer().to(device)(image)
    channels_last = normalized.contiguous(memory_format=torch.channels_last)
    whole: dict[str, Callable[[], Tensor]] = {
        "icnet, as shipped": lambda: segmenter(image),
        "icnet, network only": lambda: segmenter.net(channels_last),
        "icnet, plain module": lambda: net(normalized),
    }
    with torch.inference_mode(), common.autocast(device, args.dtype):
        for name in args.also:
            whole[name] = VARIANTS[name](segmenter, image)
    if reference_net is not None:
        whole = {common.REFERENCE: lambda: reference_net(normalized)[0], **whole}

    logits: dict[str, Tensor] = {}

    def timed(name: str) -> Callable[[int], None]:
        def run(turn: int) -> None:
            result = whole[name]()
            if turn < 0:
                logits[name] = result.float().cpu()

        return run

    with torch.inference_mode(), common.autocast(device, args.dtype):
        seconds = common.take_turns({name: timed(name) for name in whole}, args.repeats, device)
    more = {}
    if args.repeats >= ROUNDS_OF_P99:
        more["p99 ms"] = {name: f"{1000 * np.quantile(rounds, 0.99):.1f}" for name, rounds in seconds.items()}
    if reference_net is not None:
        expected = logits[common.REFERENCE]
        more["logit difference"] = {name: f"{(x - expected).abs().max():.1e}" for name, x in logits.items()}
        more["largest logit"] = {name: f"{x.abs().max():.1f}" for name, x in logits.items()}
    title = f"forward, {args.backbone}, batch {args.batch}, {args.height}x{args.width}, {args.dtype}, {device}"
    common.print_table(title, seconds, baseline=common.REFERENCE, device=device, more=more)


if __name__ == "__main__":
    main()
