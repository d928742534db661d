"""The audit's training: its tables, their use for votes, resumption."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.networks.test_cross_validation import CLASSES, StopAfter, pictures, study
from workflow_scripts.audit import train_audit as audit
from workflow_scripts.audit.votes import count_votes
from workflow_scripts.core.files import read_csv, write_csv, write_npy
from workflow_scripts.runtime import run as runs
from workflow_scripts.runtime import work

EPOCHS = 3


@pytest.fixture(autouse=True)
def _deterministic():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def inputs(tmp_path):
    table = study()
    write_npy(pictures(table), tmp_path / "views.npy")
    write_csv(table[["view_id", "patient_id", "label"]], tmp_path / "index.csv")
    write_csv(table[["view_id", "patient_id", "fold"]], tmp_path / "folds.csv")
    return tmp_path


def call(inputs: Path, output: Path, *more: str) -> None:
    words = [
        *("--views", inputs / "views.npy", "--index", inputs / "index.csv", "--folds", inputs / "folds.csv"),
        *("--seed", 1, "--classes", *CLASSES, "--backbone", "test_resnet", "--layout", "scratch", "--weights"),
        *("--output-losses", output / "losses.csv", "--output-oof", output / "oof.csv", "--work-dir", output / "work"),
        *("--device", "cpu", "--epochs", EPOCHS, "--batch-size", 8, "--head-lr", "1e-2", *more),
    ]
    audit.main(audit.parser().parse_args([str(word) for word in words]))


def test_every_view_has_a_loss_per_epoch_in_the_folds_that_train_on_it(inputs):
    call(inputs, inputs / "out")
    losses, table = read_csv(inputs / "out" / "losses.csv"), study()
    assert list(losses.columns) == ["view_id", "fold", "epoch", "loss"]
    assert np.isfinite(losses["loss"]).all()
    assert (losses["loss"] > 0).all()
    found = set(losses[["view_id", "fold", "epoch"]].itertuples(index=False, name=None))
    assert found == {
        (row.view_id, fold, epoch)
        for row in table.itertuples()
        for fold in range(3)
        if fold != row.fold
        for epoch in range(1, EPOCHS + 1)
    }
    assert len(losses) == len(found)

    votes = count_votes({"run": losses}, table[["view_id", "label"]], threshold=0.0, exceedances=EPOCHS)
    assert (votes["evaluations"] == 2).all()
    assert (votes["votes"] == 2).all()

    oof = read_csv(inputs / "out" / "oof.csv")
    assert list(oof.columns) == ["view_id", "fold", "probability"]
    assert oof["view_id"].tolist() == table["view_id"].tolist()
    assert oof["fold"].tolist() == table["fold"].tolist()
    assert oof["probability"].between(0, 1).all()
    assert not (inputs / "out" / "work").exists()


def test_weighted_sampler_records_what_it_drew(inputs):
    call(inputs, inputs / "out", "--sampler", "weighted")
    losses = read_csv(inputs / "out" / "losses.csv")
    assert np.isfinite(losses["loss"]).all()
    assert not losses.duplicated(["view_id", "fold", "epoch"]).any()
    # 16 views a fold, 12 negative and 4 positive: left out of an epoch with probability 0.51 and 0.12, 59 % recorded.
    assert 0.5 * 144 < len(losses) < 0.7 * 144


def test_an_evaluation_pass_records_every_view_and_changes_no_training(inputs):
    call(inputs, inputs / "batches")
    for sampler in ("shuffle", "weighted"):
        call(inputs, inputs / sampler, "--record", "evaluation", "--sampler", sampler)
        losses = read_csv(inputs / sampler / "losses.csv")
        assert len(losses) == 2 * 24 * EPOCHS
        assert np.isfinite(losses["loss"]).all()
    assert (inputs / "batches" / "oof.csv").read_bytes() == (inputs / "shuffle" / "oof.csv").read_bytes()
    recorded = read_csv(inputs / "shuffle" / "losses.csv")["loss"].to_numpy()
    assert not np.isclose(recorded, read_csv(inputs / "batches" / "losses.csv")["loss"]).any()


@pytest.mark.parametrize("record", ["training", "evaluation"])
def test_interrupted_gives_the_same_tables_bit_for_bit(inputs, monkeypatch, record):
    call(inputs, inputs / "whole", "--record", record)
    # Two batches an epoch, so 6 steps a fold: the clock ends it inside the first, the second and the third fold.
    for steps in (3, 7, 4, None):
        monkeypatch.setattr(runs, "Clock", lambda _, steps=steps: StopAfter(steps or float("inf")))
        if steps:
            with pytest.raises(work.Interrupted):
                call(inputs, inputs / "parts", "--record", record)
            assert not (inputs / "parts" / "losses.csv").exists()
        else:
            call(inputs, inputs / "parts", "--record", record)
    for name in ("losses.csv", "oof.csv"):
        assert (inputs / "parts" / name).read_bytes() == (inputs / "whole" / name).read_bytes()
