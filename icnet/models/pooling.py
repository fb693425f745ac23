"""Pyramid pooling: averages of features over grids of several sizes (PSPNet, Zhao et al., CVPR 2017)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icnet.errors import UserError
from icnet.models.modules import resize


@dataclass(frozen=True)
class FixedWindows:
    """Windows that features of one size are pooled by, instead of adaptive ones.

    Args:
        size: (height, width) of the features.
        kernels: (height, width) of the windows by grid size.
        strides: From one window to the next, likewise.
    """

    size: tuple[int, int]
    kernels: Mapping[int, tuple[int, int]]
    strides: Mapping[int, tuple[int, int]]


def pooling_factors(
    size: int, bins: int, window: tuple[int, int] | None = None, windowed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Build the matrices that pool a row of ``size`` values adaptively to ``bins`` and resize it back bilinearly.

    Adaptive average pooling and bilinear resizing are linear, and separable in height and width, so each is one matrix
    per axis. Bin k averages the values from floor(k size / bins) up to ceil((k + 1) size / bins), as
    ``torch.nn.functional.adaptive_avg_pool2d`` does; the resize aligns corners.

    Args:
        size: Length of the axis.
        bins: Pooled length.
        window: Length of the bins and the distance from one to the next, instead of adaptive ones.
        windowed: bool, whether ``window`` is used, if it is given: in a traced graph that depends on the size.

    Returns:
        (bins, size) and (size, bins) float64 on the CPU; every row sums to 1.
    """
    position = torch.arange(size)
    k = torch.arange(bins)
    first = (k * size) // bins
    last = ((k + 1) * size + bins - 1) // bins
    if window is not None and windowed is not None:
        first = torch.where(windowed, k * window[1], first)
        last = torch.where(windowed, k * window[1] + window[0], last)
    inside = (position >= first[:, None]) & (position < last[:, None])
    pool = inside.double() / (last - first)[:, None].double()
    # Aligned corners: output i looks at pooled position i (bins - 1) / (size - 1).
    source = position.double() * (bins - 1) / max(size - 1, 1)
    spread = F.relu(1 - (source[:, None] - k.double()).abs())  # not clamp: ONNX Runtime lacks Clip-11 for doubles
    return pool, spread


def _both_axes(rows: Tensor, columns: Tensor) -> Tensor:
    """Kronecker product: what (a, h) does to rows and (b, w) to columns, as (a b, h w) on all pixels at once."""
    product = rows[:, None, :, None] * columns[None, :, None, :]
    return product.reshape(rows.shape[0] * columns.shape[0], rows.shape[1] * columns.shape[1])


_Axis = tuple[int, int, tuple[int, int] | None, Tensor | None]  # the arguments of pooling_factors


class PyramidPooling(nn.Module):
    """Add to the features their own averages over grids of several sizes (PSPNet's pooling, summed, no convolutions).

    Equal to ``x + sum(resize(adaptive_avg_pool2d(x, b), x.shape) for b in bins)``, written as matrix products: exact,
    and free of adaptive pooling, which ONNX lacks for sizes that the bins do not divide.

    Args:
        bins: The grid sizes.
        windows: What takes the place of adaptive pooling for features of one size.

    Shape:
        (N, C, H, W) to the same shape, in channels-last order.
    """

    def __init__(self, bins: Sequence[int] = (1, 2, 3, 6), windows: FixedWindows | None = None) -> None:
        super().__init__()
        self.bins = tuple(bins)
        self.windows = windows
        self.symbolic_size = False  # an export with dynamic height and width sets it: matrices built inside the graph
        self._cache: dict[tuple[int, int, torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Pool and add; see the class for shapes."""
        if torch.jit.is_tracing():
            return self._traced(x)
        batch, channels, height, width = x.shape
        pool, spread = self._factors(height, width, x)
        pixels = x.permute(0, 2, 3, 1).reshape(batch, height * width, channels)  # no copy if x is channels-last
        pooled = torch.bmm(pool.expand(batch, -1, -1), pixels)  # all cells of all grids
        pixels = torch.baddbmm(pixels, spread.expand(batch, -1, -1), pooled)
        return pixels.reshape(batch, height, width, channels).permute(0, 3, 1, 2)

    def averages(self, x: Tensor) -> list[Tensor]:
        """Pool alone: (N, C, H, W) to (N, C, b, b) for each b of the bins."""
        if torch.jit.is_tracing():
            height, width = self._traced_size(x)
            axes = [self._axes(height, width, bins) for bins in self.bins]
            factors = [(pooling_factors(*rows)[0], pooling_factors(*columns)[0]) for rows, columns in axes]
            return [rows.to(x) @ x @ columns.to(x).t() for rows, columns in factors]
        pool, _ = self._factors(x.shape[2], x.shape[3], x)
        cells = torch.bmm(pool.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2))  # (N, cells of all grids, C)
        parts = cells.transpose(1, 2).split([bins**2 for bins in self.bins], 2)
        return [part.unflatten(2, (bins, bins)) for part, bins in zip(parts, self.bins, strict=True)]

    def _factors(self, height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """(cells, H W) and (H W, cells) for all cells of all grids, in the dtype and on the device of ``like``."""
        if torch.compiler.is_compiling():
            return self._build_factors(height, width, like)  # the size may be symbolic here
        key = (height, width, like.dtype, like.device)
        if key not in self._cache:
            if len(self._cache) >= 16:  # images of ever new sizes must not fill the memory
                self._cache.clear()
            with torch.inference_mode(False):
                self._cache[key] = self._build_factors(height, width, like)
        return self._cache[key]

    def _build_factors(self, height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
        pools, spreads = [], []
        for bins in self.bins:
            rows, columns = self._axes(height, width, bins)
            pool_rows, spread_rows = pooling_factors(*rows)
            pool_columns, spread_columns = pooling_factors(*columns)
            pools.append(_both_axes(pool_rows, pool_columns))
            spreads.append(_both_axes(spread_rows, spread_columns))
        # Rounded before they leave the CPU: not every device has float64.
        pool, spread = torch.cat(pools).to(like.dtype), torch.cat(spreads, 1).to(like.dtype)
        return pool.to(like.device), spread.to(like.device)

    def _traced(self, x: Tensor) -> Tensor:
        """Do the same on (N, C, H W), the layout of graphs: two MatMul for the cells of all grids, and an Add."""
        height, width = self._traced_size(x)
        pool, spread = self._build_factors(height, width, x)
        pixels = x.flatten(2)
        return (pixels + pixels @ pool.t() @ spread.t()).reshape(x.shape)

    def _axes(self, height: int, width: int, bins: int) -> tuple[_Axis, _Axis]:
        """Return what ``pooling_factors`` needs to know of rows and of columns."""
        if self.windows is None:
            return (height, bins, None, None), (width, bins, None, None)
        if torch.compiler.is_exporting() and not (isinstance(height, int) and isinstance(width, int)):
            raise UserError(f"its pooling has windows for features of {self.windows.size} alone")
        kernels, strides = self.windows.kernels[bins], self.windows.strides[bins]
        fits = _equal(height, self.windows.size[0]) & _equal(width, self.windows.size[1])
        return (height, bins, (kernels[0], strides[0]), fits), (width, bins, (kernels[1], strides[1]), fits)

    def _traced_size(self, x: Tensor) -> tuple[int, int]:
        height, width = x.shape[2], x.shape[3]
        return (height, width) if self.symbolic_size else (int(height), int(width))  # tensors while tracing


def _equal(side: int | Tensor, wanted: int) -> Tensor:
    return side == wanted if isinstance(side, Tensor) else torch.tensor(side == wanted)  # a tensor in a traced graph


class PyramidBranches(nn.Module):
    """Convolve the averages of the features over grids of several sizes, each resized to the features (as in PSPNet).

    Args:
        bins: The grid sizes.
        convs: A module for the averages of each.
        align_corners: See ``resize``.

    Shape:
        (N, C, H, W) to one (N, channels of the module, H, W) for each grid.
    """

    def __init__(self, bins: Sequence[int], convs: Iterable[nn.Module], *, align_corners: bool = True) -> None:
        super().__init__()
        self.pooling = PyramidPooling(bins)
        self.convs = nn.ModuleList(convs)
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> list[Tensor]:
        """Pool, convolve and resize; see the class for shapes.

        Raises:
            UserError: If a batch of one image is to be trained on, in whose average batch normalisation divides by the
                spread of a single value.
        """
        size = (x.shape[2], x.shape[3])
        averages = self.pooling.averages(x)
        for part, conv in zip(averages, self.convs, strict=True):
            alone = len(part) * part[0, 0].numel() == 1
            if alone and any(isinstance(norm, nn.BatchNorm2d) and norm.training for norm in conv.modules()):
                raise UserError(
                    "trainer.batch_size=1 gives the batch normalisation behind the network's pooling a single value; "
                    "give 2 or more"
                )
        return [
            resize(conv(part), size, align_corners=self.align_corners)
            for part, conv in zip(averages, self.convs, strict=True)
        ]
