"""The scores of an evaluation for people: a table on the screen, a CSV file, the confusion matrix as a picture."""

import csv
import io
from pathlib import Path
from typing import Any

from torch import Tensor

from icnet.data import drawing, lettering
from icnet.data.labels import ClassTable
from icnet.run import files
from icnet.run.results import EvaluationRecord


def write_csv(path: Path, results: EvaluationRecord) -> None:
    """Write one row per class: ``class,iou`` (0-1, empty for absent classes), then the means."""
    means = {key: getattr(results, key) for key in ("miou", "category_miou", "pixel_acc")}
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["class", "iou"])
    rows = [*(results.iou or {}).items(), *means.items()]
    writer.writerows([name, "" if value is None or value != value else f"{value:.6f}"] for name, value in rows)
    files.write_text(path, text.getvalue())


def print_scores(results: EvaluationRecord, title: str) -> None:
    """Print the scores as a table, in percent."""
    from rich.console import Console
    from rich.table import Table

    table = Table("class", title=title)
    table.add_column("IoU %", justify="right")
    for name, value in (results.iou or {}).items():
        table.add_row(name, _percent(value))
    table.add_section()
    for name, value in (results.iou_category or {}).items():
        table.add_row(f"category {name}", _percent(value))
    table.add_section()
    table.add_row("[bold]mIoU", f"[bold]{_percent(results.miou)}")
    if results.category_miou is not None:
        table.add_row("category mIoU", _percent(results.category_miou))
    table.add_row("pixel accuracy", _percent(results.pixel_acc))
    table.add_row("running mean of mIoU (not official)", _percent(results.miou_running_mean))
    rate = results.images_per_s
    table.add_row("images/s (one image is not timed)", "-" if rate is None else f"{rate:.2f}")
    Console().print(table)


def _percent(value: float | None) -> str:
    return "absent" if value is None or value != value else f"{100 * value:.2f}"


def draw_confusion(path: Path, confusion: Tensor, classes: ClassTable, title: str) -> None:
    """Draw the confusion matrix, rows in percent of each label's pixels.

    Args:
        path: PNG file; numbers that stand for names in it have their key beside it, see ``drawing.write_key``.
        confusion: (C, C) counts, labels in rows.
        classes: Names.
        title: Above the picture; left out if it cannot be drawn.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = confusion.double()
    shares = 100 * counts / counts.sum(1, keepdim=True).clamp(min=1)
    size = 3 + 0.42 * len(classes)
    figure = Figure(figsize=(size, size), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares.numpy(), cmap="viridis", vmin=0, vmax=100)
    for row in range(len(classes)):
        for column in range(len(classes)):
            share = shares[row, column].item()
            if share >= 1:
                color = "black" if share > 60 else "white"
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=color)
    ticks = range(len(classes))
    names = [name if _can_draw(name) else str(i) for i, name in enumerate(classes.names)]
    axes.set_xticks(ticks, names, rotation=90)
    axes.set_yticks(ticks, names)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        _choose_font(label)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    if _can_draw(title):
        _choose_font(axes.set_title(title))
    figure.colorbar(image, label="% of the label's pixels", shrink=0.7)
    with files.atomic_file(path) as file:
        figure.savefig(file, format="png")
    drawing.write_key(path, classes, names)


def _can_draw(text: str) -> bool:
    """Tell whether matplotlib draws a text as it is written; it shapes letters from 3.11 on."""
    import matplotlib as mpl

    if lettering.is_plain(text):
        return True
    shapes = mpl.__version_info__ >= (3, 11) or not lettering.needs_shaping(text)
    return shapes and text.isprintable() and lettering.find_font(text) is not None


def _choose_font(label: Any) -> None:
    """Draw a label with a font that has its letters, and a dollar sign as one, not as the beginning of a formula."""
    label.set_parse_math(False)
    font = None if lettering.is_plain(label.get_text()) else lettering.find_font(label.get_text())
    if font:
        properties = label.get_fontproperties().copy()
        properties.set_file(font)
        label.set_fontproperties(properties)
