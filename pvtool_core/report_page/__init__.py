"""The report of `pv eval` as one HTML page without any other file. No torch, no numpy."""

from pvtool_core.report_page.page import write_page

__all__ = ["write_page"]
