"""The audit of the locked packages: what could not be looked up is never taken for sound."""

import pytest

from tests.audit import verdict

SOUND = {"name": "numpy", "version": "2.4.6", "vulns": []}
FLAWED = {"name": "pillow", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": ["1.1"]}]}
SKIPPED = {"name": "absl-py", "skip_reason": "Dependency not found"}
UNCHECKED = "NOT CHECKED, since the package index does not tell of them (1): absl-py"


@pytest.mark.parametrize(
    ("packages", "good", "said"),
    [
        ([SOUND], True, ["1 of 1 packages checked, 0 known vulnerabilities"]),
        ([SOUND, FLAWED], False, ["2 of 2 packages checked, 1 known", "pillow 1.0: CVE-1, mended in 1.1"]),
        ([SOUND, SKIPPED], False, ["1 of 2 packages checked, 0 known", UNCHECKED]),
    ],
)
def test_only_checked_packages_are_sound(packages: list[dict[str, object]], good: bool, said: list[str]) -> None:
    lines, sound = verdict(packages)
    assert sound is good
    assert len(lines) == len(said)
    assert all(line.startswith(start) for line, start in zip(lines, said, strict=True))
