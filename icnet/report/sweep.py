"""The table at the end of a multirun."""

import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """Read the runs of a multirun folder in the order of their numbers.

    Returns:
        One dict per run: ``run`` (folder name), ``overrides`` (key to text), ``results`` (None if it left none).
    """
    runs = []
    for path in sorted(folder.glob("*/.hydra/overrides.yaml"), key=lambda p: _number(p.parent.parent.name)):
        job = path.parent.parent
        file = job / "results.json"
        words = [str(word) for word in OmegaConf.to_container(OmegaConf.load(path))]  # type: ignore[union-attr]
        runs.append(
            {
                "run": job.name,
                "overrides": dict(word.split("=", 1) for word in words),
                "results": json.loads(file.read_text(encoding="utf-8")) if file.exists() else None,
            }
        )
    return runs


def _number(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdigit() else (1 << 30, name)


def print_sweep(folder: Path) -> None:
    """Print one row per run: the overrides that differ between runs, and what came out."""
    from rich.console import Console
    from rich.table import Table

    runs = read_runs(folder)
    keys = list(dict.fromkeys(key for run in runs for key in run["overrides"]))
    varied = [key for key in keys if len({run["overrides"].get(key) for run in runs}) > 1]
    data = sorted({run["results"]["data"] for run in runs if run["results"]})
    print(f"{folder}: {len(runs)} runs on {', '.join(data) or 'nothing'}")
    table = Table()
    for heading in ("run", *varied, "final mIoU %", "best mIoU %", "epoch", "pixel acc. %", "images/s", "status"):
        table.add_column(heading, justify="left" if heading in {"run", "status", *varied} else "right")
    for run in runs:
        results = run["results"] or {"status": "no results"}
        table.add_row(
            run["run"],
            *(run["overrides"].get(key, "") for key in varied),
            _number_text(results.get("final_miou"), 100),
            _number_text(results.get("best_miou"), 100),
            str(results["best_epoch"]) if results.get("best_epoch") is not None else "-",
            _number_text(results.get("pixel_acc"), 100),
            _number_text(results.get("images_per_s"), 1),
            results["status"],
        )
    Console().print(table)


def _number_text(value: float | None, factor: float) -> str:
    return "-" if value is None else f"{factor * value:.1f}"


class SweepTable(Callback):
    """Print the table when Hydra has finished a multirun."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print; ``config`` is the sweep's, with ``hydra.sweep.dir``."""
        print_sweep(Path(config.hydra.sweep.dir))
