"""The demo from end to end: `make demo`'s command in a folder of its own, and where its time goes, stage by stage.

Seconds of the stages are those of their own records (workflow_scripts/runtime/costs.py), from start to end of each process,
imports included. `busy_share` is the processor time of everything, over the wall time of all cores: what is missing is
waiting, for the next job's inputs or for Snakemake. The tables' digests tell whether two runs computed the same.
Compiled modules are absent at first, as after an installation.

    python -m benchmarks.demo
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.dag import REPOSITORY, plan_command, planned
from benchmarks.measure import bytecode_in, spent, write_result


def stages(logs: Path) -> list[dict[str, Any]]:
    """Seconds and jobs of each stage, the largest first."""
    from workflow_scripts.runtime.costs import read_costs

    rows: dict[str, dict[str, Any]] = {}
    for cost in read_costs(logs):
        row = rows.setdefault(cost.stage, {"stage": cost.stage, "jobs": 0, "seconds": 0.0, "longest": 0.0})
        row["jobs"] += 1
        row["seconds"] += cost.seconds
        row["longest"] = max(row["longest"], cost.seconds)
        row["peak_memory_mib"] = max(row.get("peak_memory_mib", 0.0), cost.peak_mib)
    return sorted(rows.values(), key=lambda row: -row["seconds"])


def timeline(logs: Path) -> list[dict[str, Any]]:
    """When each job's stage began, in seconds after the first, and how long it took."""
    jobs = []
    for file in logs.rglob("*.cost.jsonl"):
        start, end = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[-2:])
        job = str(file.relative_to(logs)).removesuffix(".cost.jsonl")
        jobs.append({"job": job, "started": start["started"], "seconds": end["seconds"]})
    first = min(job["started"] for job in jobs)
    return sorted((job | {"started": round(job["started"] - first, 1)} for job in jobs), key=lambda job: job["started"])


def main() -> None:
    """Run, sum up, write benchmarks/results/demo.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="(default: all)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copyfile(REPOSITORY / "data_manifest.csv", folder / "data_manifest.csv")
        environment = bytecode_in(folder / "bytecode")
        plan = plan_command(folder, REPOSITORY / "studies" / "demo.yaml")
        _, jobs = planned(plan, folder, environment)
        command = [word for word in plan if word not in ("--dry-run", "--quiet")]
        command += ["--cores", str(arguments.cores), "--quiet", "rules", "host", "reason"]
        whole = spent(command, folder, environment)
        logs = folder / "results" / "demo" / "logs"
        rows, jobs_run = stages(logs), timeline(logs)
        tables = {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:16]
            for file in sorted((folder / "results" / "demo" / "tables").glob("*.csv"))
        }
    in_stages = sum(row["seconds"] for row in rows)
    for row in rows:
        row["share"] = row["seconds"] / in_stages
        print(f"{row['stage']:24}{row['jobs']:4} jobs{row['seconds']:8.1f} s{100 * row['share']:6.1f} %")
    facts = {
        "cores_used": arguments.cores, "jobs": jobs, **whole, "seconds_in_stages": in_stages,
        "busy_share": whole["cpu_seconds"] / (arguments.cores * whole["seconds"]),
        "seconds_per_job_outside": (arguments.cores * whole["seconds"] - in_stages) / jobs, "tables": tables,
        "timeline": jobs_run,
    }  # fmt: skip
    print(f"{whole['seconds']:.0f} s on {arguments.cores} cores, busy {100 * facts['busy_share']:.0f} %")
    print(write_result("demo", rows, **facts))


if __name__ == "__main__":
    main()
