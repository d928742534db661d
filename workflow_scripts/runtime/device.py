"""The device a training runs on, and its arithmetic."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from workflow_scripts.core.errors import UserError

# The number formats of a training run: float32, or 16-bit arithmetic inside the network with float32 weights and losses.
FORMATS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
        torch.use_deterministic_algorithms(True)
    else:
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    return device


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """The array as a tensor on the device; to a GPU it is copied from pinned memory without waiting for earlier work."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def autocast(device: torch.device) -> AbstractContextManager:
    """bf16 on GPUs that have it (fp16 training needs a loss scaler and is left out); float32 elsewhere."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()
