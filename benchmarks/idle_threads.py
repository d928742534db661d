"""What waiting OpenMP threads cost on a busy machine: forward passes with one thread, two as by default, and two that sleep.

    python -m benchmarks.idle_threads         # a minute; writes the table of docs/how-to/environments.md

At least as many other processes compute as there are cores. Each of the three runs in a process of its own, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import write_on_page, write_result
from workflow_scripts.runtime.cli import IDLE_THREADS

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "environments.md"
VARIANTS = {
    "one thread": (1, {}),
    "two threads, as OpenMP does by default": (2, {}),
    "two threads, sleeping": (2, IDLE_THREADS),
}
PASSES, ROUNDS = 5, 3
# Sixteen small convolutions: much waiting for each other, little to compute.
CODE = """
import json, sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
layers = [m for _ in range(16) for m in (torch.nn.Conv2d(64, 64, 3, padding=1), torch.nn.BatchNorm2d(64), torch.nn.ReLU())]
network, images = torch.nn.Sequential(*layers).eval(), torch.zeros(8, 64, 16, 16)
with torch.no_grad():
    network(images)
    wall, spent = time.perf_counter(), time.process_time()
    for _ in range(int(sys.argv[2])):
        network(images)
print(json.dumps([time.perf_counter() - wall, time.process_time() - spent]))
"""


def main() -> None:
    """Measure, write benchmarks/results/idle_threads.json and the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    missing = max(0, (os.cpu_count() or 1) - int(os.getloadavg()[0]))
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(missing)]
    seconds: dict[str, list[list[float]]] = {name: [] for name in VARIANTS}
    try:
        for _ in range(ROUNDS):
            for name, (threads, variables) in VARIANTS.items():
                command = [sys.executable, "-c", CODE, str(threads), str(PASSES)]
                environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **variables}
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                seconds[name].append([1000 * value / PASSES for value in json.loads(done.stdout)])
    finally:
        for process in busy:
            process.kill()
    rows = [
        {
            "variant": name,
            "wall_ms": round(statistics.median(wall for wall, _ in runs), 1),
            "cpu_ms": round(statistics.median(spent for _, spent in runs), 1),
        }
        for name, runs in seconds.items()
    ]
    print(
        write_result("idle_threads", rows, passes=PASSES, rounds=ROUNDS, cores=os.cpu_count(), load=os.getloadavg()[0])
    )
    lines = ["| threads | wall time of a forward pass, ms | processor time, ms |", "|---|---|---|"]
    lines += [f"| {row['variant']} | {row['wall_ms']:.0f} | {row['cpu_ms']:.0f} |" for row in rows]
    write_on_page(PAGE, "idle_threads", "\n".join(lines))


if __name__ == "__main__":
    main()
