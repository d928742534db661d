"""One training on several devices: a process for each, started by torchrun.

Every process takes its own part of the same batch. Gradients are averaged (diffusion, whose loss is a mean over images) or
added up (pretraining, whose loss is of the whole batch), so that the number of processes changes the rounding and nothing
else. The first process alone writes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as distributed

from workflow_scripts.core.errors import UserError
from workflow_scripts.runtime.work import Follower, WorkDir


def relaunch(processes: int) -> None:
    """Where more than one process is wanted and this is none of them, become torchrun with this command line."""
    if processes <= 1 or "RANK" in os.environ:
        return
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    module = sys.modules["__main__"].__spec__
    assert module is not None, "a stage runs as `python -m`"
    sys.stderr.flush()
    os.execv(sys.executable, [*torchrun, "-m", "--", module.name, *sys.argv[1:]])


class Processes:
    """The processes of a training; without torchrun there is one."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.local = int(os.environ.get("LOCAL_RANK", "0"))

    @property
    def is_first(self) -> bool:
        """Whether this one writes."""
        return self.rank == 0

    def device_name(self, wanted: str) -> str:
        """The device of this process: each its own GPU, if there are GPUs and none was named."""
        if self.count == 1 or wanted == "cpu" or not torch.cuda.is_available():
            return wanted
        if wanted not in ("auto", "cuda"):
            raise UserError(f"--device {wanted} names one GPU for {self.count} processes; leave it out")
        if torch.cuda.device_count() <= self.local:
            raise UserError(
                f"{self.count} processes need a GPU each, this machine shows {torch.cuda.device_count()}; start fewer"
            )
        return f"cuda:{self.local}"

    def join(self, device: torch.device) -> None:
        """Meet the others: tensors of GPUs travel over NCCL, those of CPUs over gloo."""
        if self.count > 1:
            if device.type == "cuda":
                torch.cuda.set_device(device)
                distributed.init_process_group("cpu:gloo,cuda:nccl")
            else:
                distributed.init_process_group("gloo")

    def leave(self) -> None:
        """End the meeting."""
        if self.count > 1:
            distributed.destroy_process_group()

    def work_dir(self, path: Path, make: Callable[[], WorkDir]) -> WorkDir:
        """The work directory that the first process makes, which the others only read; a refusal ends them all."""
        if self.count == 1:
            return make()
        work, refusal = None, [""]
        if self.is_first:
            try:
                work = make()
            except UserError as error:
                refusal = [str(error)]
        distributed.broadcast_object_list(refusal, src=0)
        if refusal[0]:
            raise UserError(refusal[0])
        return work or Follower(path)

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process, so that all of them do the same. (On CPUs: no GPU is waited for.)"""
        if self.count == 1:
            return flag
        answer = torch.tensor(int(flag))
        distributed.all_reduce(answer, op=distributed.ReduceOp.MAX)
        return bool(answer)

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over the processes."""
        if self.count > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def part(self, size: int) -> slice:
        """This process's rows of a batch of `size`, a multiple of `count`: the first ones are the first process's."""
        own = size // self.count
        return slice(self.rank * own, (self.rank + 1) * own)

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """(2, n, D) of each process -> (2, count n, D) in the order of the batch; no gradient passes."""
        if self.count == 1:
            return values
        parts = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(self.count)]
        distributed.all_gather(parts, values.contiguous())
        return torch.cat(parts, dim=1)

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over the processes, all in one transfer."""
        if self.count == 1 or not tensors:
            return
        flat = self.total(torch.cat([tensor.flatten() for tensor in tensors]))
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))
