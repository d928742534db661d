"""The memory of freed tensors stays with a process that computes on a CPU."""

from __future__ import annotations

import platform

import pytest
import torch

from workflow_scripts.runtime.device import keep_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other allocators")
def test_a_freed_tensor_leaves_its_pages_to_the_next():
    import resource

    keep_memory()
    torch.ones(2**24)  # 64 MiB, 16 384 pages each time that they are taken anew
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(2**24)
    # A process that has worked before may have split the first block: one more is taken, and no third.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 2 * 16_384
