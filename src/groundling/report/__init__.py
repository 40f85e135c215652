"""What people see of a run: `report.html` and its figures, made from a run directory alone.

    record    what the run directory holds
    verdict   what came out, in sentences that are computed
    tables    the rows of the page's tables
    gallery   test pictures before and after
    panel     a chart as SVG; line_chart and bar_chart draw them
    routing_chart   F1 against the share of mentions asked about (ReFineG)
    page      all of it on one page

The page needs nothing from outside: styles, charts and pictures are in the file. Everything but
the timings follows from the run's artefacts, so writing it again gives the same page.
"""

from __future__ import annotations

from groundling.report.page import write_report

__all__ = ["write_report"]
