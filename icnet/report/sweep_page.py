"""The page and the files of several runs: table, curves, who is best in which class and where differences come from."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icnet.report import page
from icnet.report.formats import comma_separated, markdown
from icnet.report.table import Entry, Table, percent, signed
from icnet.run.differences import differing
from icnet.run.differences import text as plain
from icnet.run.paths import RunPaths
from icnet.run.reader import Points, Run
from icnet.run.results import ByClass


def write_table(table: Table, folder: Path, name: str = "report") -> Path:
    """Write ``NAME.md``, ``NAME.csv`` and ``NAME.html``.

    Args:
        table: The runs.
        folder: Where the files go.
        name: What they are called.

    Returns:
        The page.

    Raises:
        UserError: If the folder cannot be written to.
    """
    page.write(folder / f"{name}.md", markdown(table))
    page.write(folder / f"{name}.csv", comma_separated(table))
    runs = [entry.run for entry in table.entries]
    named = [replace(entry.run, name=entry.label) for entry in table.entries]
    scored = [run for run in runs if run.record.iou]
    return page.write_page(
        folder / f"{name}.html",
        "sweep.html",
        title=table.title,
        subtitle=table.subtitle,
        warning=table.warning,
        notes=table.notes,
        headings=table.settings,
        columns=[column.heading for column in table.columns],
        rows=[_row(table, entry, folder) for entry in table.entries],
        failures=table.failures,
        figures=_figures(named),
        legend=[page.series(number, run.name) for number, run in enumerate(named) if _has_curves(run)],
        reasons=table.reasons,
        mixed=len(table.data) > 1,
        classes=class_rows(scored),
        other_classes=_have_other_classes(scored),
        names=[run.name for run in scored],
        wins=_wins(scored),
        differences=differences(scored),
        labels={entry.run.name: entry.label for entry in table.entries},
        differing=_differing([run for run in runs if run.results]),
        run_names=[run.name for run in runs if run.results],
    )


def _row(table: Table, entry: Entry, folder: Path) -> dict[str, Any]:
    own = RunPaths(entry.run.folder).report
    cells = []
    for column in table.columns:
        first = next((value for value in column.values(entry) if value is not None), "")
        cells.append({"lines": column.text(entry).split(" / "), "value": first})
    return {
        "name": entry.run.name,
        "href": Path(os.path.relpath(own, folder)).as_posix() if own.exists() else "",
        "settings": list(entry.settings.values()),
        "cells": cells,
        "badge": entry.badge,
        "status": entry.run.status,
        "failed": bool(entry.run.failure),
    }


def _has_curves(run: Run) -> bool:
    return bool(run.curves.get("val/miou") or run.curves.get("train/loss"))


def _figures(runs: Sequence[Run]) -> list[page.Figure]:
    units = {run.time_unit for run in runs if _has_curves(run)}
    unit = units.pop() if len(units) == 1 else "epoch or step"

    def all_of(name: str) -> dict[str, Points]:
        return {run.name: run.curves.get(name, []) for run in runs}

    return page.present(
        [
            page.figure("mIoU %", all_of("val/miou"), unit, "on the validation set", percent=True, size=(5.6, 3.2)),
            page.figure("Training loss", all_of("train/loss"), unit, log=True, size=(5.6, 3.2)),
        ]
    )


def _iou(run: Run) -> ByClass:
    return run.record.iou or {}


def _have_other_classes(runs: Sequence[Run]) -> bool:
    return len({tuple(_iou(run)) for run in runs}) > 1


def class_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return each class with its IoU in every run and who is best in it; nothing if the runs have other classes."""
    if len(runs) < 2 or _have_other_classes(runs):
        return []
    rows = []
    for name in _iou(runs[0]):
        values = [_iou(run)[name] for run in runs]
        known = [value for value in values if value is not None]
        top = max(known, default=None)
        best = [value is not None and value == top and top > 0 and top > min(known) for value in values]
        cells = [
            {"value": "" if value is None else value, "text": percent(value), "best": wins}
            for value, wins in zip(values, best, strict=True)
        ]
        winners = ", ".join(run.name for run, wins in zip(runs, best, strict=True) if wins)
        spread = max(known) - min(known) if known else None
        rows.append({"name": name, "cells": cells, "winners": winners, "spread": "" if spread is None else spread,
                     "spread_text": percent(spread)})  # fmt: skip
    return rows


def _wins(runs: Sequence[Run]) -> list[tuple[str, int]]:
    """Return each run and in how many classes it is best, the most first."""
    rows = class_rows(runs)
    counts = [(run.name, sum(row["cells"][place]["best"] for row in rows)) for place, run in enumerate(runs)]
    return sorted(counts, key=lambda item: -item[1]) if rows else []


@dataclass(frozen=True)
class Difference:
    """Where the difference of two runs' mIoU comes from: the sum of its rows."""

    leader: str
    other: str
    total: float
    rows: list[tuple[str, float | None, float | None, float]]
    """Class, IoU of the leader, IoU of the other, what it contributes; the largest first."""

    @property
    def text(self) -> str:
        """The difference in points."""
        return signed(self.total)

    @property
    def cells(self) -> list[dict[str, Any]]:
        """The rows as they are shown."""
        return [
            {
                "name": name,
                "leader": percent(mine),
                "other": percent(other),
                "value": part,
                "text": f"{100 * part:+.2f}",
            }
            for name, mine, other, part in self.rows
        ]


def differences(runs: Sequence[Run]) -> list[Difference]:
    """Explain the lead of the run with the highest mIoU over each of the others.

    A class contributes the difference of its IoU divided by the number of classes. A class that occurs in one run only
    (in labels or predictions) counts as 0 in the other, and each mIoU is a mean over the classes that occur.
    """
    if not class_rows(runs):
        return []
    ranked = sorted(runs, key=lambda run: -_mean(_iou(run)))
    leader, found = ranked[0], []
    for other in ranked[1:]:
        mine, theirs = _iou(leader), _iou(other)
        counts = [max(1, sum(value is not None for value in iou.values())) for iou in (mine, theirs)]
        rows = [
            (name, mine[name], theirs[name], (mine[name] or 0) / counts[0] - (theirs[name] or 0) / counts[1])
            for name in mine
        ]
        total = sum(part for *_, part in rows)
        found.append(Difference(leader.name, other.name, total, sorted(rows, key=lambda row: -row[3])))
    return found


def _mean(iou: dict[str, float | None]) -> float:
    known = [value for value in iou.values() if value is not None]
    return sum(known) / len(known) if known else 0.0


def _differing(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Return the keys of the configuration that differ, and what else tells the runs apart."""
    found = differing(runs)
    for key in ("model", "device", "devices", "git_revision", "ckpt", "runtime"):
        facts = [getattr(run.results, key, None) for run in runs]  # some are of trainings or evaluations only
        values = ["" if fact is None else plain(fact) for fact in facts]
        if len(set(values)) > 1 and key not in dict(found):
            found.append((key, values))
    return found
