"""A table of runs as text: in the terminal, in Markdown, comma-separated."""

import csv
import io
import re
from collections.abc import Sequence

from icnet.report.table import COLUMNS, Table, percent, signed
from icnet.run.exports import ExportScores, Measured

COLUMN_WIDTH = 13  # characters in a terminal: two figures with a slash, or a word of a heading
LOG_WIDTH = 200


def print_table(table: Table) -> None:
    """Print the table, then what marks its rows, and last the errors of failed runs."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    print(f"{table.title}: {table.subtitle}")
    console = Console()
    if not console.is_terminal:
        console = Console(width=LOG_WIDTH)  # a file has no edge to fold the table at
    rich = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    marked = any(entry.badge for entry in table.entries)
    for heading in ("run", *table.settings):
        rich.add_column(Text(heading), overflow="fold")
    for column in table.columns:
        rich.add_column(Text(column.heading), justify="right", overflow="fold", max_width=COLUMN_WIDTH)
    for heading in ("mark", "status") if marked else ("status",):
        rich.add_column(heading, overflow="fold")
    for entry in table.entries:
        cells = [entry.run.name, *entry.settings.values(), *(column.text(entry) for column in table.columns)]
        cells += [entry.badge, entry.run.status] if marked else [entry.run.status]
        rich.add_row(*map(Text, cells))
    console.print(rich)
    if table.warning:
        console.print(Text(table.warning, style="bold"), soft_wrap=True)
    for names, why in table.reasons:
        print(f"{names}: {why}")
    for note in table.notes:
        print(note)


def print_scores(scores: ExportScores) -> None:
    """Print what a file of lower precision scored beside the one in float32."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable

    rich = RichTable(box=SIMPLE_HEAD, title=scores.title(), title_justify="left")
    for heading in EXPORT_HEADINGS:
        rich.add_column(heading, justify="right" if rich.columns else "left")
    for row in export_rows(scores):
        rich.add_row(*row)
    console = Console()
    console.print(rich)
    for note in export_notes(scores):
        console.print(note, soft_wrap=True, markup=False)


EXPORT_HEADINGS = ("", "before", "after", "change")


def export_rows(scores: ExportScores) -> list[tuple[str, str, str, str]]:
    """Return name, value before, value after and difference: size, latency, then mIoU and every class in percent."""
    before, after = scores.before or Measured(), scores.after or Measured()
    rows = [
        (name, f"{one / unit:.1f}", f"{other / unit:.1f}", f"x {other / one:.2f}")
        for name, one, other, unit in (
            ("MB", before.bytes, after.bytes, 1e6), ("ms", before.latency_ms, after.latency_ms, 1),
        )
        if one and other
    ]  # fmt: skip
    for name, one, other in scores.rows():
        change = "" if one is None or other is None else signed(other - one)
        rows.append((f"{name} %", percent(one), percent(other), change))
    return rows


def export_notes(scores: ExportScores) -> list[str]:
    """Say how the file came about: agreement, calibration, what stayed in float32 and what else was tried."""
    agreed = f"{percent(scores.label_agreement)} % of the labels are the same before and after."
    calibrated = f"Calibrated on {scores.calibration_images} images of {scores.calibration_folder}."
    kept = ", ".join(scores.in_float or []) or "no layer"
    tried = [
        f"mIoU {percent(trial.miou)} % with {', '.join(trial.in_float or []) or 'no layer'} in float32."
        for trial in scores.tried or []
    ]
    timed = "Times are medians of a few calls of both files in turns, on the CPU that exported."
    return [agreed, calibrated, f"In float32: {kept}.", *tried, timed]


def print_failures(table: Table) -> None:
    """Print one line for each failed run."""
    for name, line in table.failures:
        print(f"job {name} {line}")


def markdown(table: Table) -> str:
    """Write the table in Markdown, with its banner, its notes and the errors."""
    headings = ["run", *table.settings, *(column.heading for column in table.columns), "mark", "status"]
    align = ["---", *["---"] * len(table.settings), *["---:"] * len(table.columns), "---", "---"]
    lines = [f"# {_escape(table.title)}", ""]
    if table.warning:
        lines += [f"> **{_escape(table.warning)}**", ""]
    lines += [_line(headings), _line(align, escape=False)]
    for entry in table.entries:
        mark = f"{entry.badge}: {'; '.join(entry.marks)}" if entry.marks else entry.badge
        cells = [entry.run.name, *entry.settings.values(), *(column.text(entry) for column in table.columns)]
        lines.append(_line([*cells, mark, entry.run.status]))
    lines += ["", " ".join(table.notes)]
    if table.failures:
        lines += ["", *(f"- {_escape(name)} {_escape(line)}" for name, line in table.failures)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str], escape: bool = True) -> str:
    return f"| {' | '.join(map(_escape, cells) if escape else cells)} |"


def _escape(text: str) -> str:
    return re.sub(r"([\\|`*_<\[\]])", r"\\\1", " ".join(text.split()))


def comma_separated(table: Table) -> str:
    """Write one row a run, every figure as it is in the files: mIoU and differences 0-1, published figures too."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    headings = [heading for column in COLUMNS for heading in column.csv]
    writer.writerow(["run", *table.settings, *headings, "marks", "status", "error"])
    for entry in table.entries:
        values = [round(v, 6) if isinstance(v, float) else v for column in COLUMNS for v in column.values(entry)]
        ends = ["; ".join(entry.marks), entry.run.status, entry.run.failure or ""]
        writer.writerow([entry.run.name, *entry.settings.values(), *values, *ends])
    return text.getvalue()
