"""Curves as SVG that takes its colours from the page it stands in."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from icnet.run.reader import Points

COLORS = 8
"""How many colours the style sheet has for series (``--c1`` and on)."""

_TEXT = "#010203"  # colours that nothing else has, to be replaced by those of the page
_GRID = "#040506"
_SERIES = [f"#0708{number:02x}" for number in range(COLORS)]
_DASHES = ("-", "--", ":", "-.")
_MOST_POINTS = 400  # per curve: more cannot be seen, and cost space

_figures = itertools.count(1)


def curves(series: Sequence[tuple[int, Points]], title: str, xlabel: str, *, percent: bool = False, log: bool = False,
           size: tuple[float, float] = (4.6, 2.7)) -> str:  # fmt: skip
    """Draw curves.

    Args:
        series: Number of each curve (which decides its colour, and its dashes from the ninth on) and its points.
        title: What is shown, for those who cannot see it.
        xlabel: What the first numbers count.
        percent: Multiply values by 100.
        log: Logarithmic y axis, where all values are above 0.
        size: Width and height in inches, at 72 pixels each.

    Returns:
        An ``<svg>`` element without text from the caller but ``title``, which is escaped.
    """
    from html import escape
    from io import StringIO

    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    style: Any = {
        "svg.fonttype": "none", "font.size": 9, "axes.grid": True, "grid.linewidth": 0.5,
        "figure.facecolor": "none", "axes.facecolor": "none", "axes.edgecolor": _GRID, "grid.color": _GRID,
        "text.color": _TEXT, "axes.labelcolor": _TEXT, "xtick.color": _GRID, "ytick.color": _GRID,
        "xtick.labelcolor": _TEXT, "ytick.labelcolor": _TEXT, "axes.spines.top": False, "axes.spines.right": False,
        "axes.formatter.limits": (-3, 5),
    }  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        canvas = FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        factor = 100 if percent else 1
        for number, points in series:
            points = thin(points)
            axes.plot(
                [x for x, _ in points],
                [factor * y for _, y in points],
                color=_SERIES[number % COLORS],
                linestyle=_DASHES[number // COLORS % len(_DASHES)],
                linewidth=1.6,
                marker="o" if len(points) <= 40 else None,
                markersize=3,
            )
        if log and all(y > 0 for _, points in series for _, y in points):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.margins(x=0.02, y=0.08)
        axes.set_xlabel(xlabel)
        if max((x for _, points in series for x, _ in points), default=0) >= 2:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        text = StringIO()
        canvas.print_svg(text, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _embed(text.getvalue(), escape(title), next(_figures))


def thin(points: Points) -> Points:
    """Leave as many points as can be seen, the last among them."""
    step = -(-len(points) // _MOST_POINTS)
    return points if step <= 1 else [*points[:-1:step], points[-1]]


def _embed(svg: str, title: str, figure: int) -> str:
    """Make a file's SVG fit for a page: its colours, names that are unique there, a title."""
    svg = svg[svg.index("<svg") :]
    svg = svg.replace(_TEXT, "currentColor").replace(_GRID, "var(--grid)")
    for number, color in enumerate(_SERIES):
        svg = svg.replace(color, f"var(--c{number + 1})")
    svg = re.sub(r'\bid="([^"]+)"', rf'id="f{figure}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1f{figure}-", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def group(curves_: Mapping[str, Points], prefix: str) -> list[tuple[str, Points]]:
    """Return the curves whose name begins with ``prefix``, each set of equal ones once."""
    found: list[tuple[str, Points]] = []
    for name, points in curves_.items():
        if name.startswith(prefix) and all(points != known for _, known in found):
            found.append((name, points))
    return found
