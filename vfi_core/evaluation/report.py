"""One HTML file that shows an evaluation: tables, plots over motion, films side by side, every clip.

It needs nothing but itself: no network, no other file. `report.html` is its template.
"""

from __future__ import annotations

from pathlib import Path

import jinja2

from .metrics import FEWEST
from .report_films import BUDGET, GAIN, SMALL, Purse
from .report_folder import read_evaluation
from .report_plot import FRAME
from .report_section import section_of
from .report_tables import shown

SHOWN = 6  # clips with films at either end, divided among the sets


def write_report(out: Path) -> Path:
    """The path of ``out``/report.html, made from what an evaluation left in that folder.

    out  results.csv (a line per set, clip and method; an empty cell is null), config.json (any key may be
         missing) and, for the pictures, films/<set>/<clip>/<method>.webp with truth.webp beside them, all
         frames of a film side by side
    Films of at most SHOWN clips at either end of a set's list are embedded, as large as BUDGET allows: the
    file stays below 25 MB. The same folder gives the same bytes.
    Raises ValueError for a folder that holds no such results, or a film that does not fit its truth.
    """
    out = Path(out)
    evaluation = read_evaluation(out)
    names = list(dict.fromkeys(line.set for line in evaluation.lines))
    each = max(1, SHOWN // len(names))
    purse = Purse(BUDGET, 2 * each * len(names))
    sections = [section_of(evaluation, name, each, purse) for name in names]
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    page = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(template)
    report = out / "report.html"
    text = page.render(
        e=evaluation, sections=sections, shown=shown, frame=FRAME, gain=GAIN, small=SMALL, fewest=FEWEST
    )
    report.write_text(text.lstrip(), encoding="utf-8")
    return report
