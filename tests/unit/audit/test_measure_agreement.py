"""Agreement of a reviewer with label sets: by hand, against scikit-learn, and where kappa does not exist."""

import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from workflow_scripts.audit import measure_agreement as stage
from workflow_scripts.audit.measure_agreement import kappa, kappa_interval, reviewer_agreement
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_rows, write_rows

CLASSES = ["neg", "pos"]
VIEWS = [f"v{i}" for i in range(8)]
ORIGINAL = dict(zip(VIEWS, ["neg", "pos", "neg", "pos", "neg", "pos", "neg", "pos"], strict=True))
SUSPICIOUS = {view: i < 4 for i, view in enumerate(VIEWS)}
FLIPPED = {v: ("pos" if label == "neg" else "neg") if SUSPICIOUS[v] else label for v, label in ORIGINAL.items()}
PATIENTS = {view: f"p{i // 2}" for i, view in enumerate(VIEWS)}


def agreements(decisions: dict[str, str], original: dict[str, str] = ORIGINAL):
    complete = [{"view_id": v, "label": label, "keep": "1"} for v, label in original.items()]
    results = reviewer_agreement(decisions, complete, FLIPPED, SUSPICIOUS, PATIENTS, CLASSES, "d.csv")
    return {(result.set, result.against): result for result in results}


def test_agreement_by_hand():
    decisions = dict(zip(VIEWS, ["flip", "flip", "flip", "keep", "keep", "keep", "unsure", "discard"], strict=True))
    results = agreements(decisions)
    # She reads pos neg pos pos on the suspicious views; they were neg pos neg pos and flipped are pos neg pos neg.
    assert results["suspicious", "original"].kappa == pytest.approx((1 / 4 - 1 / 2) / (1 - 1 / 2))
    assert results["suspicious", "flipped"].kappa == pytest.approx((3 / 4 - 1 / 2) / (1 - 1 / 2))
    controls = results["controls", "original"]
    assert (controls.views, controls.unsure, controls.discarded) == (2, 1, 1)
    assert (controls.kappa, controls.agreement) == (1.0, 1.0)
    assert results["all", "flipped"].views == 6
    assert results["all", "flipped"].agreement == pytest.approx(5 / 6)
    assert "6 views (1 unsure and 1 discarded left out), 83 % agree, kappa 0.67" in results["all", "flipped"].sentence


def test_kappa_is_undefined_where_both_say_one_class_throughout():
    results = agreements({"v0": "keep", "v2": "keep"})
    result = results["suspicious", "original"]
    assert math.isnan(result.kappa)
    assert (result.row["kappa"], result.row["low"], result.row["agreement"]) == ("", "", 1.0)
    assert "kappa is undefined" in result.sentence
    assert results["suspicious", "flipped"].kappa == 0
    assert (
        "says nothing here, since the reviewer gave all views the same class"
        in results["suspicious", "flipped"].sentence
    )
    assert results["controls", "original"].sentence.endswith("no view to compare (0 unsure and 0 discarded left out)")


def test_interval_equals_a_slow_bootstrap():
    draw = np.random.default_rng(3)
    first = draw.random(60) < 0.4
    second = np.where(draw.random(60) < 0.8, first, ~first)
    patients = np.repeat([f"p{i}" for i in range(20)], 3)
    low, high = kappa_interval(first, second, patients)
    slow = []
    for _ in range(1500):
        rows = np.concatenate([np.arange(3 * p, 3 * p + 3) for p in draw.integers(20, size=20)])
        slow.append(cohen_kappa_score(first[rows], second[rows]))
    assert (low, high) == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.04)
    assert low < kappa(first, second) < high


def test_views_of_one_patient_do_not_count_as_independent():
    draw = np.random.default_rng(0)
    first = np.repeat(draw.random(15) < 0.5, 4)
    second = np.repeat(np.where(draw.random(15) < 0.8, first[::4], ~first[::4]), 4)
    by_patient = kappa_interval(first, second, np.repeat(np.arange(15), 4))
    by_view = kappa_interval(first, second, np.arange(60))
    assert by_patient[1] - by_patient[0] > 1.4 * (by_view[1] - by_view[0])
    assert all(math.isnan(end) for end in kappa_interval(first, second, np.zeros(60)))


def test_stage_writes_a_row_per_set_and_label_set(tmp_path, capsys):
    def write(name: str, rows: list[dict[str, object]]):
        write_rows(rows, list(rows[0]), tmp_path / name)
        return str(tmp_path / name)

    decided = [{"view_id": v, "decision": "flip" if SUSPICIOUS[v] else "keep", "blind": int(v != "v0")} for v in VIEWS]
    words = [
        "--decisions", write("decisions.csv", decided),
        "--complete", write("complete.csv", [{"view_id": v, "label": ORIGINAL[v], "keep": 1} for v in VIEWS]),
        "--flipped", write("flipped.csv", [{"view_id": v, "label": FLIPPED[v], "keep": 1} for v in VIEWS]),
        "--votes", write("votes.csv", [{"view_id": v, "suspicious": int(SUSPICIOUS[v])} for v in VIEWS]),
        "--index", write("index.csv", [{"view_id": v, "patient_id": PATIENTS[v]} for v in VIEWS]),
        "--classes", *CLASSES, "--output-agreement", str(tmp_path / "agreement.csv"),
    ]  # fmt: skip
    stage.main(stage.parser().parse_args(words))
    rows = {(row["set"], row["against"]): row for row in read_rows(tmp_path / "agreement.csv")}
    assert len(rows) == 6
    assert float(rows["suspicious", "flipped"]["kappa"]) == 1
    assert float(rows["suspicious", "original"]["kappa"]) == -1
    assert float(rows["all", "original"]["agreement"]) == 0.5
    assert "1 of the 8 decisions were made after the view's label had been shown" in capsys.readouterr().err
    write("decisions.csv", [{"view_id": "nowhere", "decision": "keep"}])
    with pytest.raises(UserError, match="1 of its views are not among the labelled ones: nowhere"):
        stage.main(stage.parser().parse_args(words))
