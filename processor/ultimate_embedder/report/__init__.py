"""A page about a run, or about how two runs differ, for a browser without a network."""

from .compare import comparison_page
from .files import report_path, write_page, write_report
from .page import report_page

__all__ = [
    "comparison_page",
    "report_page",
    "report_path",
    "write_page",
    "write_report",
]
