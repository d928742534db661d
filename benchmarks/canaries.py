"""Does a generator that learnt by heart return its canaries, and does `select: best` stop before the first one returns?

For each seed a small diffusion model learns drawn views, some with a code, far longer than is good for it. Its snapshots are
measured by the workflow's stages (`monitor_diffusion`, `audit_canaries`, `select_checkpoint`), and the last and the chosen
one are attacked with their weights (`measure_denoising`). Patients have one view each. Finished seeds stay in the work folder,
and training continues where an interrupted run stopped.

    python -m benchmarks.canaries --work DIR --seeds 10
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from benchmarks.measure import write_result

SIZE, LEARNT, HELD_OUT, CANARIES, EVERY = 24, 8, 16, 8, 100
RECIPE = {
    "base_channels": 32, "channel_multipliers": [1, 1], "residual_blocks": 1, "attention_resolutions": [12], "heads": 1,
    "dropout": 0.0, "timesteps": 50, "steps": 800, "batch_size": 8, "lr": 2e-3, "warmup_steps": 20, "ema": 0.98,
    "checkpoint_every": EVERY, "grid_every": 0,
}  # fmt: skip
AUDIT = {"images": 48, "steps": 20, "batch_size": 48}
MONITOR = {
    "images": 24, "steps": 20, "batch_size": 24, "metric_k": 3, "shift": 2, "false_alarms": 0.1, "network": "encoder",
    "backbone": "test_resnet",
}  # fmt: skip


def write_study(folder: Path, seed: int) -> dict[str, Path]:
    """Drawn views, smooth shapes under speckle, one of each patient: the files that the stages read."""
    import timm
    import torch
    from safetensors.torch import save_file

    patients = LEARNT + HELD_OUT
    generator = np.random.default_rng(seed)
    shapes = gaussian_filter(generator.standard_normal((patients, SIZE, SIZE)), 3, axes=(1, 2))
    speckle = gaussian_filter(generator.standard_normal((patients, SIZE, SIZE)), 0.6, axes=(1, 2))
    grey = 115 + 40 * shapes / shapes.std() + 12 * speckle / speckle.std()
    np.save(folder / "labelled.npy", np.clip(grey, 0, 255).astype(np.uint8))
    names = [f"p{number:02d}" for number in range(patients)]
    index = pd.DataFrame({"view_id": [f"{name}#0" for name in names], "image_id": names, "patient_id": names})
    index.assign(organ="testicle", label="homogeneous", view="full").to_csv(folder / "labelled.csv", index=False)
    pd.DataFrame({"patient_id": names[LEARNT:]}).to_csv(folder / "holdout.csv", index=False)
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), folder / "encoder.safetensors")
    return {"index": folder / "labelled.csv", "holdout": folder / "holdout.csv"}


def measured(folder: Path, seed: int) -> dict[str, Any]:
    """One seed: what its last and its chosen snapshot return and reveal."""
    from workflow_scripts.diffusion import train_diffusion
    from workflow_scripts.privacy import (
        audit_canaries,
        measure_denoising,
        monitor_diffusion,
        plant_canaries,
        select_checkpoint,
    )
    from workflow_scripts.privacy.membership import WEIGHT_ATTACKS, attack_on_weights
    from workflow_scripts.runtime.arguments import flags
    from workflow_scripts.runtime.cli import run

    study = write_study(folder, seed)
    run(plant_canaries.main, plant_canaries.parser(), flags({
        **study, "views": folder / "labelled.npy", "canaries": CANARIES, "seed": seed,
        "output-views": folder / "marked.npy", "output-planted": folder / "planted.csv",
    }))  # fmt: skip
    study["views"] = folder / "marked.npy"
    model = {**study, "model": folder / "model"}
    run(train_diffusion.main, train_diffusion.parser(), flags({
        **study, **RECIPE, "seed": seed, "snapshot-every": EVERY, "device": "cpu", "work-dir": folder / "training",
        "output-model": folder / "model", "output-metrics": folder / "metrics.jsonl",
    }))  # fmt: skip
    run(monitor_diffusion.main, monitor_diffusion.parser(), flags({
        **model, **MONITOR, "seed": seed, "device": "cpu", "weights": folder / "encoder.safetensors",
        "work-dir": folder / "monitor", "output-measures": folder / "monitor.csv",
    }))  # fmt: skip
    run(audit_canaries.main, audit_canaries.parser(), flags({
        **model, **AUDIT, "seed": seed, "device": "cpu", "planted": folder / "planted.csv", "select": "best",
        "measures": folder / "monitor.csv", "work-dir": folder / "audit", "output-canaries": folder / "canaries.csv",
        "output-summary": folder / "canaries.json", "output-page": folder / "canaries.html",
    }))  # fmt: skip
    run(select_checkpoint.main, select_checkpoint.parser(), flags({
        "model": folder / "model", "measures": folder / "monitor.csv", "select": "best", "output-model": folder / "best",
    }))  # fmt: skip
    membership = {}
    for name, file in (("last", "model"), ("best", "best")):
        run(measure_denoising.main, measure_denoising.parser(), flags({
            **study, "model": folder / file, "noises": 4, "batch-size": 24, "device": "cpu",
            "work-dir": folder / f"denoising_{name}", "output-denoising": folder / f"denoising_{name}.csv",
        }))  # fmt: skip
        table = pd.read_csv(folder / f"denoising_{name}.csv")
        membership[name] = {
            attack: attack_on_weights(
                table[attack].to_numpy(), table["patient_id"].to_numpy(), table["held_out"].to_numpy() == 1, seed
            )["auc"]
            for attack in WEIGHT_ATTACKS
        }
    summary = json.loads((folder / "canaries.json").read_text())
    counts = ("codes", "returned")
    last = summary["snapshots"][-1]
    return {
        "seed": seed,
        "last": {group: {key: last[group][key] for key in counts} for group in ("planted", "kept_out")},
        "returned_by_step": {str(row["step"]): row["planted"]["returned"] for row in summary["snapshots"]},
        "first_return": summary["first_return"],
        "chosen": summary["chosen"]["step"],
        "membership_auroc": membership,
    }


def main() -> None:
    """Seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    rows = []
    for seed in range(arguments.seeds):
        folder = arguments.work / str(seed)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "row.json"
        if not file.is_file():
            file.write_text(json.dumps(measured(folder, seed)))
        rows.append(json.loads(file.read_text()))
        print(rows[-1], flush=True)
        write_result(
            "canaries", rows, size=SIZE, learnt_patients=LEARNT, held_out_patients=HELD_OUT, recipe=RECIPE, audit=AUDIT,
            monitor=MONITOR,
        )  # fmt: skip


if __name__ == "__main__":
    main()
