"""The device a training runs on, its arithmetic, and how values get there and back.

Copies to a GPU, from it, and rows chosen by a mask pass through here: each can make the CPU wait for the GPU, or the GPU
for the CPU, and the tests count where that happens.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from workflow_scripts.core.errors import UserError

# The number formats of a training run: float32, or 16-bit arithmetic inside the network with float32 weights and losses.
FORMATS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# How many draws a GPU has waiting for it: one that is being copied, and one that is being drawn.
DRAWN_AHEAD = 2
# Parameters of glibc's mallopt, and a size in bytes that no activation of a network reaches.
TRIM_THRESHOLD, MMAP_THRESHOLD, LARGE = -1, -3, 2**30

Drawn = TypeVar("Drawn")


class Precision:
    """Autocasting, and for fp16 the scaling that keeps small gradients above its smallest number.

    `name` is a key of FORMATS or `auto`: bf16 on GPUs that have it, fp16 on older ones, float32 on a CPU.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        has_bf16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
        if name == "auto":
            name = "float32" if device.type != "cuda" else "bf16" if has_bf16 else "fp16"
        if name == "bf16" and not has_bf16:
            raise UserError(f"precision bf16: {torch.cuda.get_device_name(device)} does not have it; use fp16 or auto")
        self.name, self.device = name, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def cast(self) -> AbstractContextManager:
        """The context of a forward pass."""
        if self.name == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=FORMATS[self.name])


def select_device(name: str, threads: int) -> torch.device:
    """The device named `auto`, `cpu`, `cuda` or `cuda:<i>`; on CPU, results are deterministic for a thread count."""
    torch.set_num_threads(threads)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: this machine shows no usable GPU; use --device cpu or check the driver")
    if device.type == "cpu":
        keep_memory()
        torch.use_deterministic_algorithms(True)
    else:
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    return device


def keep_memory() -> None:
    """Keep the memory of freed tensors for the next ones, in huge pages; a process that calls it may take a third more.

    glibc gives every large block back to the system when it is freed, and takes it anew, page by page, for the next layer:
    that can be half of a forward pass (docs/how-to/environments.md, `python -m benchmarks.memory`). Elsewhere nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch at its first allocation
    libc = ctypes.CDLL(None)
    for parameter in (MMAP_THRESHOLD, TRIM_THRESHOLD):
        libc.mallopt(parameter, LARGE)


def to_device(values: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Values of the CPU as a tensor on the device; a GPU copies them from pinned memory, and nothing waits for it."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    return pinned(tensor, device).to(device, non_blocking=True) if device.type == "cuda" else tensor


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's values on the CPU, for which a GPU must finish first."""
    return tensor.detach().cpu().numpy()


def rows_where(mask: np.ndarray, device: torch.device) -> torch.Tensor:
    """Positions of the true values of a mask (N,), int64 on the device; a mask on a GPU would have to be waited for."""
    return to_device(np.flatnonzero(mask), device)


def pinned(values: Any, device: torch.device) -> Any:
    """Tensors, in whatever lists and dictionaries they are, in memory that a GPU can copy from by itself."""
    if isinstance(values, torch.Tensor):
        return values.pin_memory() if device.type == "cuda" and not values.is_pinned() else values
    if isinstance(values, list):
        return [pinned(value, device) for value in values]
    return {key: pinned(value, device) for key, value in values.items()} if isinstance(values, dict) else values


class Ahead(Generic[Drawn]):
    """What a training draws at each step, drawn before it is asked for, so that a GPU does not wait for random numbers.

    `draw` gives the draws of a number below `end` on the CPU, and depends on that number alone: whether a thread draws them
    ahead into pinned memory, as for a GPU, or they are drawn when asked for, as on a CPU that has no core to spare, they are
    the same.
    """

    def __init__(self, draw: Callable[[int], Drawn], device: torch.device, end: int) -> None:
        self.draw, self.device, self.end = draw, device, end
        self.futures: dict[int, Future[Drawn]] = {}
        self.thread = ThreadPoolExecutor(1, initializer=self._prepare) if device.type == "cuda" else None

    def __call__(self, number: int) -> Drawn:
        """The draws of a number; an error in `draw` is raised here."""
        if self.thread is None:
            return self.draw(number)
        for following in range(number, max(number + 1, min(number + 1 + DRAWN_AHEAD, self.end))):
            if following not in self.futures:
                self.futures[following] = self.thread.submit(self._draw, following)
        return self.futures.pop(number).result()

    def _draw(self, number: int) -> Drawn:
        return pinned(self.draw(number), self.device)

    def _prepare(self) -> None:
        if self.device.index is not None:
            torch.cuda.set_device(self.device)  # a thread starts with the first GPU, and pinning opens one


def autocast(device: torch.device) -> AbstractContextManager:
    """bf16 on GPUs that have it (fp16 training needs a loss scaler and is left out); float32 elsewhere."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()
