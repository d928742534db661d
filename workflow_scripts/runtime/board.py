"""Where a training's progress is written: a line of JSON per report, and TensorBoard's files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from workflow_scripts.runtime.work import append_metrics, trim_metrics


@contextmanager
def _nameless_host() -> Iterator[None]:
    """TensorBoard names its files after the host; within it the host has no name."""
    from tensorboard.summary.writer import event_file_writer

    own = event_file_writer.socket
    event_file_writer.socket = SimpleNamespace(gethostname=lambda: "host")
    try:
        yield
    finally:
        event_file_writer.socket = own


class Board:
    """The reports of one training, up to step `done` if it continues; later ones will come again and are dropped.

    `metrics`: JSON lines. `folder`: TensorBoard's, or None for none; it follows the training and is no artefact.
    """

    def __init__(self, metrics: Path, folder: Path | None, done: int) -> None:
        self.metrics = metrics
        trim_metrics(metrics, done)
        self.writer = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            for file in folder.glob("events.out.tfevents.*") if not done else ():
                file.unlink()
            with _nameless_host():
                self.writer = SummaryWriter(folder, purge_step=done + 1)

    def report(self, row: Mapping[str, Any]) -> None:
        """Write a row; it has a `step`, and whatever is a finite number in it becomes a curve."""
        append_metrics(self.metrics, row)
        if self.writer is not None:
            for name, value in row.items():
                if name != "step" and isinstance(value, (int, float)) and math.isfinite(value):
                    self.writer.add_scalar(name, value, row["step"])
            self.writer.flush()

    def picture(self, name: str, step: int, image: np.ndarray) -> None:
        """Show a grey image, uint8 (H, W), at a step."""
        if self.writer is not None:
            self.writer.add_image(name, image, step, dataformats="HW")
            self.writer.flush()

    def close(self) -> None:
        """No more reports."""
        if self.writer is not None:
            self.writer.close()
