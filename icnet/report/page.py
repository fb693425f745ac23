"""Filling templates: every page is one file that needs no other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from icnet.errors import UserError
from icnet.report import plots
from icnet.run import files
from icnet.run.reader import Points

_LINES = ("solid", "dashed", "dotted", "dashed")  # the nearest that CSS has to the dashes of plots


@dataclass(frozen=True)
class Series:
    """An entry of a legend."""

    color: int  # as in --c1
    line: str
    name: str


@dataclass(frozen=True)
class Figure:
    """A plot with its caption and legend."""

    title: str
    note: str
    svg: Any
    series: list[Series]


def figure(title: str, curves: Mapping[str, Points], unit: str, note: str = "", **options: Any) -> Figure | None:
    """Draw curves by name; None if none has a point. A name without points keeps its colour for the other plots."""
    from markupsafe import Markup

    drawn = [(number, points) for number, points in enumerate(curves.values()) if points]
    if not drawn:
        return None
    alt = f"{title} of {', '.join(name for name, points in curves.items() if points)} by {unit}"
    svg = Markup(plots.curves(drawn, alt, unit, **options))  # noqa: S704 - the alt text is escaped in there
    names = [(number, name) for number, name in enumerate(curves) if curves[name]]
    return Figure(title, note, svg, [series(number, name) for number, name in names])


def series(number: int, name: str) -> Series:
    """Return the legend of the curve with this number."""
    return Series(number % plots.COLORS + 1, _LINES[number // plots.COLORS % len(_LINES)], name)


@cache
def _environment() -> Any:
    import jinja2

    folder = Path(__file__).with_name("templates")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(text: str) -> Any:
    """Let a heading break where a key does, but not before a unit."""
    from markupsafe import Markup, escape

    shown = str(escape(text)).replace("_", "_<wbr>").replace(".", ".<wbr>").replace(" %", "\N{NO-BREAK SPACE}%")
    return Markup(shown)  # noqa: S704 - escaped above


def write_page(path: Path, template: str, **content: Any) -> Path:
    """Fill a template of ``templates/`` and write the page, whole or not at all."""
    write(path, _environment().get_template(template).render(**content))
    return path


def write(path: Path, text: str) -> None:
    """Write a file, whole or not at all.

    Raises:
        UserError: If its folder cannot be written to.
    """
    try:
        files.write_text(path, text)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another folder") from error


def present(figures: Sequence[Figure | None]) -> list[Figure]:
    """Return the plots that have something to show."""
    return [figure for figure in figures if figure]
