"""A table of runs as text: in the terminal, in Markdown, comma-separated."""

import csv
import io
import re
from collections.abc import Sequence

from icnet.report.table import COLUMNS, Table

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
