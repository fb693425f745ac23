"""Structured pruning: whole filters leave a network, which becomes smaller and faster everywhere.

As the paper compresses its network (arXiv 1704.08545, section 4): filters are ranked by their L1 norm (Li et al., ICLR
2017, arXiv 1608.08710), those with the smallest are removed, and training goes on. Channels that are summed, or pass a
depthwise convolution, leave together; torch-pruning tells which (DepGraph, Fang et al., CVPR 2023).
"""

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from icnet.errors import UserError
from icnet.models.network import SegmentationNetwork

Widths = Mapping[str, Sequence[int]]
"""Channels out and in of every module that is narrower than the network's class makes it, by its name."""


def prune(net: SegmentationNetwork, keep: float) -> None:
    """Remove the filters with the smallest norms, in place; ``net.widths`` then describes what is left.

    Args:
        net: A network with trained weights, or one that was pruned before. All but its classifiers gets narrower.
        keep: Share of the filters in each group of dependent ones that stays, 0-1, rounded, but at least one.

    Raises:
        UserError: If torch-pruning is missing, or the network cannot be pruned.
    """
    if not net.classifiers:
        raise UserError(
            f"model.keep={keep} cannot be used: {type(net).__name__} does not say in classifiers which of its "
            "parameters belong to classes; use a network that does"
        )
    kept = kept_channels(net, keep)
    for name, (out, into) in kept.items():
        _narrow(net.get_submodule(name), out, into)
    net.widths = {**net.widths, **{name: [len(out), len(into)] for name, (out, into) in kept.items()}}


def narrow(net: SegmentationNetwork, widths: Widths) -> None:
    """Make a network as narrow as a description says, in place; which of the fresh weights stay means nothing.

    Args:
        net: As its class builds it.
        widths: See ``Widths``.

    Raises:
        UserError: If they are no widths of this network.
    """
    modules = dict(net.named_modules())
    for name, (out, into) in widths.items():
        most = _widths(modules[name]) if name in modules else (0, 0)
        if not (1 <= out <= most[0] and 1 <= into <= most[1]):
            raise UserError(
                f"{type(net).__name__} has no {name} of {out} channels out and {into} in; use the code that wrote this"
            )
        _narrow(modules[name], list(range(out)), list(range(into)))
    net.widths = dict(widths)


def cost(net: SegmentationNetwork) -> tuple[int, int]:
    """Count parameters, and the multiply-adds of convolutions and matrices for one image of about 1024x2048."""
    from torch.utils.flop_counter import FlopCounterMode

    outline = copy.deepcopy(net).to("meta").eval()
    image = torch.zeros(1, 3, net.allowed_side(1024), net.allowed_side(2048), device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        outline(image)
    return sum(parameter.numel() for parameter in net.parameters()), counter.get_total_flops() // 2


def describe_cost(net: SegmentationNetwork, full: SegmentationNetwork) -> str:
    """Compare a pruned network with what its class builds, such as ``7.1 M of 26.2 M parameters, ...``."""
    (parameters, work), (all_parameters, all_work) = cost(net), cost(full)
    return (
        f"{parameters / 1e6:.1f} M of {all_parameters / 1e6:.1f} M parameters, {work / 1e9:.1f} of "
        f"{all_work / 1e9:.1f} billion multiply-adds for an image of 1024x2048"
    )


def kept_channels(net: SegmentationNetwork, keep: float) -> dict[str, tuple[list[int], list[int]]]:
    """Choose what stays.

    Args:
        net: See ``prune``; it stays as it is.
        keep: Likewise.

    Returns:
        By the name of each module that gets narrower, which of its channels out and in stay, in their order.

    Raises:
        UserError: See ``prune``.
    """
    tp = _import_torch_pruning()
    # The meta device computes nothing, and has a plain convolution where a CPU has another form of it
    # (resize_and_convolve), in which no module would be seen.
    outline = copy.deepcopy(net).to("meta").requires_grad_(True)
    names = {module: name for name, module in outline.named_modules()}
    classifiers = [module for module, name in names.items() if f"{name}.".startswith(net.classifiers)]
    side = net.allowed_side(128)
    with torch.enable_grad():
        graph = tp.DependencyGraph().build_dependency(
            outline,
            torch.zeros(2, 3, side, side, device="meta"),
            forward_fn=lambda module, image: module.train()(image),  # where every output is; 1.6 sets evaluation mode
        )
    removed: dict[str, tuple[set[int], set[int]]] = defaultdict(lambda: (set(), set()))
    for group in graph.get_all_groups(ignored_layers=classifiers):
        norms = _norms(net, names, graph, group)
        count = len(norms) - max(1, round(keep * len(norms)))
        if count <= 0:
            continue
        root = group[0].dep
        worst = norms.argsort(stable=True)[:count].tolist()
        for dep, channels in graph.get_pruning_group(root.target.module, root.handler, worst):
            member = dep.target.module
            if isinstance(member, nn.Module) and member not in names:  # stands for a sum, a resize or the like
                continue
            name = names.get(member, "a parameter of its own")
            if not isinstance(member, (nn.Conv2d, nn.BatchNorm2d)):
                raise UserError(
                    f"model.keep={keep} cannot be used: {name} of {type(net).__name__} is neither Conv2d nor "
                    "BatchNorm2d; use a network of those alone"
                )
            out, into = removed[name]
            if graph.is_out_channel_pruning_fn(dep.handler) or _one_to_one(member):
                out.update(channels)
            if not graph.is_out_channel_pruning_fn(dep.handler) or _one_to_one(member):
                into.update(channels)
    kept = {}
    for name, (no_out, no_into) in removed.items():
        all_out, all_into = _widths(net.get_submodule(name))
        kept[name] = _left(all_out, no_out), _left(all_into, no_into)
    return kept


def _left(count: int, gone: set[int]) -> list[int]:
    return [channel for channel in range(count) if channel not in gone]


def _norms(net: nn.Module, names: Mapping[nn.Module, str], graph: Any, group: Any) -> Tensor:
    """Sum the L1 norms of the filters that make each channel of a group: several where channels are summed."""
    norms = torch.zeros(len(group[0].idxs), dtype=torch.float64)
    for item in group:
        member = item.dep.target.module
        if isinstance(member, nn.Conv2d) and graph.is_out_channel_pruning_fn(item.dep.handler):
            weight = net.get_submodule(names[member]).weight
            assert isinstance(weight, Tensor)  # noqa: S101 (a convolution's)
            filters = weight.detach().cpu().double().abs().flatten(1).sum(1)
            norms.index_add_(0, torch.tensor(item.root_idxs), filters[torch.tensor(item.idxs)])
    return norms


def _import_torch_pruning() -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise UserError("model.keep takes torch-pruning; run 'pip install torch-pruning'") from error
    return torch_pruning


def _one_to_one(module: nn.Module) -> bool:
    """Tell whether each channel out is made of the channel in of the same number alone."""
    return isinstance(module, nn.BatchNorm2d) or (isinstance(module, nn.Conv2d) and module.groups > 1)


def _widths(module: nn.Module) -> tuple[int, int]:
    """Return how many channels go out and in; none where a module has no filters that could leave."""
    if isinstance(module, nn.BatchNorm2d):
        return module.num_features, module.num_features
    if isinstance(module, nn.Conv2d) and module.groups in (1, module.in_channels):
        return module.out_channels, module.in_channels
    return 0, 0


def _narrow(module: nn.Module, out: Sequence[int], into: Sequence[int]) -> None:
    """Leave a convolution or batch normalisation nothing but some of its channels, in place."""
    rows, columns = torch.tensor(out), torch.tensor(into)
    if isinstance(module, nn.Conv2d):
        module.out_channels, module.in_channels = len(out), len(into)
        if module.groups > 1:
            module.groups = len(into)
            columns = torch.tensor([0])  # each filter sees one channel
    elif isinstance(module, nn.BatchNorm2d):
        module.num_features = len(out)
    for key, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        if value is None or value.dim() == 0:
            continue
        less = value.detach().index_select(0, rows.to(value.device))
        if less.dim() > 1:
            less = less.index_select(1, columns.to(value.device))
        if isinstance(value, nn.Parameter):
            setattr(module, key, nn.Parameter(less, value.requires_grad))
        else:
            module.register_buffer(key, less)
