"""Does it train? The paper's LARS at a learning rate of 1e-3 beside our default and the released code's optimiser.

ResNet-18 on phantoms (testicles and thyroids, 48 x 48 pixels), batch 64, 80 steps of the product's pretraining with the
shipped views. A row gives the mean loss of the first three and the last five steps, and how far the backbone's weights moved,
relative to their norm.

    python -m benchmarks.learning_rates         # three minutes; writes the table of docs/pretraining.md
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from benchmarks.measure import write_on_page, write_result
from benchmarks.pretraining_step import product_step

SIDE, BATCH, STEPS = 48, 64, 80
RATES: dict[str, dict[str, Any]] = {
    "LARS 1e-3 (paper)": {"optimiser": "lars", "lr": 1e-3},
    "LARS 0.075 sqrt(batch) (default)": {"optimiser": "lars", "lr": 0.075 * math.sqrt(BATCH)},
    "released (LARC around Adam) 1e-3": {"optimiser": "released", "lr": 1e-3, "weight_decay": 1e-4},
    "AdamW 1e-3": {"optimiser": "adamw", "lr": 1e-3},
}
PAGE = Path(__file__).parents[1] / "docs" / "pretraining.md"


def main() -> None:
    """Train, write benchmarks/results/learning_rates.json and the table of docs/pretraining.md."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()  # fmt: skip

    import numpy as np
    import torch

    from workflow_scripts.data.phantom import draw_frame
    from workflow_scripts.data.profiles import resize
    from workflow_scripts.networks.backbone import create_backbone
    from workflow_scripts.pretraining.loop import make_encoder
    from workflow_scripts.pretraining.mix import ViewUnion
    from workflow_scripts.runtime.device import select_device
    from workflow_scripts.study.config.pretraining import PretrainingRecipe

    device = select_device("auto", 1)
    stores = []
    for organ in ("testicle", "thyroid"):
        frames = [draw_frame(0, f"{organ}{i}", f"P{i}", organ, i % 5 == 0, organ == "thyroid") for i in range(BATCH)]
        stores.append(np.stack([resize(frame[130:430, 185:485], SIDE) for frame in frames]))
    views = ViewUnion(stores, [np.arange(BATCH)] * 2, [np.full(BATCH, organ) for organ in (0, 1)])
    rows = []
    for name, changes in RATES.items():
        recipe = PretrainingRecipe(**{"batch_size": BATCH, "steps": STEPS, **changes})
        backbone = create_backbone("resnet18", 0)
        before = torch.nn.utils.parameters_to_vector(backbone.parameters()).detach().clone()
        step = product_step(make_encoder(backbone, 2, views, recipe), views, recipe, device)
        losses = [step() for _ in range(STEPS)]
        moved = torch.nn.utils.parameters_to_vector(backbone.parameters()).detach().cpu() - before
        row = {
            "optimiser": name, "first": float(np.mean(losses[:3])), "last": float(np.mean(losses[-5:])),
            "moved": float(moved.norm() / before.norm()),
        }  # fmt: skip
        rows.append(row)
        print(f"{name:36}{row['first']:7.3f} -> {row['last']:.3f}   moved {row['moved']:.4f}", flush=True)
    chance = math.log(2 * BATCH - 1)
    print(write_result("learning_rates", rows, side=SIDE, batch_size=BATCH, steps=STEPS, loss_of_chance=chance))
    lines = ["| optimiser | loss, first 3 steps | last 5 | relative change of the weights |", "|---|---|---|---|"]
    lines += [f"| {r['optimiser']} | {r['first']:.3f} | {r['last']:.3f} | {r['moved']:.4f} |" for r in rows]
    write_on_page(PAGE, "learning_rates", "\n".join(lines))


if __name__ == "__main__":
    main()
