"""How commands print: tables for people, JSON for programs, errors on stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import typer

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but line break and tab


def print_json(value: Any) -> None:
    """Print plain values as JSON on stdout."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_error(message: str) -> None:
    """Print a message on stderr, each of its lines as it is."""
    lines = printable(message).splitlines() or [""]
    typer.secho(f"error: {lines[0]}", fg="red", err=True)
    for line in lines[1:]:
        typer.secho(f"       {line}" if line else "", fg="red", err=True)


def printable(text: str) -> str:
    r"""Text from data without what a terminal would obey: control characters as \x1b is here."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; cells are plain text. Not cut to a width where stdout is no terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in row))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
