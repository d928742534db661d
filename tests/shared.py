"""Reference values and real ultrasound that lie outside the repository; tests that need them skip where they are absent."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from workflow_scripts.runtime.run import Run

REPOSITORY = Path(__file__).parents[1]
SHARED = Path(os.environ.get("TUSFLOW_SHARED", REPOSITORY.parent / "shared"))

needs_golden = pytest.mark.skipif(
    not (SHARED / "golden").is_dir(), reason=f"no reference values at {SHARED / 'golden'}"
)
needs_real = pytest.mark.skipif(not (SHARED / "real").is_dir(), reason=f"no real ultrasound at {SHARED / 'real'}")


def replace(settings: Any, **changes: Any) -> Any:
    """Settings with other values, as `dataclasses.replace` does it; the values are not validated."""
    return settings.model_copy(update=changes)


def stages() -> list[str]:
    """Every stage as `<folder>.<name>`: the modules of the package that are commands."""
    package = REPOSITORY / "workflow_scripts"
    return sorted(
        ".".join(file.relative_to(package).with_suffix("").parts)
        for file in package.glob("*/*.py")
        if 'if __name__ == "__main__":' in file.read_text(encoding="utf-8")
    )


def start_run(work_dir: Path, device: str = "cpu", threads: int = 1) -> Run:
    """A run without a command line, with its work directory open."""
    from workflow_scripts.runtime.run import Run

    run = Run(argparse.Namespace(work_dir=work_dir, device=device, threads=threads, time_limit=None, compile="auto"))
    run.start({})
    return run
