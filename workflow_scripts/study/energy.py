"""The power that a job's GPUs draw, as `nvidia-smi` tells it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from statistics import fmean
from threading import Thread

MILLISECONDS = 5000


class PowerMeter:
    """Reads the power of some GPUs until it is stopped. Without GPUs or `nvidia-smi` it reads nothing.

    `devices` are numbers or UUIDs, as CUDA_VISIBLE_DEVICES has them. nvidia-smi counts GPUs as the bus does and CUDA the
    fastest first: on a machine with unlike GPUs numbers agree under CUDA_DEVICE_ORDER=PCI_BUS_ID only.
    """

    def __init__(self, devices: Sequence[str], milliseconds: int = MILLISECONDS) -> None:
        self._devices = len(devices)
        self._readings: list[float] = []
        self._process: subprocess.Popen[str] | None = None
        program = shutil.which("nvidia-smi")
        if program and devices:
            # Where this process is killed the pipe breaks, and nvidia-smi ends with its next reading.
            self._process = subprocess.Popen(
                [
                    program, f"--id={','.join(devices)}", "--query-gpu=power.draw", "--format=csv,noheader,nounits",
                    f"--loop-ms={milliseconds}",
                ],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            self._thread = Thread(target=self._read, daemon=True)
            self._thread.start()

    def stop(self) -> float | None:
        """The mean power of all these GPUs together in watts; None where nothing was read."""
        if self._process is None:
            return None
        self._process.terminate()
        self._thread.join()
        self._process.wait()
        return self._devices * fmean(self._readings) if self._readings else None

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._readings.append(float(line))
            except ValueError:  # "[N/A]": a GPU that cannot tell
                continue
