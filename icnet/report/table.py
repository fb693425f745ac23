"""One row a run: what was set, what came out, what was published, and why it may be no result."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icnet.report.published import SPEED, Row, limits, match, shortfalls
from icnet.run.reader import Run
from icnet.run.results import EvaluationRecord

SETTINGS = {
    "batch": "trainer.batch_size",
    "lr": "optim.lr",
    "loss_scale": "amp.loss_scale",
    "opt_level": "amp.opt_level",
}
"""Column to key of the configuration, for rows of the published tables."""

SEARCH = "optuna"  # of hparams, the one that is no row

NO_RESULTS = "Numbers from synthetic data are no results"
REDUCED = "Reduced, so not comparable with whole runs or published figures"
UNITS = "mIoU is in percent here, and 0 to 1 in the files."
LIKE_WITH_LIKE = (
    "The published figures are running means of mIoU, which is not the official metric, so the difference is taken "
    "from our running mean; marked rows have none."
)
NOT_COMPARED = "The published figures are running means of mIoU of whole runs; marked rows are not compared with them."


LONGEST_LABEL = 48


@dataclass
class Entry:
    """One row.

    Args:
        run: The run.
        settings: Heading to text: what tells this run from the others.
        published: The published row with the same settings, or None.
        marks: Why its numbers are no results, or cannot be compared: ``synthetic data``, ``3 of 200 epochs``, ...
    """

    run: Run
    settings: dict[str, str]
    published: Row | None = None
    marks: list[str] = field(default_factory=list)

    @property
    def badge(self) -> str:
        """The marks in one word."""
        if is_synthetic(self.run):
            return "SYNTHETIC"
        return "REDUCED" if self.marks else ""

    @property
    def label(self) -> str:
        """The run's name and what tells it from the others, short enough for a legend."""
        if not self.run.name.isdigit():  # a name that says something already
            return self.run.name
        row = self.settings.get("row")
        words = [row] if row else [f"{key}={value}" for key, value in self.settings.items() if value]
        text = " ".join([self.run.name, *words])
        return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 3]}..."

    @property
    def differences(self) -> tuple[float | None, float | None]:
        """Final and best running mean minus published, 0-1; None where that would compare unlike with like."""
        if self.published is None or self.marks:
            return None, None
        ours = (self.run.record.miou_running_mean, self.run.best_running_mean)
        theirs = (self.published.final, self.published.best)
        final, best = (
            None if mine is None else mine - their / 100 for mine, their in zip(ours, theirs, strict=True)
        )  # fmt: skip
        return final, best


@dataclass(frozen=True)
class Column:
    """A heading, how to find a row's values (0-1 for percent), and how to write one of them."""

    heading: str
    values: Callable[[Entry], tuple[Any, ...]]
    write: Callable[[Any], str]
    csv: tuple[str, ...]

    def text(self, entry: Entry) -> str:
        """Return the cell; ``-`` where there is nothing."""
        values = self.values(entry)
        return "-" if all(value is None for value in values) else " / ".join(map(self.write, values))


def percent(value: float | None) -> str:
    """Write 0-1 as percent, with one digit."""
    return "-" if value is None else f"{100 * value:.1f}"


def signed(value: float | None) -> str:
    """Write a difference of 0-1 in points, with its sign."""
    return "-" if value is None else f"{100 * value:+.1f}"


def number(value: Any) -> str:
    """Write a number as short as it can be, and anything else as it is."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None else str(value)


def rate(value: float | None) -> str:
    """Write images per second."""
    return "-" if value is None else f"{value:.1f}"


COLUMNS = (
    Column("final mIoU %", lambda entry: (entry.run.final_miou,), percent, ("final_miou",)),
    Column("best mIoU %", lambda entry: (entry.run.training.best_miou,), percent, ("best_miou",)),
    Column("best epoch", lambda entry: (entry.run.training.best_epoch,), number, ("best_epoch",)),
    Column(
        "running mean % (final / best)",
        lambda entry: (entry.run.record.miou_running_mean, entry.run.best_running_mean),
        percent,
        ("running_mean", "best_running_mean"),
    ),
    Column("images/s", lambda entry: (entry.run.record.images_per_s,), rate, ("images_per_s",)),
    Column(
        "published % (final / best)",
        lambda entry: (row.final / 100, row.best / 100) if (row := entry.published) else (None, None),
        percent,
        ("published_final", "published_best"),
    ),
    Column(
        "difference (final / best)",
        lambda entry: entry.differences,
        signed,
        ("difference_final", "difference_best"),
    ),
)


@dataclass
class Table:
    """The rows of one sweep or comparison, and the headings of their settings."""

    title: str
    entries: list[Entry]
    settings: list[str]

    @property
    def columns(self) -> list[Column]:
        """The columns that have a value in some row."""
        return [
            column
            for column in COLUMNS
            if any(value is not None for entry in self.entries for value in column.values(entry))
        ]

    @property
    def data(self) -> list[str]:
        """Titles of the data that the runs were scored on."""
        return sorted({data for entry in self.entries if (data := entry.run.record.data)})

    @property
    def subtitle(self) -> str:
        """How many runs there are, and on what."""
        count = len(self.entries)
        return f"{count} run{'' if count == 1 else 's'} on {', '.join(self.data) or 'nothing'}"

    @property
    def notes(self) -> list[str]:
        """Sentences to read with the numbers."""
        published = [entry for entry in self.entries if entry.published]
        compared = any(value is not None for entry in published for value in entry.differences)
        return [UNITS, *([LIKE_WITH_LIKE if compared else NOT_COMPARED, SPEED] if published else [])]

    @property
    def warning(self) -> str:
        """The banner above marked numbers; empty if no row is marked."""
        synthetic = [entry.run.name for entry in self.entries if is_synthetic(entry.run)]
        reduced = [entry.run.name for entry in self.entries if entry.marks and not is_synthetic(entry.run)]
        groups = ((NO_RESULTS, synthetic), (REDUCED, reduced))
        return " ".join(f"{what}: {_which(names, len(self.entries))}." for what, names in groups if names)

    @property
    def reasons(self) -> list[tuple[str, str]]:
        """Which rows cannot be compared with the published ones, and why; rows with the same reasons together."""
        groups: dict[str, list[str]] = {}
        for entry in self.entries:
            if entry.marks and (entry.published or not is_synthetic(entry.run)):
                groups.setdefault("; ".join(entry.marks), []).append(entry.run.name)
        return [(_which(names, len(self.entries)), f"reduced: {why}") for why, names in groups.items()]

    @property
    def failures(self) -> list[tuple[str, str]]:
        """Name and error of the runs that failed."""
        return [(entry.run.name, entry.run.failure) for entry in self.entries if entry.run.failure]


def _which(names: list[str], count: int) -> str:
    return "all rows" if len(names) == count else f"{'row' if len(names) == 1 else 'rows'} {', '.join(names)}"


def is_synthetic(run: Run) -> bool:
    """Tell whether a run was scored on drawn pictures; files of version 0.1 say so in the data's title."""
    if run.record.synthetic is None:
        return "synthetic" in (run.record.data or "")
    return run.record.synthetic


def tabulate(runs: Sequence[Run], title: str, *, sweep: bool = True) -> Table:
    """Make a table.

    Args:
        runs: Its rows.
        title: What it is called.
        sweep: Whether the runs come from one command, so that the overrides that vary tell them apart.
    """
    settings = _varied(runs) if sweep else _differing(runs)
    headings = list(dict.fromkeys(heading for row in settings for heading in row))
    entries = []
    for run, row in zip(runs, settings, strict=True):
        published = match(run)
        marks = shortfalls(run, published) if published else _marks(run)
        if run.failure and run.results:
            marks.append("the figures are of an earlier attempt")
        if run.record.miou_note:
            marks.append(run.record.miou_note)
        entries.append(Entry(run, {heading: row.get(heading, "") for heading in headings}, published, marks))
    return Table(title, entries, headings)


def _marks(run: Run) -> list[str]:
    """Say why a run that has no published row is not what its data set's name promises."""
    marks = ["synthetic data"] if is_synthetic(run) else []
    marks += [run.status] if run.status in {"running", "stopped"} else []
    return marks + (limits(run) if run.results else [])


def _short(text: str) -> str:
    """Write a number that was drawn with six digits, and what was typed as it is."""
    return number(float(text)) if re.fullmatch(r"-?\d+\.\d{6,}(e-?\d+)?", text) else text


def _varied(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Return the overrides that differ; for rows of the published tables their names and what these stand for."""
    keys = list(dict.fromkeys(key for run in runs for key in run.overrides))
    varied = [key for key in keys if len({run.overrides.get(key) for run in runs}) > 1]
    if all(run.overrides.get("hparams", SEARCH) == SEARCH for run in runs):
        return [{key: _short(run.overrides.get(key, "")) for key in varied} for run in runs]
    others = [key for key in varied if key not in {"hparams", "amp", *SETTINGS.values()}]
    named = all(run.overrides.get("hparams") == run.name for run in runs)  # after their rows already
    return [
        ({} if named else {"row": run.overrides.get("hparams", "")})
        | {heading: number(run.config(key, run.overrides.get(key))) for heading, key in SETTINGS.items()}
        | {key: run.overrides.get(key, "") for key in others}
        for run in runs
    ]


def _differing(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Return the main settings, as far as they differ between runs of different commands."""
    rows = [
        {"data": number(run.record.data), "model": number(run.record.model)}
        # An evaluation's configuration has a batch of training too, which it does not use.
        | {
            heading: number(None if isinstance(run.results, EvaluationRecord) else run.config(key))
            for heading, key in SETTINGS.items()
        }
        for run in runs
    ]
    return [{key: value for key, value in row.items() if len({other[key] for other in rows}) > 1} for row in rows]


def sweep_title(folder: Path) -> str:
    """Return what to call the table of a multirun folder: by default Hydra names it after day and time."""
    return f"Sweep {'/'.join(folder.resolve().parts[-2:])}"
