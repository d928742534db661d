"""NT-Xent at the paper's batch (1024 images, 2048 dimensions), forward and backward, against its peers.

The loop is Eq. 1-2 as printed, anchor by anchor (the released code has one); lightly's NTXentLoss is the usual library's.
All three get the same embeddings and must give the same loss and gradient.

    python -m benchmarks.contrastive_loss
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks.measure import paired, write_result

TEMPERATURE = 0.5


def main() -> None:
    """Measure, compare, write benchmarks/results/contrastive_loss.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024, help="(default: 1024)")
    parser.add_argument("--dimensions", type=int, nargs="+", default=[128, 2048], help="(default: 128 2048)")
    parser.add_argument("--repeats", type=int, default=3, help="(default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="(default: 1)")
    arguments = parser.parse_args()

    import torch
    from lightly.loss import NTXentLoss
    from torch import Tensor
    from torch.nn import functional as F

    from workflow_scripts.training.contrastive import nt_xent

    torch.set_num_threads(arguments.threads)

    def loop(first: Tensor, second: Tensor) -> Tensor:
        views = F.normalize(torch.cat([first, second]), dim=1)
        rows, count = views.unbind(), len(views)
        itself = torch.eye(count, dtype=torch.bool).unbind()
        total = torch.zeros(())
        for anchor, row in enumerate(rows):
            similarities = views @ row / TEMPERATURE
            denominator = torch.logsumexp(similarities.masked_fill(itself[anchor], -torch.inf), 0)
            total = total + denominator - similarities[(anchor + count // 2) % count]
        return total / count

    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "loop over anchors": loop,
        "lightly": NTXentLoss(temperature=TEMPERATURE),
        "tusflow": lambda first, second: nt_xent(first, second, TEMPERATURE),
    }
    rows = []
    for dimensions in arguments.dimensions:
        generator = torch.Generator().manual_seed(0)
        pair = torch.randn(2, arguments.images, dimensions, generator=generator)

        def step(loss: Callable[[Tensor, Tensor], Tensor], pair: Tensor = pair) -> tuple[float, Tensor]:
            leaf = pair.clone().requires_grad_()
            value = loss(leaf[0], leaf[1])
            value.backward()
            assert leaf.grad is not None
            return value.item(), leaf.grad

        ours, gradient = step(losses["tusflow"])
        times = paired({name: lambda loss=loss: step(loss) for name, loss in losses.items()}, arguments.repeats)
        for name, seconds in times.items():
            value, slope = step(losses[name])
            ratio = seconds["seconds_median"] / times["tusflow"]["seconds_median"]
            difference = ((slope - gradient).norm() / gradient.norm()).item()
            rows.append({
                "dimensions": dimensions, "method": name, **seconds, "times_ours": ratio,
                "loss_difference": abs(value - ours), "gradient_difference": difference,
            })  # fmt: skip
            print(f"D {dimensions:5}  {name:20}{seconds['seconds_median']:8.3f} s{ratio:8.1f} x  grad {difference:.1e}")
    print(write_result("contrastive_loss", rows, images=arguments.images, threads=arguments.threads))


if __name__ == "__main__":
    main()
