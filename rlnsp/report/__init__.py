"""``report.html``: what runs were, did and made, in one file that opens without a server."""

from rlnsp.report.page import write_report

__all__ = ["write_report"]
