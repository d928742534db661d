"""The matrix products of the k-NN geometry on a GPU; every decision stays where `neighbours` makes it.

For sets of hundreds of thousands: `membership(real, radii(real, 50, on_gpu), generated, on_gpu)` with
`on_gpu = tiling_on(torch.device("cuda"))`. The workflow's own filter takes seconds on a CPU and asks for no GPU.
"""

from __future__ import annotations

import numpy as np
import torch

from workflow_scripts.runtime.device import to_device, to_numpy
from workflow_scripts.synthesis.neighbours import Tiling

# A tile travels to the GPU and back: larger ones keep both busy, at 100 MB on either side.
GPU_SIDE = 4096


def tiling_on(device: torch.device) -> Tiling:
    """Tiles whose products a device computes in full float32."""
    # The bound on rounding errors is that of float32 sums: TF32 would be wrong, not just less precise.
    torch.backends.cuda.matmul.allow_tf32 = False

    def product(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        points, reference = (to_device(part, device) for part in (first, second))
        return to_numpy(points @ reference.T)

    if device.type == "cpu":
        return Tiling(product=product)
    return Tiling(GPU_SIDE, GPU_SIDE, product)
