"""Run every benchmark that needs no data of its own, one process each, and write docs/performance.md: make bench.

About an hour on two cores; a machine that does nothing else gives the steadiest ratios. What is left out needs real
images: auto_crop, batch_norm, burnt_in_text, label_audit, shortcuts, and the second half of pretraining_gain. external_test runs
by itself.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.report import HOT_PATHS


def main() -> None:
    """Run, report; exit status 1 names what failed."""
    failed = []
    for name in [*dict.fromkeys(name for name, _ in HOT_PATHS), "scaling", "demo", "report"]:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"error: these benchmarks failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
