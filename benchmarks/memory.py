"""What it costs to take memory from the system anew for every layer: training and sampling on one CPU thread.

    python -m benchmarks.memory         # four minutes; writes the table of docs/how-to/environments.md

A training step of ResNet-18 (64 views of 128 x 128 pixels) and an evaluation of the U-Net that the quick BUS-BRA study trains
(64 views of 64 x 64), as the system's allocator does it and as the product does (`runtime.device.keep_memory`), in turn, each
in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import write_result

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "environments.md"
VARIANTS = {"given back after every layer": False, "kept": True}
WORKLOADS = {"resnet18": "training step, ResNet-18", "unet": "evaluation of the U-Net"}
ROUNDS, STEPS = 3, 3


def measure(workload: str, keeps: bool) -> dict[str, float]:
    """Processor seconds per step, those of them in the kernel, and peak memory in MB of this process."""
    import resource

    import torch
    from torch.nn import functional as F

    from workflow_scripts.diffusion.unet import build_unet
    from workflow_scripts.networks.backbone import Classifier, create_backbone
    from workflow_scripts.runtime.device import keep_memory

    torch.set_num_threads(1)
    if keeps:
        keep_memory()
    if workload == "resnet18":
        model = Classifier(create_backbone("resnet18", 0), 0).train()
        images, labels = torch.zeros(64, 3, 128, 128), torch.zeros(64, dtype=torch.int64)

        def step() -> None:
            F.cross_entropy(model(images), labels).backward()
    else:
        unet = build_unet(64, 32, [1, 2, 2], 1, [16], 2, 0.0).eval()
        images, timesteps = torch.zeros(64, 1, 64, 64), torch.full((64,), 500)

        @torch.inference_mode()
        def step() -> None:
            unet(images, timesteps)

    step()
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(STEPS):
        step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / STEPS,
        "kernel_s": (after.ru_stime - before.ru_stime) / STEPS,
        "peak_mb": after.ru_maxrss / 1024,
    }


def main() -> None:
    """Measure, write benchmarks/results/memory.json and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, metavar=("WORKLOAD", "KEEPS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        workload, keeps = arguments.one
        print(json.dumps(measure(workload, keeps == "True")))
        return
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(ROUNDS):
        for workload in WORKLOADS:
            for name, keeps in VARIANTS.items():
                command = [sys.executable, "-m", "benchmarks.memory", "--one", workload, str(keeps)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                runs.setdefault((workload, name), []).append(json.loads(done.stdout.splitlines()[-1]))
    rows = [
        {
            "workload": workload, "memory": name,
            **{key: round(statistics.median(run[key] for run in measured), 2) for key in measured[0]},
        }
        for (workload, name), measured in runs.items()
    ]  # fmt: skip
    print(write_result("memory", rows, rounds=ROUNDS, steps=STEPS))
    lines = ["| | memory | processor seconds | of them in the kernel | peak memory, MB |", "|---|---|---|---|---|"]
    lines += [
        f"| {WORKLOADS[r['workload']]} | {r['memory']} | {r['seconds']:.2f} | {r['kernel_s']:.2f} | {r['peak_mb']:.0f} |"
        for r in rows
    ]
    begin, end = "<!-- benchmark: memory -->\n", "<!-- end -->"
    head, rest = PAGE.read_text(encoding="utf-8").split(begin)
    PAGE.write_text(head + begin + "\n" + "\n".join(lines) + "\n" + rest[rest.index(end) :], encoding="utf-8")


if __name__ == "__main__":
    main()
