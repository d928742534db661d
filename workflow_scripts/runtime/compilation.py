"""Compiled networks (`torch.compile`): what they compute is the same up to rounding, as on another device.

Compiling takes a minute or more before the first step, which short runs would not repay. Code is compiled for the shapes of
the first call; calls with others, such as the last batch of a set, run uncompiled instead of compiling once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.log import say
from workflow_scripts.runtime.cli import COMPILE

CHOICES = ("auto", "on", "off")
# Calls from which `auto` compiles on a GPU: at a quarter of a step of 0.2 s saved, those that repay two minutes.
REPAID = 2500


def pays(choice: str, device: torch.device, calls: int) -> bool:
    """Whether a network that is called so often is compiled; UserError if the choice is none of CHOICES."""
    if choice not in CHOICES:
        raise UserError(f"--compile (or {COMPILE}) is {choice!r}; it must be one of {', '.join(CHOICES)}")
    return choice == "on" or (choice == "auto" and device.type == "cuda" and calls >= REPAID)


def compile_forward(module: nn.Module) -> None:
    """Let a network compute by compiled code from here on; its parameters and their names stay."""
    module.forward = Compiled(module.forward, type(module).__name__)


class Compiled:
    """A function of tensors, compiled; where that fails, the function itself, after one warning that names it.

    Its gradient is compiled in the first call, too. PyTorch would wait for `backward`, where a failure is no longer the
    function's and ends the run.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function, self.name = function, name
        self.fast: Callable[..., Any] | None = torch.compile(function)
        self.shapes: list[torch.Size] | None = None

    def __call__(self, *values: Any, **named: Any) -> Any:
        """The function's result."""
        from torch._dynamo.exc import TorchDynamoException
        from torch._functorch import config

        shapes = [value.shape for value in (*values, *named.values()) if isinstance(value, torch.Tensor)]
        if self.shapes is None:
            self.shapes = shapes
        if self.fast is None or shapes != self.shapes:
            return self.function(*values, **named)
        try:
            with config.patch(force_non_lazy_backward_lowering=True):
                return self.fast(*values, **named)
        except TorchDynamoException as error:
            self.fast = None
            cause = getattr(error, "inner_exception", error)  # that of the compiler, where Dynamo only reports it
            reason = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
            say(
                f"warning: {self.name} runs uncompiled, since torch.compile failed here (--compile off avoids it): {reason}"
            )
            return self.function(*values, **named)
