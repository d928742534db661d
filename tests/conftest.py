"""Where everything that tests can need is installed (CI), a skip is a failure unless tests/allowed_skips.txt lists it."""

import os
from pathlib import Path

import pytest

ALLOWED = Path(__file__).with_name("allowed_skips.txt")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("CI") or reporter is None:
        return
    lines = ALLOWED.read_text(encoding="utf-8").splitlines()
    allowed = [line for line in lines if line and not line.startswith("#")]
    skipped = {report.nodeid: str(report.longrepr) for report in reporter.stats.get("skipped", [])}
    unexpected = {test: why for test, why in skipped.items() if not any(test.startswith(name) for name in allowed)}
    for test, why in sorted(unexpected.items()):
        reporter.write_line(f"SKIPPED BUT MUST RUN IN CI: {test} {why}", red=True)
    if unexpected:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
