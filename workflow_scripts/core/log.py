"""Messages and progress of a stage: to the terminal and, where asked for, to a log file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO, TypeVar

from workflow_scripts.core.text import printable

T = TypeVar("T")


def progress(items: Iterable[T], label: str, unit: str, total: int | None = None, initial: int = 0) -> Iterator[T]:
    """Iterate with a progress bar on stderr: lively on a terminal, a line every 15 s in a log."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    yield from tqdm(
        items, desc=label, unit=unit, total=total, initial=initial, mininterval=0.5 if terminal else 15.0,
        dynamic_ncols=terminal, ascii=not terminal, disable=not _is_first_process(),
    )  # fmt: skip


def say(text: str) -> None:
    """Print a message to stderr, and so to the log, without what a terminal would obey; of several processes the first speaks."""
    if _is_first_process():
        print(printable(text, kept="\n\t"), file=sys.stderr, flush=True)


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


class _Tee:
    """A text stream that writes to two, and is a terminal where the first is."""

    def __init__(self, first: TextIO, second: TextIO) -> None:
        self.first, self.second = first, second

    # A disk that is full, of which the terminal is told, must not keep the terminal from being told.
    def write(self, text: str) -> int:
        with suppress(OSError):
            self.second.write(text)
        return self.first.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.second.flush()
        self.first.flush()

    def isatty(self) -> bool:
        return self.first.isatty()

    def fileno(self) -> int:
        return self.first.fileno()


@contextmanager
def logging_to(path: Path | None) -> Iterator[None]:
    if path is None or not _is_first_process():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    before = sys.stderr
    file = path.open("w", encoding="utf-8")
    sys.stderr = _Tee(before, file)
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = before
        with suppress(OSError):
            file.close()
