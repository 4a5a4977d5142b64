"""A plugin of pytest: failures appear when they happen. A run in the guest is long, and may be ended before its end."""

from __future__ import annotations

import pytest


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        print(f"\n--- {report.nodeid} ({report.when})\n{report.longreprtext}\n---", flush=True)
