"""The table at the end of a multirun."""

import json
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

COLUMNS = {
    "final mIoU %": ("final_miou", 100.0),
    "best mIoU %": ("best_miou", 100.0),
    "mIoU %": ("miou", 100.0),
    "epoch": ("best_epoch", 0.0),
    "pixel acc. %": ("pixel_acc", 100.0),
    "images/s": ("images_per_s", 1.0),
}
"""Heading to key in results.json and factor, 0 for a count; shown where a run has it."""

EXIT_STATUS = {"died": 1, "failed": 2}
"""Of the command, by what the ``error.txt`` of a failed job begins with."""


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """Read the runs of a multirun folder in the order of their numbers.

    Returns:
        One dict per run: ``run`` (folder name), ``overrides`` (key to text), ``results`` (None if it left none),
        ``failure`` (what ``error.txt`` says, or None).
    """
    runs = []
    for path in sorted(folder.glob("*/.hydra/overrides.yaml"), key=lambda p: _number(p.parent.parent.name)):
        job = path.parent.parent
        results, failure = job / "results.json", job / "error.txt"
        words = [str(word) for word in OmegaConf.to_container(OmegaConf.load(path))]  # type: ignore[union-attr]
        runs.append(
            {
                "run": job.name,
                "overrides": dict(word.split("=", 1) for word in words),
                "results": json.loads(results.read_text(encoding="utf-8")) if results.exists() else None,
                "failure": failure.read_text(encoding="utf-8").strip() if failure.exists() else None,
            }
        )
    return runs


def _number(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdigit() else (1 << 30, name)


def print_sweep(folder: Path, runs: list[dict[str, Any]]) -> None:
    """Print one row per run: the overrides that differ between runs, and what came out."""
    from rich.console import Console
    from rich.table import Table

    keys = list(dict.fromkeys(key for run in runs for key in run["overrides"]))
    varied = [key for key in keys if len({run["overrides"].get(key) for run in runs}) > 1]
    results = [run["results"] or {} for run in runs]
    shown = {heading: column for heading, column in COLUMNS.items() if any(column[0] in result for result in results)}
    data = sorted({result["data"] for result in results if result})
    print(f"{folder}: {len(runs)} runs on {', '.join(data) or 'nothing'}")
    table = Table()
    for heading in ("run", *varied, *shown, "status"):
        table.add_column(heading, justify="right" if heading in shown else "left")
    for run, result in zip(runs, results, strict=True):
        table.add_row(
            run["run"],
            *(run["overrides"].get(key, "") for key in varied),
            *(_number_text(result.get(key), factor) for key, factor in shown.values()),
            _failure(run) or result.get("status", "done" if result else "no results"),
        )
    Console().print(table)
    for run in runs:
        if run["failure"]:
            print(f"job {run['run']} {run['failure']}")


def _number_text(value: float | None, factor: float) -> str:
    if value is None:
        return "-"
    return f"{factor * value:.1f}" if factor else str(value)


def _failure(run: dict[str, Any]) -> str | None:
    return run["failure"].split(":", 1)[0] if run["failure"] else None


class SweepTable(Callback):
    """Print the table when Hydra has finished a multirun; failed jobs, wherever they ran, decide the exit status."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print; ``config`` is the sweep's, with ``hydra.sweep.dir``."""
        folder = Path(config.hydra.sweep.dir)
        runs = read_runs(folder)
        print_sweep(folder, runs)
        status = [EXIT_STATUS[failure] for run in runs if (failure := _failure(run))]
        if status:
            sys.exit(min(status))  # Hydra would only warn of any other exception here
