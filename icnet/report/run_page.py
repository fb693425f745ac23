"""The page of one training or evaluation."""

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from icnet.errors import UserError
from icnet.report import page
from icnet.report.embed import pictures
from icnet.report.formats import EXPORT_HEADINGS, export_notes, export_rows
from icnet.report.plots import group
from icnet.report.table import NO_RESULTS, REDUCED, Entry, is_synthetic, number, percent, rate, signed, tabulate
from icnet.run.differences import changed
from icnet.run.exports import read_scores, scores_in
from icnet.run.operations import costliest_operations
from icnet.run.paths import RunPaths
from icnet.run.reader import Run, read_run
from icnet.run.results import Performance, Results, TrainingRecord

MEASURED = {
    "steps": "steps that were timed",
    "step_ms_mean": "step, mean ms",
    "step_ms_median": "step, median ms",
    "step_ms_p10": "step, 10th percentile ms",
    "step_ms_p90": "step, 90th percentile ms",
    "peak_memory_mb": "peak memory MB",
}
"""What ``Performance`` holds, and what to call it; ``images_per_s`` is shown already."""


def write_report(folder: Path, output: Path | None = None) -> Path:
    """Write the page of a training or an evaluation into its folder; it needs nothing else to be looked at.

    Args:
        folder: The run's folder, with results. Curves, overrides and pictures are shown where they are there.
        output: Folder for the page; None for the run's.

    Returns:
        The page.

    Raises:
        UserError: If there are no results, or the page cannot be written.
    """
    paths, run = RunPaths(Path(folder)), read_run(Path(folder))
    if run.results is None:
        raise UserError(f"{folder} holds no {paths.results.name}; give the folder of a training or an evaluation")
    results, shown = run.results, pictures(paths.folder)
    entry = tabulate([run], "").entries[0]
    extremes = any(picture.kind for picture in shown)
    is_training = isinstance(results, TrainingRecord)
    return page.write_page(
        RunPaths(output or paths.folder).report,
        "run.html",
        title=f"{'Training' if is_training else 'Evaluation'} of {results.model} on {results.data}",
        subtitle=f"{run.name}: {run.status}",
        warning=_warning(entry),
        failure=run.failure,
        facts=_facts(entry),
        figures=_figures(run),
        classes=_classes(results),
        classes_note=_classes_note(run),
        shares=bool(results.confusion),
        categories=[_row(name, value) for name, value in (run.evaluation.iou_category or {}).items()],
        matrix=_matrix(results),
        pictures=[vars(picture) | {"miou_text": percent(picture.miou)} for picture in shown],
        pictures_title="Best and worst images" if extremes else "Images",
        extremes=extremes,
        is_training=is_training,
        changed=changed(run),
        throughput=_throughput(run),
        operations=_operations(paths),
        exports=_exports(run),
        export_headings=EXPORT_HEADINGS,
        command=f"python {'train' if is_training else 'eval'}.py {shlex.join(run.argv)}" if run.argv else "",
        environment=_environment(run),
    )


def _warning(entry: Entry) -> str:
    run, said = entry.run, []
    if is_synthetic(run):
        said = [NO_RESULTS, *([run.record.miou_note] if run.record.miou_note else [])]
    elif entry.marks:
        said = [f"{REDUCED}: {'; '.join(entry.marks)}"]
    return " ".join(f"{line}." for line in said + (run.training.data_warnings or []))


def _fact(label: str, value: str, note: str = "") -> dict[str, str]:
    return {"label": label, "value": value, "note": note}


def _facts(entry: Entry) -> list[dict[str, str]]:
    """Return the headline numbers."""
    run, results, training = entry.run, entry.run.record, entry.run.training
    facts = []
    if training.best_miou is not None:
        facts.append(_fact("best mIoU", f"{percent(training.best_miou)} %", f"epoch {training.best_epoch}"))
    if run.final_miou is not None:
        label = "final mIoU" if run.history else "mIoU"
        facts.append(_fact(label, f"{percent(run.final_miou)} %", "last validation" if run.history else ""))
    if results.miou_running_mean is not None:
        best = f"best {percent(run.best_running_mean)} %" if run.best_running_mean is not None else ""
        facts.append(_fact("running mean of mIoU", f"{percent(results.miou_running_mean)} %", best))
    if entry.published:
        row, (final, best_) = entry.published, entry.differences
        difference = "not compared" if final is None else f"difference {signed(final)} / {signed(best_)}"
        note = f"best {row.best:.1f} %; {difference}"
        facts.append(_fact("published running mean", f"{row.final:.1f} %", note))
    means = (("pixel accuracy", results.pixel_acc), ("category mIoU", run.evaluation.category_miou))
    facts += [_fact(label, f"{percent(value)} %") for label, value in means if value is not None]
    if results.images_per_s is not None:
        facts.append(_fact("images/s", rate(results.images_per_s), _where(run)))
    if training.epochs is not None:
        epochs = f"{training.epochs} epoch{'' if training.epochs == 1 else 's'}"
        facts.append(_fact("trained", epochs, f"{training.steps} steps in {_duration(training.seconds)}"))
    return facts


def _where(run: Run) -> str:
    device, devices = run.record.device, run.training.devices
    return f"{devices} x {device}" if devices else device or ""


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown time"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _figures(run: Run) -> list[page.Figure]:
    curves, unit = run.curves, run.time_unit
    mean = {"running mean": curves["val/miou_running_mean"]} if "val/miou_running_mean" in curves else {}
    rates = {name.removeprefix("lr-"): points for name, points in group(curves, "lr-")}
    return page.present(
        [
            page.figure("mIoU %", {"mIoU": curves.get("val/miou", []), **mean}, unit, "on the validation set",
                        percent=True),
            page.figure("Loss", {"train": curves.get("train/loss", []), "val": curves.get("val/loss", [])}, unit,
                        log=True),
            page.figure("Learning rate", rates, unit),
            page.figure("Images/s", {"images/s": curves.get("perf/images_per_s", [])}, unit, "mean since warm-up"),
            page.figure("Loss scale", {"loss scale": curves.get("amp/loss_scale", [])}, unit, log=True),
            page.figure("Skipped steps", {"skipped steps": _if_any(curves.get("amp/skipped_steps", []))}, unit),
        ]
    )  # fmt: skip


def _if_any(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return points if any(value for _, value in points) else []


def _row(name: str, value: float | None) -> dict[str, Any]:
    return {
        "name": name,
        "value": "" if value is None else value,
        "text": "absent" if value is None else percent(value),
        "width": round(100 * (value or 0), 2),
    }


def _classes(results: Results) -> list[dict[str, Any]]:
    iou, confusion = results.iou or {}, results.confusion
    total = sum(map(sum, confusion)) if confusion else 0
    shares = [sum(row) / total if total else 0 for row in confusion] if confusion else [None] * len(iou)
    palette = results.palette or []
    colors = (
        [f"rgb({', '.join(map(str, color))})" for color in palette] if len(palette) == len(iou) else [""] * len(iou)
    )
    return [
        _row(name, value) | {"color": color, "share": share, "share_text": percent(share)}
        for (name, value), color, share in zip(iou.items(), colors, shares, strict=True)
    ]


def _classes_note(run: Run) -> str:
    results = run.record
    if not run.history:
        images = f", {results.val_images} images" if results.val_images else ""
        return f"On {results.data}, {run.evaluation.split or 'val'}{images}."
    return f"Of the last validation, after epoch {run.history[-1].epoch}."


def _matrix(results: Results) -> dict[str, Any] | None:
    """Return the confusion matrix in shares of each label's pixels."""
    confusion, names = results.confusion, list(results.iou or {})
    if not confusion or len(confusion) != len(names):
        return None
    rows = []
    for name, counts in zip(names, confusion, strict=True):
        total = sum(counts)
        shares = [count / total if total else 0.0 for count in counts]
        rows.append({"name": name, "cells": [_cell(share) for share in shares]})
    return {"names": names, "rows": rows}


def _cell(share: float) -> dict[str, Any]:
    text = f"{100 * share:.0f}" if share >= 0.005 else ""
    return {"share": share, "shade": round(0.06 + 0.94 * share, 3), "text": text, "title": f"{100 * share:.2f} %"}


def _throughput(run: Run) -> list[tuple[str, str]]:
    training, measured = run.training, run.training.performance or Performance()
    wait = measured.data_wait_share
    rows = [
        ("images/s", run.record.images_per_s),
        ("devices", training.devices),
        ("images per device and step", None if training.epochs is None else run.config("trainer.batch_size")),
        ("loader processes per device", run.config("data.workers")),
        ("steps", training.steps),
        ("seconds", training.seconds),
        *((label, getattr(measured, key)) for key, label in MEASURED.items()),
        ("waiting for data", None if wait is None else f"{percent(wait)} %"),
    ]
    return [(label, f"{value:.2f}" if isinstance(value, float) else str(value)) for label, value in rows
            if value is not None]  # fmt: skip


def _operations(paths: RunPaths) -> list[tuple[str, str, str, str]]:
    """Return name, calls, milliseconds and share of what took most time, if somebody looked."""
    return [
        (operation.name, str(operation.calls), f"{operation.milliseconds:.1f}", f"{percent(operation.share)} %")
        for operation in costliest_operations(paths)
    ]


def _exports(run: Run) -> list[dict[str, Any]]:
    """Return the tables of what files of lower precision cost: those in the folder, and the one that was evaluated."""
    found = dict(scores_in(run.folder))
    if run.evaluation.ckpt and (scores := read_scores(Path(run.evaluation.ckpt))):
        found[Path(run.evaluation.ckpt).name] = scores
    return [
        {"name": name, "title": scores.title(), "rows": export_rows(scores), "notes": export_notes(scores)}
        for name, scores in found.items()
    ]


def _environment(run: Run) -> list[tuple[str, str]]:
    results = run.record
    rows = [
        ("device", _where(run)),
        ("opt level", run.training.opt_level or run.config("amp.opt_level")),
        ("versions", ", ".join(f"{name} {version}" for name, version in (results.versions or {}).items()) or None),
        *((label, getattr(results, one.name)) for one in fields(results) if (label := one.metadata.get("label"))),
    ]
    return [(label, number(value)) for label, value in rows if value is not None]
