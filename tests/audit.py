"""Look up the known vulnerabilities of the locked packages, and say of how many they could be looked up.

An index may lack packages, or tell nothing of them: pip-audit then leaves these out, and so they are named here. Status 1
where a package is vulnerable or could not be checked.

    python -m tests.audit
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.shared import REPOSITORY

TOOL = "pip-audit==2.10.1"


def verdict(packages: Iterable[Mapping[str, Any]]) -> tuple[list[str], bool]:
    """What is to be said of the packages of pip-audit's report, and whether all were checked and none is vulnerable."""
    packages = list(packages)
    unchecked = [package for package in packages if "skip_reason" in package]
    found = [
        f"{package['name']} {package['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'no version'}"
        for package in packages
        for flaw in package.get("vulns", ())
    ]
    lines = [
        f"{len(packages) - len(unchecked)} of {len(packages)} packages checked, {len(found)} known vulnerabilities",
        *found,
    ]
    if unchecked:
        names = ", ".join(sorted(package["name"] for package in unchecked))
        lines.append(f"NOT CHECKED, since the package index does not tell of them ({len(unchecked)}): {names}")
    return lines, not unchecked and not found


def main() -> int:
    """Ask, tell."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        done = subprocess.run(
            [
                REPOSITORY / ".venv" / "bin" / "uv", "tool", "run", TOOL, "--requirement", REPOSITORY / "requirements.lock",
                "--disable-pip", "--progress-spinner", "off", "--format", "json", "--output", report,
            ],
            capture_output=True, text=True,
        )  # fmt: skip
        if not report.is_file():
            sys.exit(f"error: nothing was checked, since pip-audit failed:\n{done.stderr[-2000:]}")
        lines, good = verdict(json.loads(report.read_text(encoding="utf-8"))["dependencies"])
    print("\n".join(lines))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
