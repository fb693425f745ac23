"""Reading what runs left in their folders: results, overrides, errors and curves."""

import csv
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from icnet.errors import UserError
from icnet.run.failure import kind_of, read_failure
from icnet.run.paths import RunPaths
from icnet.run.results import EvaluationRecord, Results, TrainingRecord, Validation, read_results

Points = list[tuple[float, float]]
"""A curve: (epochs or steps, value), in order."""


@dataclass
class Run:
    """One run folder.

    Args:
        name: What the run is called in tables.
        folder: Where it lies.
        argv: The overrides that it was started with.
        results: What it measured; None if the run has no results.
        failure: Why it failed, or None.
    """

    name: str
    folder: Path
    argv: list[str]
    results: TrainingRecord | EvaluationRecord | None
    failure: str | None = None

    @cached_property
    def overrides(self) -> dict[str, str]:
        """The overrides as key and text; the last of a key counts, as in Hydra."""
        pairs = (override.partition("=") for override in self.argv)
        return {key.lstrip("+"): value for key, _, value in pairs}

    @property
    def status(self) -> str:
        """``done``, ``running`` or ``stopped`` as the results say; ``failed``, ``died`` or ``no results``."""
        if self.failure:
            return kind_of(self.failure)
        if self.results is None:
            return "no results"
        return self.training.status or "done"

    @property
    def record(self) -> Results:
        """The results, or an empty record."""
        return self.results or Results()

    @property
    def training(self) -> TrainingRecord:
        """The results of a training; an empty record for anything else."""
        return self.results if isinstance(self.results, TrainingRecord) else TrainingRecord()

    @property
    def evaluation(self) -> EvaluationRecord:
        """The results of an evaluation; an empty record for anything else."""
        return self.results if isinstance(self.results, EvaluationRecord) else EvaluationRecord()

    @property
    def history(self) -> list[Validation]:
        """The validations of a training; none for an evaluation."""
        return self.training.history

    @property
    def final_miou(self) -> float | None:
        """Of the last validation, or of the evaluation (0-1)."""
        return self.evaluation.miou if isinstance(self.results, EvaluationRecord) else self.training.final_miou

    @property
    def best_running_mean(self) -> float | None:
        """The highest running mean of mIoU of a training (0-1)."""
        return max((mean for entry in self.history if (mean := entry.miou_running_mean) is not None), default=None)

    def config(self, key: str, default: Any = None) -> Any:
        """Return the value of a dotted key of the configuration that the run was made with."""
        value: Any = self.record.config or {}
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return value

    @cached_property
    def steps_per_epoch(self) -> float | None:
        """Optimizer steps of one epoch; None if the run does not tell."""
        steps, epochs = self.training.steps, self.training.epochs
        return steps / epochs if steps and epochs else None

    @property
    def time_unit(self) -> str:
        """What the first numbers of curves count."""
        return "epoch" if self.steps_per_epoch else "step"

    @cached_property
    def curves(self) -> dict[str, Points]:
        """Name to curve, from all CSV files of the run and the history of its results, which is complete."""
        by_step: dict[str, dict[int, float]] = {}
        for path in sorted(RunPaths(self.folder).find_curves(), key=lambda path: _natural(path.parent.name)):
            _add_file(by_step, path)
        for name, key in (("val/miou", "miou"), ("val/loss", "val_loss")):
            seen = [(entry.step, getattr(entry, key)) for entry in self.history]
            if known := {step: value for step, value in seen if step is not None and value is not None}:
                by_step[name] = known
        unit = self.steps_per_epoch or 1
        return {
            name: [(step / unit, value) for step, value in sorted(points.items())] for name, points in by_step.items()
        }


def _add_file(by_step: dict[str, dict[int, float]], path: Path) -> None:
    """Add the curves of one part of a run; a resumed part replaces what an earlier one did after its beginning."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row.get("step") or "").isdigit()]
    first = min((int(row["step"]) for row in rows), default=0)
    for name, points in by_step.items():
        by_step[name] = {step: value for step, value in points.items() if step <= first}
    for row in rows:
        # Lightning counts the step of a row from 0, and that of a learning rate too, which it writes before the step.
        step = int(row["step"]) + (0 if any(row[key] for key in row if key.startswith("lr-")) else 1)
        for name, text in row.items():
            if name not in {"step", "epoch"} and text and math.isfinite(value := float(text)):
                by_step.setdefault(name, {})[step] = value


def read_run(folder: Path, name: str | None = None) -> Run:
    """Read one run folder.

    Args:
        folder: The folder.
        name: What to call the run; None for the folder's name.

    Raises:
        UserError: If a file in it cannot be read.
    """
    paths = RunPaths(folder)
    found = read_results(paths.results)
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(paths.overrides)) if paths.overrides.exists() else []
        failure = read_failure(folder)
    except (OSError, ValueError, OmegaConfBaseException) as error:
        raise UserError(f"{folder} cannot be read ({' '.join(str(error).split())}); leave it out") from error
    if not isinstance(loaded, list):
        raise UserError(f"{folder} holds no results of train.py or eval.py; leave it out")
    return Run(name or folder.resolve().name, folder, [str(override) for override in loaded], found, failure)


def is_run(folder: Path) -> bool:
    """Tell whether a folder is that of one run, finished or not."""
    paths = RunPaths(folder)
    return paths.results.is_file() or paths.overrides.is_file()


def read_sweep(folder: Path) -> list[Run]:
    """Read the runs of a multirun folder, in the order of their numbers.

    A job whose files cannot be read is a run without results, whose failure says why.
    """
    jobs = [path for path in folder.iterdir() if is_run(path)]
    return [_read_job(job) for job in sorted(jobs, key=lambda path: (_job_number(path), _natural(path.name)))]


def _read_job(folder: Path) -> Run:
    """Read a job's folder; one that cannot be read is a row that says so, for the others' sake."""
    try:
        return read_run(folder)
    except UserError as error:
        return Run(folder.resolve().name, folder, [], None, f"unreadable: {error}")


def _job_number(folder: Path) -> float:
    """Return the number that Hydra gave to a job; infinite if its folder does not tell."""
    path = RunPaths(folder).hydra_config
    try:
        return float(OmegaConf.select(OmegaConf.load(path), "hydra.job.num")) if path.exists() else math.inf
    except (OSError, ValueError, TypeError, yaml.YAMLError, OmegaConfBaseException):
        return math.inf


def read_all(paths: Iterable[Path]) -> list[Run]:
    """Read run folders and multirun folders, each run under a name that no other has.

    Raises:
        UserError: If a path is no folder or holds no runs.
    """
    runs: list[Run] = []
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is no folder; give run folders, or the folder of a multirun")
        found = [read_run(path)] if is_run(path) else read_sweep(path)
        if not found:
            raise UserError(f"{path} holds no runs; give run folders, or the folder of a multirun")
        runs += found
    distinguish(runs)
    return runs


def distinguish(runs: list[Run]) -> None:
    """Put parents before the names of runs until no two runs are called the same."""
    for depth in range(2, 1 + max((len(run.folder.resolve().parts) for run in runs), default=0)):
        names = [run.name for run in runs]
        same = [run for run in runs if names.count(run.name) > 1]
        for run in same:
            run.name = "/".join(run.folder.resolve().parts[-depth:])


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Sort key by which 2 comes before 10."""
    parts = re.split(r"(\d+)", name)
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts if part]
