"""The generator's checkpoint is chosen by what its snapshots were measured to do."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.workflow.study import Study
from workflow_scripts.core.files import read_csv, read_json

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def test_the_model_that_samples_is_the_selected_snapshot(finished: Study, tmp_path: Path):
    shutil.copytree(finished.folder, tmp_path / "study", symlinks=True)
    study = replace(finished, folder=tmp_path / "study")
    # Features of a timm network, as a study has them that brings its own weights.
    weights = study.folder / "backbone.safetensors"
    shutil.copyfile(study.folder / "results/pretraining/ud/backbone.safetensors", weights)
    study = study.change(
        "best",
        {
            "diffusion": {
                "select": "best",
                "snapshot_every": 20,
                "monitor": {"images": 8, "steps": 5, "batch_size": 8},
            },
            "embedding": {"network": "timm:test_resnet", "timm": {"file": str(weights)}},
        },
    )
    model, trained = (study.folder / "results" / "diffusion" / name for name in ("model", "trained"))
    picture = "results/figures/selection.png"
    study.snakemake("--cores", "2", "diffusion", picture)
    measures = read_csv(model.parent / "monitor.csv")
    assert list(measures["step"]) == [20, 40, 60]
    assert (study.folder / picture).stat().st_size > 10_000
    best = read_json(model / "parameters.json")["checkpoint"]
    assert best["select"] == "best"
    assert best["step"] in set(measures["step"])

    # Another rule chooses again, and trains nothing.
    least = study.change("least", {"diffusion": {"select": "least_copying"}})
    assert least.planned("diffusion") == {"select_checkpoint": 1}
    least.snakemake("--cores", "2", "diffusion")
    chosen = read_json(model / "parameters.json")["checkpoint"]
    assert chosen["select"] == "least_copying"
    assert chosen["measures"]["excess"] == measures["excess"].min()
    file = trained / WEIGHTS if chosen["step"] == 60 else trained / f"snapshots/step_{chosen['step']:07d}.safetensors"
    used, snapshot = load_file(model / WEIGHTS), load_file(file)
    assert all(bool((used[name] == snapshot[name]).all()) for name in snapshot)
    assert "sample_shard" in least.planned("synthesis")
