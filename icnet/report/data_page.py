"""The page of a data set that was looked through, and the same in short for the terminal."""

from pathlib import Path
from typing import Any

from icnet.report import page
from icnet.report.embed import embed_all
from icnet.report.table import percent
from icnet.run.data_findings import PAGE, DataFindings, SplitFindings

SHOWN = 20  # lines of one kind in the terminal
SHOWN_SIZES = 12
SHOWN_ON_PAGE = 500  # lines of one kind there; the JSON file has all


def write_data_page(findings: DataFindings, output: Path) -> Path:
    """Write the page of a data set; it needs nothing else to be looked at.

    Args:
        findings: What was found.
        output: The folder for it, with the pictures of samples below it.

    Returns:
        The page.

    Raises:
        UserError: If the folder cannot be written to.
    """
    samples = sum(split.samples for split in findings.splits)
    return page.write_page(
        output / PAGE,
        "data.html",
        title=f"Data set {findings.data}",
        subtitle=f"{findings.root or ''}: {samples} samples in {', '.join(split.name for split in findings.splits)}",
        warning=" ".join(findings.warnings),
        problems=findings.problems[:SHOWN_ON_PAGE],
        more_problems=len(findings.problems) - SHOWN_ON_PAGE,
        splits=[_facts(split) for split in findings.splits],
        classes=_classes(findings),
        duplicates=findings.duplicates[:SHOWN_ON_PAGE],
        more_duplicates=len(findings.duplicates) - SHOWN_ON_PAGE,
        suspicious=findings.suspicious[:SHOWN_ON_PAGE],
        more_suspicious=len(findings.suspicious) - SHOWN_ON_PAGE,
        weights=[
            vars(suggestion) | {"line": _override(suggestion.weights)} for suggestion in findings.class_weights
        ],
        pictures=embed_all([output / name for name in findings.pictures]),
    )  # fmt: skip


def print_findings(findings: DataFindings) -> None:
    """Print what was found in short: each problem and warning, and how much there is of everything else."""
    for split in findings.splits:
        sizes, count = list(split.sizes), len(split.sizes)
        print(
            f"{findings.data}, {split.name}: {split.samples} images, {split.decoded} of them decoded; "
            f"{', '.join(sizes[:3])}{f' and {count - 3} further sizes' if count > 3 else ''}; "
            f"{', '.join(split.image_formats)}; ignored {_percent(split.ignored_share)}"
        )
        if split.missing:
            print(f"  never occur: {', '.join(split.missing)}")
    for suggestion in findings.class_weights:
        print(f"loss.class_weights={suggestion.rule} comes to {_override(suggestion.weights)}")
    for kind, lines in (
        ("the same image in two splits", [f"{one.first} and {one.second}" for one in findings.duplicates]),
        ("suspicious", [f"{one.mask} {one.reason}" for one in findings.suspicious]),
        ("warning", findings.warnings),
        ("problem", findings.problems),
    ):
        for line in lines[:SHOWN]:
            print(f"{kind}: {line}")
        if len(lines) > SHOWN:
            print(f"{kind}: {len(lines) - SHOWN} more")


def _override(weights: list[float]) -> str:
    return f"loss.class_weights=[{','.join(f'{weight:g}' for weight in weights)}]"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{percent(share)} %"


def _facts(split: SplitFindings) -> dict[str, Any]:
    """Return what a row of the table of splits shows."""
    sizes = [f"{size} ({count})" for size, count in split.sizes.items()]
    more = [f"{len(sizes) - SHOWN_SIZES} more"] if len(sizes) > SHOWN_SIZES else []
    return {
        "name": split.name,
        "samples": split.samples,
        "unlabelled": split.unlabelled,
        "decoded": split.decoded,
        "sizes": ", ".join(sizes[:SHOWN_SIZES] + more),
        "formats": ", ".join(f"{name} ({count})" for name, count in split.image_formats.items()),
        "masks": ", ".join(f"{name} ({count})" for name, count in split.mask_formats.items()),
        "ignored": percent(split.ignored_share),
        "missing": ", ".join(split.missing),
    }


def _classes(findings: DataFindings) -> list[dict[str, Any]]:
    """Return a row for each class, with its shares in each split."""
    splits = findings.splits
    rows = []
    for number, first in enumerate(splits[0].classes):
        cells = [split.classes[number] for split in splits]
        rows.append(
            {
                "name": first.name,
                "color": f"rgb({', '.join(map(str, first.color))})",
                "cells": [
                    {"pixels": _share(cell.pixel_share, cell.pixels), "images": _share(cell.image_share, cell.images)}
                    for cell in cells
                ],
                "weights": [suggestion.weights[number] for suggestion in findings.class_weights],
            }
        )
    return rows


def _share(share: float | None, count: int) -> dict[str, Any]:
    """Return a share for a cell; what occurs at all is never shown as 0."""
    if share is None:
        return {"value": "", "text": "-"}
    shown = f"{100 * share:.2f}" if share >= 0.0001 or not count else "<0.01"
    return {"value": share, "text": shown if count else "never"}
