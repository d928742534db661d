"""`snakemake --profile slurm` as users start it: every stage on the GPU that it asks for, in few submissions."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.conftest import PACE, Run
from tests.cluster.slurm import Cluster
from tests.shared import REPOSITORY
from tests.workflow.study import Study, smallest_study

L40S, RTX = ("l40s", "gpu:l40s"), ("rtx2080ti", "gpu:rtx2080ti")
# Partition, GPU model and count, memory in MB, minutes.
ASKED = {
    "pretrain": (*L40S, 2, 16000, 720),
    "train_diffusion": (*L40S, 1, 16000, 1440),
    "sample": (*L40S, 1, 12000, 60),
    "audit_scratch": (*RTX, 1, 12000, 60),
    "finetune": (*RTX, 1, 12000, 60),
    "explain": (*RTX, 1, 8000, 60),
    "filter_manifold": ("rtx2080ti", "", 0, 16000, 60),
    "crop_views": ("rtx2080ti", "", 0, 8000, 120),
}


def asked(job: dict[str, str]) -> tuple[str, str, int, int, int]:
    """What SLURM was asked for by one job."""
    _, _, gpu = job.get("TresPerJob", "").partition("gres:")
    model, _, count = gpu.rpartition(":")
    days, _, clock = job["TimeLimit"].rpartition("-")
    hours, minutes, _ = map(int, clock.split(":"))
    minutes += 60 * (hours + 24 * int(days or 0))
    return job["Partition"], model, int(count or 0), int(job["MinMemoryNode"].removesuffix("M")), minutes


def test_the_smallest_study_runs_through_the_profile(
    cluster: Cluster, run: Callable[..., Run], threads: list[str], tmp_path: Path
):
    before = {job["JobId"] for job in cluster.jobs()}
    # Rows of the kinds that ask for something else: a row like another only takes longer.
    rows = {"table2": {"rows": [{"init": "ud"}]}, "table3": {"rows": [{"init": "xgf"}]}}
    empty = {table: {"rows": []} for table in ("table1", "table1_protocols", "table4")}
    study = smallest_study(tmp_path / "study").change("few_rows", {"tables": {**empty, **rows}})
    run(study, "--profile", "slurm", *PACE, "--set-threads", *threads).finish(1500)
    assert (study.folder / "results" / "report.html").exists()
    jobs = [job for job in cluster.jobs() if job["JobId"] not in before]
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    assert len(jobs) <= 22
    for stage, wanted in ASKED.items():
        seen = {asked(job) for job in jobs if job["Comment"].startswith(f"rule_{stage}")}
        assert seen == {wanted}, stage
    # Two hours for each set that is embedded in the same submission; the synthetic views and the copies always are.
    embedded = {asked(job) for job in jobs if job["Comment"].startswith("rule_embed")}
    assert {one[:-1] for one in embedded} == {(*RTX, 1, 12000)}
    assert max(one[-1] for one in embedded) in (240, 360)

    # Two of its jobs again, through the profile of a site whose GPUs are features of one partition.
    before |= {job["JobId"] for job in jobs}
    again = ["results/embedding/labelled.npy", "results/synthesis/metrics.csv"]
    forced = ["--forcerun", "embed", "measure_generation", "--allowed-rules", "embed", "measure_generation"]
    run(study, "--profile", "slurm-constraint", *PACE, "--set-threads", *threads, *forced, "--", *again).finish(600)
    jobs = [job for job in cluster.jobs() if job["JobId"] not in before]
    assert {(job["Comment"], job["JobState"]) for job in jobs} == {
        ("rule_embed_embed", "COMPLETED"), ("rule_measure_generation", "COMPLETED"),
    }  # fmt: skip
    found = {job["Partition"]: (job["Features"], job["Account"], "gpu" in job.get("TresPerJob", "")) for job in jobs}
    assert found == {
        "gpu": ("rtx2080ti|l40s", "your_account", True), "cpu": ("(null)", "your_account", False),
    }  # fmt: skip


@pytest.mark.parametrize("profile", ["slurm", "slurm-constraint"])
def test_the_shipped_study_is_tens_of_submissions(tmp_path: Path, profile: str):
    (tmp_path / "data_manifest.csv").write_bytes((REPOSITORY / "data_manifest.csv").read_bytes())
    output = Study(tmp_path, []).snakemake("--profile", profile, "--dry-run")
    local = {
        rule
        for file in [REPOSITORY / "Snakefile", *(REPOSITORY / "rules").glob("*.smk")]
        for rule, body in re.findall(r"^ *rule (\w+):\n((?:(?! *rule \w+:$).*\n)+)", file.read_text(), re.MULTILINE)
        if "localrule: True" in body
    }
    # What belongs to a group is indented.
    alone = [rule for rule in re.findall(r"^(?:local)?rule (\w+):", output, re.MULTILINE) if rule not in local]
    assert output.count("    rule finetune:") > 100
    assert 30 < output.count("Group job ") + len(alone) <= 70
