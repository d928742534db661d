"""The number formats of a training: float32, or 16-bit arithmetic inside the network with float32 weights and losses."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from workflow_scripts.errors import UserError

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
