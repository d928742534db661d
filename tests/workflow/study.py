"""Running the workflow from tests: a folder of its own, the repository's Snakefile, config.yaml and changes to it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from tests.shared import REPOSITORY

SMALLEST = REPOSITORY / "tests" / "workflow" / "smallest.yaml"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))


@dataclass
class Study:
    """A working directory for Snakemake with its own config changes, planned by this repository or a copy."""

    folder: Path
    changes: list[Path]
    repository: Path = REPOSITORY
    snakefile: Path | None = None  # another workflow that has this one as a module

    def command(self, *arguments: str) -> list[str]:
        """A Snakemake command line; without --cores it is a dry run."""
        return [
            SNAKEMAKE, "--snakefile", str(self.snakefile or self.repository / "Snakefile"), "--directory", str(self.folder),
            "--workflow-profile", str(self.repository / "profiles" / "default"),
            "--configfile", str(self.repository / "config.yaml"), *map(str, self.changes), *arguments,
        ]  # fmt: skip

    def snakemake(self, *arguments: str, check: bool = True) -> str:
        """Run Snakemake and return what it printed."""
        done = subprocess.run(
            self.command(*arguments), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if check:
            assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout

    def planned(self, *arguments: str) -> dict[str, int]:
        """Jobs per rule that a dry run plans."""
        return job_counts(self.snakemake("--dry-run", *arguments))

    def change(self, name: str, values: dict) -> Study:
        """The same study with further config changes."""
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(values))
        return replace(self, changes=[*self.changes, file])

    def tables(self) -> dict[str, bytes]:
        """The CSV tables by file name."""
        return {file.name: file.read_bytes() for file in sorted((self.folder / "results" / "tables").glob("*.csv"))}


def bare_copy(folder: Path) -> tuple[Path, dict[str, str]]:
    """A bare Git repository with one commit, tagged v1: the repository's files as they are now.

    The variables beside it let Git find it as https://github.com/owner/tusflow, and Snakemake keep what it caches in `folder`.
    """
    variables = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{folder}/github/.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    folder = folder / "github" / "owner" / "tusflow.git"
    folder.parent.mkdir(parents=True)
    git = ["git", f"--git-dir={folder}", f"--work-tree={REPOSITORY}"]
    name = ["-c", "user.name=tests", "-c", "user.email=tests@localhost"]
    subprocess.run(["git", "init", "--quiet", "--bare", folder], check=True)
    subprocess.run([*git, "add", "--all"], cwd=REPOSITORY, check=True)
    subprocess.run([*git, *name, "commit", "--quiet", "--message", "v1"], cwd=REPOSITORY, check=True)
    subprocess.run([*git, "tag", "v1"], check=True)
    return folder, variables


def job_counts(output: str) -> dict[str, int]:
    """The job statistics that Snakemake prints first, without the targets and the total."""
    targets = {
        "all",
        "crop",
        "audit",
        "diffusion",
        "synthesis",
        "pretraining",
        "finetuning",
        "tables",
        "figures",
        "report",
        "classifier",
    }
    _, _, statistics = output.partition("Job stats:")
    rows = re.findall(r"^(\w+) +(\d+)$", statistics.partition("total")[0], flags=re.MULTILINE)
    return {rule: int(count) for rule, count in rows if rule not in targets}


def phantom_study(folder: Path, changes: list[Path], *manifest: str) -> Study:
    """A study of phantoms with a manifest of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "workflow_scripts.data.make_phantom_manifest",
            "--output-manifest",
            folder / "data_manifest.csv",
            *manifest,
        ],
        cwd=REPOSITORY,
        check=True,
    )
    return Study(folder, changes)


def smallest_study(folder: Path) -> Study:
    """The smallest phantom study."""
    return phantom_study(
        folder, [SMALLEST], "--labelled-patients", "12", "--unlabelled-testicles", "3", "--thyroids", "4",
        "--positive-share", "0.34", "--wrong-labels", "0.1", "--seed", "1",
    )  # fmt: skip
