"""A run's figures as CSV, written whole at every save, so that neither a kill nor going on doubles a row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..files import replace_text


def write_rows(path: Path, names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Replace the table at ``path``; numbers are written so that they read back as they were."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(names)
    table.writerows(rows)
    replace_text(path, text.getvalue())


def read_rows(path: Path, upto: int) -> list[list[str]]:
    """The rows whose step, in the first column, is at most ``upto``; none where no file is.

    Raises ValueError for a table that was edited into something else.
    """
    if not path.exists():
        return []
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))[1:]
        return [row for row in rows if int(row[0]) <= upto]
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no table of this run ({error}); move it away") from error
