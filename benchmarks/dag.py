"""Start-up: what planning a study costs, against a plain Snakefile of as many rules and jobs; what a job costs beside its work.

Planning is `snakemake --dry-run --quiet`. The plain Snakefile has trivial rules and no config, so that the ratio says
what our config, manifest, code fingerprints and wildcards add; `snakemake --version` is what nothing can go below. The
cost of a job is the slope between runs of few and of many jobs on one core: of trivial ones (Snakemake's own), and of
ones that start a stage's process. Processor time compares. Compiled modules are kept, as in any installed environment;
the first start, which compiles them, has a row of its own.

    python -m benchmarks.dag
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import bytecode_in, paired_spent, spent, write_result

REPOSITORY = Path(__file__).parents[1]
SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))
HEADER = ["image_id", "path", "patient_id", "organ", "label", "device", "side", "truth"]
PAPER = (220, 25_790)  # patients of two labelled views, unlabelled views
FEW, MANY = 5, 45  # jobs of the two runs whose difference is the cost of a job
PROCESSES = {
    "python -c pass": ["-c", "pass"],
    "a cheap stage, --help": ["-m", "workflow_scripts.data.draw_folds", "--help"],
    "import numpy": ["-c", "import numpy"],
    "import pandas": ["-c", "import pandas"],
    "import torch": ["-c", "import torch"],
}


def write_manifest(file: Path, patients: int, unlabelled: int) -> None:
    """A manifest of two labelled views per patient and of unlabelled ones, a fifteenth of them of the target organ."""
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow(HEADER)
        for patient in range(patients):
            label = "inhomogeneous" if patient % 5 == 0 else "homogeneous"
            for side in ("left", "right"):
                name = f"P{patient:06}_{side}"
                path = f"{name}.bmp"
                writer.writerow([name, path, f"P{patient:06}", "testicle", label, "esaote_mylab", side, label])
        for i in range(unlabelled):
            organ = "testicle" if i % 15 == 0 else "thyroid"
            writer.writerow([f"U{i:07}", f"u/{i}.bmp", f"Q{i:07}", organ, "", "esaote_mylab", "", "homogeneous"])


def plan_command(folder: Path, *changes: Path) -> list[str]:
    """A dry run of this repository's workflow on the manifest in `folder`, with further config files."""
    return [
        SNAKEMAKE, "--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(folder),
        "--workflow-profile", str(REPOSITORY / "profiles" / "default"),
        "--configfile", str(REPOSITORY / "config.yaml"), *map(str, changes), "--dry-run", "--quiet",
    ]  # fmt: skip


def planned(command: list[str], folder: Path, environment: Mapping[str, str]) -> tuple[int, int]:
    """Rules and jobs of a dry run's statistics."""
    loud = [word for word in command if word != "--quiet"]
    told = subprocess.run(loud, cwd=folder, env=dict(environment), capture_output=True, text=True, check=True)
    table = (told.stdout + told.stderr).partition("Job stats:")[2].partition("total")[0]
    counts = [int(count) for _, count in re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE)]
    return len(counts), sum(counts)


def plain_workflow(folder: Path, rules: int, jobs: int, shell: str = "touch {output}") -> list[str]:
    """Write a Snakefile of `rules` trivial rules with `jobs` jobs in all; the command that runs it, without --cores."""
    shares = [jobs // rules + (i < jobs % rules) for i in range(rules)]
    text = "rule all:\n    input:\n"
    text += "".join(f'        expand("out/{i}/{{job}}", job=range({share})),\n' for i, share in enumerate(shares))
    for i in range(rules):
        text += f'\n\nrule plain{i}:\n    output:\n        "out/{i}/{{job}}",\n    shell:\n        "{shell}"\n'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Snakefile").write_text(text, encoding="utf-8")
    return [SNAKEMAKE, "--snakefile", str(folder / "Snakefile"), "--directory", str(folder), "--quiet"]


def planning(folder: Path, environment: Mapping[str, str], repeats: int) -> list[dict[str, Any]]:
    """Planning three studies, ours beside the plain Snakefile, and Snakemake's own start."""
    shipped, paper = folder / "shipped", folder / "paper"
    for study in (shipped, paper):
        study.mkdir()
    shutil.copyfile(REPOSITORY / "data_manifest.csv", shipped / "data_manifest.csv")
    write_manifest(paper / "data_manifest.csv", *PAPER)
    studies = {
        "the demo": (shipped, plan_command(shipped, REPOSITORY / "studies" / "demo.yaml")),
        "the shipped study": (shipped, plan_command(shipped)),
        "the shipped study, 26 230 frames": (paper, plan_command(paper)),
    }
    rows: list[dict[str, Any]] = []
    for name, (place, command) in studies.items():
        if not rows:
            rows.append({"what": f"{name}, first start", "method": "ours", **spent(command, place, environment)})
        rules, jobs = planned(command, place, environment)
        plain = plain_workflow(folder / "plain", rules, jobs - 1)
        commands = {
            "ours": command, "plain Snakefile": [*plain, "--dry-run"], "snakemake --version": [SNAKEMAKE, "--version"]
        }  # fmt: skip
        for method, measured in paired_spent(commands, place, environment, repeats).items():
            rows.append({"what": name, "method": method, "rules": rules, "jobs": jobs, **measured})
    return rows


def per_job(folder: Path, environment: Mapping[str, str], repeats: int) -> list[dict[str, Any]]:
    """Seconds that a job adds to a run on one core: a trivial one, and one that starts a cheap stage's process."""
    shells = {
        "a trivial job": "touch {output}",
        "a job that starts a cheap stage": f"{sys.executable} -m workflow_scripts.data.draw_folds --help > {{output}}",
    }
    commands = {
        (name, jobs): [*plain_workflow(folder / f"{i}_{jobs}", 1, jobs, shell), "--cores", "1", "--forceall"]
        for i, (name, shell) in enumerate(shells.items())
        for jobs in (FEW, MANY)
    }
    costs = paired_spent(commands, folder, {**environment, "PYTHONPATH": str(REPOSITORY)}, repeats)
    return [
        {
            "what": name, "repeats": repeats,
            **{
                key: (costs[name, MANY][f"{key}_median"] - costs[name, FEW][f"{key}_median"]) / (MANY - FEW)
                for key in ("seconds", "cpu_seconds")
            },
        }
        for name in shells
    ]  # fmt: skip


def processes(environment: Mapping[str, str], repeats: int) -> list[dict[str, Any]]:
    """What a process costs before it does anything."""
    commands = {name: [sys.executable, *words] for name, words in PROCESSES.items()}
    return [{"what": name, **row} for name, row in paired_spent(commands, REPOSITORY, environment, repeats).items()]


def main() -> None:
    """Measure, print, write benchmarks/results/dag.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="(default: 5)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = bytecode_in(folder / "bytecode")
        rows = planning(folder, environment, arguments.repeats)
        jobs = per_job(folder, environment, min(3, arguments.repeats))
        starts = processes(environment, arguments.repeats)
    for row in [*rows, *jobs, *starts]:
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
    print(write_result("dag", rows, per_job=jobs, processes=starts))


if __name__ == "__main__":
    main()
