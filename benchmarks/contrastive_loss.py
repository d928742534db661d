"""NT-Xent at the paper's batch (1024 images, 2048 dimensions), forward and backward, against its peers.

The loop is Eq. 1-2 as printed, anchor by anchor (the released code has one); lightly's NTXentLoss is the usual library's.
All three get the same embeddings and must give the same loss and gradient.

    python -m benchmarks.contrastive_loss
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks.measure import matrix_product, memory_of_each, paired, write_result

TEMPERATURE = 0.5


def sides(images: int, dimensions: int) -> dict[str, Callable[[], Any]]:
    """Loss and gradient of the same embeddings by the peers and by ours."""
    import torch
    from lightly.loss import NTXentLoss
    from torch import Tensor
    from torch.nn import functional as F

    from workflow_scripts.networks.contrastive import nt_xent

    pair = torch.randn(2, images, dimensions, generator=torch.Generator().manual_seed(0))

    def step(loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, Tensor]:
        leaf = pair.clone().requires_grad_()
        value = loss(leaf[0], leaf[1])
        value.backward()
        assert leaf.grad is not None
        return value.item(), leaf.grad

    def loop() -> tuple[float, Tensor]:
        """One anchor's gradient at a time: kept for all anchors, the graph does not fit into 24 GiB."""
        leaf = pair.clone().requires_grad_()
        views = F.normalize(leaf.flatten(0, 1), dim=1)
        anchors = views.detach().requires_grad_()
        value, count = 0.0, len(views)
        for anchor in range(count):
            similarities = anchors @ anchors[anchor] / TEMPERATURE
            others = similarities.masked_fill(torch.arange(count) == anchor, -torch.inf)
            loss = (torch.logsumexp(others, 0) - similarities[(anchor + images) % count]) / count
            loss.backward()
            value += loss.item()
        views.backward(anchors.grad)
        assert leaf.grad is not None
        return value, leaf.grad

    lightly = NTXentLoss(temperature=TEMPERATURE)
    return {
        "loop over anchors": loop,
        "lightly": lambda: step(lightly),
        "tusflow": lambda: step(lambda first, second: nt_xent(first, second, TEMPERATURE)),
    }


def main() -> None:
    """Measure, compare, write benchmarks/results/contrastive_loss.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024, help="(default: 1024)")
    parser.add_argument("--dimensions", type=int, nargs="+", default=[128, 2048], help="(default: 128 2048)")
    parser.add_argument("--repeats", type=int, default=5, help="(default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="(default: 1)")
    arguments = parser.parse_args()
    peaks = {
        dimensions: memory_of_each("benchmarks.contrastive_loss", arguments.images, dimensions)
        for dimensions in arguments.dimensions
    }

    import torch

    torch.set_num_threads(arguments.threads)
    multiply, operations = matrix_product(torch.device("cpu"), "float32")
    rows = []
    for dimensions in arguments.dimensions:
        functions = sides(arguments.images, dimensions)
        value, gradient = functions["tusflow"]()
        times = paired({**functions, "product": multiply}, arguments.repeats)
        peak = operations / times.pop("product")["seconds_median"]
        # Similarities of all views, and the two products of their gradient.
        least = 3 * 2 * (2 * arguments.images) ** 2 * dimensions
        for name, seconds in times.items():
            other, slope = functions[name]()
            ratio = seconds["seconds_median"] / times["tusflow"]["seconds_median"]
            difference = ((slope - gradient).norm() / gradient.norm()).item()
            rows.append({
                "dimensions": dimensions, "method": name, **seconds, "times_ours": ratio,
                "share_of_peak": least / seconds["seconds_median"] / peak, "peak_memory_mib": peaks[dimensions][name],
                "loss_difference": abs(other - value), "gradient_difference": difference,
            })  # fmt: skip
            print(f"D {dimensions:5}  {name:20}{seconds['seconds_median']:8.3f} s{ratio:8.1f} x  grad {difference:.1e}")
    print(write_result("contrastive_loss", rows, images=arguments.images, threads=arguments.threads))


if __name__ == "__main__":
    main()
