"""The page of one training or evaluation."""

import shlex
from pathlib import Path
from typing import Any

from icnet.errors import UserError
from icnet.report import page
from icnet.report.embed import pictures
from icnet.report.plots import group
from icnet.report.table import NO_RESULTS, REDUCED, Entry, is_synthetic, number, percent, rate, signed, tabulate
from icnet.run.differences import changed
from icnet.run.reader import Run, read_run

MEASURED = {
    "steps": "steps that were timed",
    "step_ms_mean": "step, mean ms",
    "step_ms_median": "step, median ms",
    "step_ms_p10": "step, 10th percentile ms",
    "step_ms_p90": "step, 90th percentile ms",
    "peak_memory_mb": "peak memory MB",
}
"""What the key ``performance`` of results.json holds, and what to call it; ``images_per_s`` is shown already."""


def write_report(folder: Path, output: Path | None = None) -> Path:
    """Write ``report.html`` of a training or an evaluation into its folder; it needs nothing else to be looked at.

    Args:
        folder: The run's folder, with ``results.json``. Curves, overrides and pictures are shown where they are there.
        output: Folder for the page; None for the run's.

    Returns:
        The page.

    Raises:
        UserError: If there are no results, or the page cannot be written.
    """
    folder = Path(folder)
    run = read_run(folder)
    if not run.results:
        raise UserError(f"{folder} holds no results.json; give the folder of a training or an evaluation")
    results, shown = run.results, pictures(folder)
    entry = tabulate([run], "").entries[0]
    extremes = any(picture.kind for picture in shown)
    is_training = "ckpt" not in results
    return page.write_page(
        (output or folder) / "report.html",
        "run.html",
        title=f"{'Training' if is_training else 'Evaluation'} of {results.get('model')} on {results.get('data')}",
        subtitle=f"{run.name}: {run.status}",
        warning=_warning(entry),
        failure=run.failure,
        facts=_facts(entry),
        figures=_figures(run),
        classes=_classes(results),
        classes_note=_classes_note(results),
        shares=bool(results.get("confusion")),
        categories=[_row(name, value) for name, value in (results.get("iou_category") or {}).items()],
        matrix=_matrix(results),
        pictures=[vars(picture) | {"miou_text": percent(picture.miou)} for picture in shown],
        pictures_title="Best and worst images" if extremes else "Images",
        extremes=extremes,
        is_training=is_training,
        changed=changed(run),
        throughput=_throughput(run),
        command=f"python {'train' if is_training else 'eval'}.py {shlex.join(run.words)}" if run.words else "",
        environment=_environment(run),
    )


def _warning(entry: Entry) -> str:
    if is_synthetic(entry.run):
        return f"{NO_RESULTS}."
    if entry.marks:
        return f"{REDUCED}: {'; '.join(entry.marks)}."
    return ""


def _fact(label: str, value: str, note: str = "") -> dict[str, str]:
    return {"label": label, "value": value, "note": note}


def _facts(entry: Entry) -> list[dict[str, str]]:
    """Return the headline numbers."""
    run, results = entry.run, entry.run.results
    facts = []
    if results.get("best_miou") is not None:
        facts.append(_fact("best mIoU", f"{percent(results['best_miou'])} %", f"epoch {results.get('best_epoch')}"))
    if run.final_miou is not None:
        label = "final mIoU" if run.history else "mIoU"
        facts.append(_fact(label, f"{percent(run.final_miou)} %", "last validation" if run.history else ""))
    if results.get("miou_running_mean") is not None:
        best = f"best {percent(run.best_running_mean)} %" if run.best_running_mean is not None else ""
        facts.append(_fact("running mean of mIoU", f"{percent(results['miou_running_mean'])} %", best))
    if entry.published:
        row, (final, best_) = entry.published, entry.differences
        difference = "not compared" if final is None else f"difference {signed(final)} / {signed(best_)}"
        note = f"best {row.best:.1f} %; {difference}"
        facts.append(_fact("published running mean", f"{row.final:.1f} %", note))
    for label, key in (("pixel accuracy", "pixel_acc"), ("category mIoU", "category_miou")):
        if results.get(key) is not None:
            facts.append(_fact(label, f"{percent(results[key])} %"))
    if results.get("images_per_s") is not None:
        facts.append(_fact("images/s", rate(results["images_per_s"]), _where(run)))
    if results.get("epochs") is not None:
        steps, seconds = results.get("steps"), results.get("seconds")
        epochs = f"{results['epochs']} epoch{'' if results['epochs'] == 1 else 's'}"
        facts.append(_fact("trained", epochs, f"{steps} steps in {_duration(seconds)}"))
    return facts


def _where(run: Run) -> str:
    devices = run.results.get("devices")
    return f"{devices} x {run.results.get('device')}" if devices else str(run.results.get("device") or "")


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


def _classes(results: dict[str, Any]) -> list[dict[str, Any]]:
    iou, confusion = results.get("iou") or {}, results.get("confusion")
    total = sum(map(sum, confusion)) if confusion else 0
    shares = [sum(row) / total if total else 0 for row in confusion] if confusion else [None] * len(iou)
    colors = _colors(list(iou))
    return [
        _row(name, value) | {"color": color, "share": share, "share_text": percent(share)}
        for (name, value), color, share in zip(iou.items(), colors, shares, strict=True)
    ]


def _colors(names: list[str]) -> list[str]:
    """Return the data set's colours; none if the classes are somebody's own."""
    from icnet.data.labels import CAMVID_CLASSES, CITYSCAPES_CLASSES

    for table in (CITYSCAPES_CLASSES, CAMVID_CLASSES):
        if names == list(table.names):
            return ["#%02x%02x%02x" % color for color in table.palette]  # noqa: UP031 - the shortest for a triple
    return [""] * len(names)


def _classes_note(results: dict[str, Any]) -> str:
    if not results.get("history"):
        images = f", {results['val_images']} images" if results.get("val_images") else ""
        return f"On {results.get('data')}, {results.get('split', 'val')}{images}."
    return f"Of the last validation, after epoch {results['history'][-1]['epoch']}."


def _matrix(results: dict[str, Any]) -> dict[str, Any] | None:
    """Return the confusion matrix in shares of each label's pixels."""
    confusion, names = results.get("confusion"), list(results.get("iou") or {})
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
    results = run.results
    rows = [
        ("images/s", results.get("images_per_s")),
        ("devices", results.get("devices")),
        (
            "images per device and step",
            run.config("trainer.batch_size") if run.history or "epochs" in results else None,
        ),
        ("loader processes per device", run.config("data.workers")),
        ("steps", results.get("steps")),
        ("seconds", results.get("seconds")),
    ]
    measured = results.get("performance")
    if isinstance(measured, dict):
        rows += [(label, measured.get(key)) for key, label in MEASURED.items()]
        wait = measured.get("data_wait_share")
        rows.append(("waiting for data", None if wait is None else f"{percent(wait)} %"))
    return [(label, f"{value:.2f}" if isinstance(value, float) else str(value)) for label, value in rows
            if value is not None]  # fmt: skip


def _environment(run: Run) -> list[tuple[str, str]]:
    results = run.results
    rows = [
        ("device", _where(run)),
        ("opt level", results.get("opt_level") or run.config("amp.opt_level")),
        ("loss scale", results.get("loss_scale")),
        ("skipped steps", results.get("skipped_steps")),
        ("seed", results.get("seed")),
        ("checkpoint", results.get("ckpt")),
        ("SHA-256 of the checkpoint", results.get("ckpt_sha256")),
        ("runtime", results.get("runtime")),
        ("versions", page.versions(results) or None),
        ("git revision", results.get("git_revision")),
    ]
    return [(label, number(value)) for label, value in rows if value is not None]
