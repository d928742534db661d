"""A machine without a GPU that behaves as if it had one: tensors compute on the CPU and carry the device they claim.

Within `PretendGPU()` whatever asks for `cuda` gets a tensor that says so and that no operation may mix with a tensor of the
CPU, as on a real card; forward, backward and optimiser run as always, with real values. Every place where a program would
wait for the card (reading a value, choosing rows by a mask, copying from memory that is not pinned) is counted. Modules must
be made within it. Autocasting and random numbers are those of the CPU.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch._dynamo  # optimisers import it; it must not see the patches below
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)
REPOSITORY = Path(__file__).parents[1]
FOLDERS = (str(REPOSITORY / "workflow_scripts"), str(REPOSITORY / "tests" / "network_stages.py"))
SEAM = str(REPOSITORY / "workflow_scripts" / "runtime" / "device.py")
# Attributes of a tensor that name its device.
DEVICE, IS_CUDA = torch.Tensor.device.__get__, torch.Tensor.is_cuda.__get__  # type: ignore[attr-defined]
# Functions that make tensors of Python's numbers; without a device they make them on the CPU.
MAKERS = {
    getattr(torch, name)
    for name in ("arange", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "randperm", "tensor",
                 "as_tensor", "zeros")
}  # fmt: skip
aten = torch.ops.aten
# Operations whose result the CPU must see before it can go on.
READS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class WrongDeviceError(RuntimeError):
    """An operation was given tensors of the CPU and of the card."""


class PretendGPU:
    """The pretended card; `waits` lists (function, why) of every wait.

    `forget` names a function whose copies to the card (but not those of modules) are left on the CPU: a fault on purpose.
    """

    def __init__(self, forget: str = "") -> None:
        self.waits: list[tuple[str, str]] = []
        self.forget = forget
        # By storage, since views, detached and saved tensors share it; kept alive, so that no address is used twice.
        self.tags: dict[int, torch.device | None] = {}
        self.pinned: set[int] = set()
        self.kept: list[Any] = []
        self.stack = ExitStack()

    def __enter__(self) -> PretendGPU:
        autocast, from_numpy, generator = torch.autocast, torch.from_numpy, torch.Generator
        patches: dict[str, Any] = {
            "torch.autocast": lambda _kind, **options: autocast("cpu", **options),
            "torch.cuda.is_available": lambda: True,
            "torch.cuda.is_bf16_supported": lambda **_: True,
            "torch.cuda.set_device": lambda _device: None,
            "torch.cuda.synchronize": lambda *_: self.wait("synchronize"),
            # Not only in the thread that entered, unlike the modes below.
            "torch.Tensor.pin_memory": lambda tensor: self.pin(tensor),
            "torch.Tensor.is_pinned": lambda tensor: _storage(tensor) in self.pinned,
            "torch.Generator": lambda _device="cpu": generator(),
            "torch.from_numpy": lambda array: self.tag(from_numpy(array), CPU),
            "torch.optim.Optimizer._accelerator_graph_capture_health_check": lambda _optimiser: None,
        }
        for name, replacement in patches.items():
            self.stack.enter_context(mock.patch(name, replacement))
        self.stack.enter_context(_Dispatch(self))
        self.stack.enter_context(_Functions(self))
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def device(self, tensor: torch.Tensor) -> torch.device | None:
        """The device that a tensor claims; None where nobody has said, as for constants that PyTorch makes for itself."""
        return self.tags.get(_storage(tensor))

    def tag(self, tensor: torch.Tensor, device: torch.device | None) -> torch.Tensor:
        """Let a tensor claim a device."""
        self.kept.append(tensor.untyped_storage())
        self.tags[_storage(tensor)] = None if device is None else CARD if device.type == "cuda" else CPU
        return tensor

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy in memory that counts as pinned."""
        pinned = self.tag(tensor.detach().clone(), CPU)
        self.pinned.add(_storage(pinned))
        return pinned

    def wait(self, why: str) -> None:
        """Count a wait."""
        self.waits.append((_functions()[-1], why))

    def move(self, tensor: torch.Tensor, device: torch.device, **options: Any) -> torch.Tensor:
        """A copy on another device, or the tensor itself where it is there already and keeps its type and layout."""
        here, device = self.device(tensor) or CPU, CARD if device.type == "cuda" else CPU
        if here == device:
            return tensor.to(**options) if options else tensor
        if device == CARD and self.forget in _functions() and not _moves_a_module():
            return self.tag(tensor.clone(), CPU)
        if device == CPU:
            self.wait("copy to the CPU")
        elif _storage(tensor) not in self.pinned and not _moves_a_module():
            self.wait("copy from memory that is not pinned")
        return self.tag(tensor.to(CPU, copy=True, **options), device)


class _Dispatch(TorchDispatchMode):
    """Every operation below autograd: its tensors must claim one device, and its results claim it too."""

    def __init__(self, card: PretendGPU) -> None:
        super().__init__()
        self.card = card

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to skip it, PyTorch would import it, which takes seconds

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        card, kwargs = self.card, kwargs or {}
        given = _tensors((args, kwargs.values()))
        claims = [card.device(tensor) for tensor in given]
        on_card = CARD in claims
        if on_card:
            indices = [index for index in args[1] if index is not None] if function in INDEXED else []
            for tensor, claim in zip(given, claims, strict=True):
                if claim != CPU:
                    continue
                # As on a card, a number of no dimension and the indices of a look-up may come from the CPU.
                if any(tensor is index for index in indices):
                    card.wait(f"{function}: indices on the CPU")
                elif tensor.ndim:
                    raise WrongDeviceError(
                        f"{function}: a tensor {tuple(tensor.shape)} of the CPU beside some of the card"
                    )
            if function in READS or any(index.dtype == torch.bool for index in indices):
                card.wait(f"{function}")
        result = function(*args, **kwargs)
        shared = {_storage(tensor) for tensor in given}
        for tensor in _tensors((result,)):
            if _storage(tensor) not in shared:
                # Made of numbers alone, it is of no device until somebody says.
                card.tag(tensor, CARD if on_card else CPU if CPU in claims else None)
        return result


class _Functions(TorchFunctionMode):
    """Every function of PyTorch that Python calls: those that name a device get one of the pretended ones."""

    def __init__(self, card: PretendGPU) -> None:
        super().__init__()
        self.card = card

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        card, kwargs = self.card, dict(kwargs or {})
        if function == DEVICE:
            return card.device(args[0]) or CPU
        if function == IS_CUDA:
            return card.device(args[0]) == CARD
        name = getattr(function, "__name__", "")
        if function is torch.Tensor.to:
            device, rest = self._wanted(args[1:], kwargs)
            options = {key: value for key, value in rest.items() if key not in ("non_blocking", "copy")}
            if device is None:
                return function(args[0], **{key: value for key, value in rest.items() if key != "non_blocking"})
            return card.move(args[0], device, **options)
        if function is torch.Tensor.cpu:
            return card.move(args[0], CPU)
        if function is torch.Tensor.cuda:
            return card.move(args[0], CARD)
        if function is torch.Tensor.numpy or name == "__array__":
            if card.device(args[0]) == CARD:
                raise WrongDeviceError("NumPy cannot read a tensor of the card")
            return function(*args, **kwargs)
        if function is torch.Tensor.tolist and card.device(args[0]) == CARD:
            card.wait("tolist")
        wanted = None if function is torch._C._nn._parse_to else kwargs.get("device")
        if wanted is not None:
            kwargs["device"] = CPU
        result = function(*args, **kwargs)
        if wanted is not None or function in MAKERS:
            self._claim(function, args, result, wanted)
        return result

    def _wanted(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[torch.device | None, dict[str, Any]]:
        """The device, and the other options, of the arguments of `Tensor.to`."""
        rest = dict(kwargs)
        device = rest.pop("device", None)
        for argument in args:
            if isinstance(argument, torch.dtype):
                rest["dtype"] = argument
            elif isinstance(argument, torch.Tensor):
                rest["dtype"], device = argument.dtype, self.card.device(argument) or CPU
            elif isinstance(argument, bool):
                rest["non_blocking"] = argument
            elif argument is not None:
                device = argument
        return None if device is None else torch.device(device), rest

    def _claim(self, function: Callable[..., Any], args: Any, result: Any, wanted: Any) -> None:
        is_copy = function is torch.as_tensor and isinstance(args[0], torch.Tensor)
        if is_copy and wanted is None:
            return
        device = torch.device("cpu" if wanted is None else wanted)
        if device.type == "cuda" and function in (torch.tensor, torch.as_tensor):
            self.card.wait("copy of Python's or NumPy's values")
            if self.card.forget in _functions():
                device = CPU
        for tensor in _tensors((result,)):
            self.card.tag(tensor, device)


def _tensors(values: Iterable[Any]) -> list[torch.Tensor]:
    """The tensors among values and in their tuples and lists."""
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list, type({}.values()))):
            found += _tensors(value)
    return found


def _functions() -> list[str]:
    """Names of the functions of stages and tests that are being executed, the innermost last; device.py's are left out."""
    code = [frame.f_code for frame, _ in traceback.walk_stack(None)]
    names = [each.co_qualname for each in code if each.co_filename.startswith(FOLDERS) and each.co_filename != SEAM]
    # A comprehension counts as the function that it is in.
    return [re.sub(r"(\.<locals>\.<\w+>)+$", "", name).split(".")[-1] for name in names[::-1]] or ["test"]


def _moves_a_module() -> bool:
    """Whether a module is on its way to the card, which happens before a run begins."""
    return any(frame.f_code is torch.nn.Module._apply.__code__ for frame, _ in traceback.walk_stack(None))


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
