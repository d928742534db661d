"""Canaries through the workflow: a generator of their own, and a page about what it returns."""

import pytest

from tests.workflow.study import Study
from workflow_scripts.core.files import read_csv, read_json

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

CANARIES = 6


def test_canaries_are_planted_trained_on_and_looked_for(fresh: Study) -> None:
    study = fresh.change(
        "canaries",
        {
            "privacy": {"canaries": CANARIES, "canary": {"images": 32, "steps": 5}},
            "diffusion": {"snapshot_every": 30},
        },
    )
    study.snakemake("--cores", "2", "results/canaries/canaries.html")
    results = study.folder / "results"
    table = read_csv(results / "canaries" / "canaries.csv")
    assert sorted(table["step"].unique()) == [30, 60]
    assert len(table) == 2 * 2 * CANARIES  # as many codes are kept out as are planted
    assert table["chance"].between(0, 1).all()
    summary = read_json(results / "canaries" / "canaries.json")
    assert [row["step"] for row in summary["snapshots"]] == [30, 60]
    page = (results / "canaries" / "canaries.html").read_text()
    assert "PHANTOM" in page
    # The generator with codes is never sampled for the synthetic set: that one has training, model and samples of its own.
    assert not (results / "views" / "synthetic.npy").exists()
