"""A resumable run of a stage: its device and processes, its clock, its work directory, and the steps that are left."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_scripts.core.files import sha256
from workflow_scripts.core.log import progress
from workflow_scripts.runtime.arguments import declared
from workflow_scripts.runtime.board import Board
from workflow_scripts.runtime.compilation import pays
from workflow_scripts.runtime.device import select_device
from workflow_scripts.runtime.processes import Processes
from workflow_scripts.runtime.work import Clock, Interrupted, WorkDir

if TYPE_CHECKING:
    from workflow_scripts.study.config.base import Settings

CHECKPOINT = "checkpoint.pt"


class Run:
    """One run of a stage that survives interruptions.

    `arguments` as `add_run` parsed them. The device is selected and the processes are joined at once; `start` opens the
    work directory when everything that determines the result is known.
    """

    work: WorkDir

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.clock = Clock(arguments.time_limit)
        self.compiling: str = arguments.compile
        self.processes = Processes()
        self.device = select_device(self.processes.device_name(arguments.device), arguments.threads)
        self.processes.join(self.device)

    def identity(self, settings: Settings | None = None, **more: Any) -> dict[str, Any]:
        """Everything that determines the result: settings, declared parameters, the content of declared inputs, code.

        It is the work directory's fingerprint, and the record that an artefact carries.
        """
        return {
            "settings": settings.model_dump() if settings else {},
            **declared(self.arguments, "parameters"),
            "inputs": {name: _digest(files) for name, files in declared(self.arguments, "inputs").items()},
            "code_version": self.arguments.code_version,
            **more,
        }

    def start(self, identity: Mapping[str, Any]) -> None:
        """Open the work directory: continue what `identity` matches, else start afresh."""
        path = self.arguments.work_dir
        self.work = self.processes.work_dir(path, lambda: WorkDir(path, identity))

    def board(self, done: int) -> Board | None:
        """Reports of the run after step `done`, to the work directory and TensorBoard; None but in the first process."""
        folder = getattr(self.arguments, "tensorboard", None)
        return Board(self.work.metrics_file(), folder, done) if self.processes.is_first else None

    def compiles(self, calls: int) -> bool:
        """Whether a network that the run calls so often is compiled. The choice is no part of `identity`: like the number of
        processes it changes the rounding, and a run may continue with another one."""
        return pays(self.compiling, self.device, calls)

    def steps(
        self,
        total: int,
        state: Callable[[], Mapping[str, Any]],
        *,
        start: int = 0,
        every: int = 0,
        seconds: float = 0,
        label: str = "training",
        unit: str = "step",
        checkpoint: str = CHECKPOINT,
        before: int = 0,
    ) -> Iterator[int]:
        """The steps `start` to `total` - 1, with progress and checkpoints.

        When the body of the loop has finished a step, `state()` is saved every `every` steps, every `seconds` seconds,
        after the last step, and when the clock is over in any process; then the run ends with `Interrupted`. `before`
        counts the steps of earlier parts of the same work directory. The checkpoint's `step` is the number of steps done.
        """
        saved = time.monotonic()
        for step in progress(range(start, total), label, unit, total, start):
            yield step
            done = step + 1
            leaving = done < total and self.processes.any(self.clock.is_over())
            due = (every and done % every == 0) or (seconds and time.monotonic() - saved >= seconds)
            if leaving or due or done == total:
                self.work.save(checkpoint, {**state(), "step": done}, before + done)
                saved = time.monotonic()
            if leaving:
                raise Interrupted(
                    f"the time of this job is over at {unit} {done} of {total} ({label}); it is saved in {self.work.path} "
                    "and the next attempt continues it"
                )

    def finish(self) -> bool:
        """Leave the other processes; whether this one writes the results."""
        self.processes.leave()
        return self.processes.is_first


def _digest(files: Path | list[Path] | None) -> Any:
    """SHA-256 of a file or folder, of each of several, or None where the input is not given."""
    if files is None:
        return None
    return [sha256(file) for file in files] if isinstance(files, list) else sha256(files)
