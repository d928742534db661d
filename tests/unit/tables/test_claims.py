"""The claims check: what it compares, how it judges, and the page."""

import functools
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.unit.finetuning.test_metrics import CLASSES
from tests.unit.tables.test_tables import Cells
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, write_csv, write_json
from workflow_scripts.core.statistics import holm
from workflow_scripts.finetuning.predictions import PREDICTION_COLUMNS, decide
from workflow_scripts.study.paper import paper_rows
from workflow_scripts.tables import check_claims as stage
from workflow_scripts.tables.check_claims import claims_table
from workflow_scripts.tables.claims import (
    CLAIMS,
    better,
    check_claims,
    check_filtering,
    check_markers,
    equal,
    paired_comparison,
)
from workflow_scripts.tables.reading import Comparison
from workflow_scripts.tables.rows import Row
from workflow_scripts.tables.tables import numbers, paper_numbers

NAN = math.nan


def predicted(right: float, seed: int, seeds: int = 4, patients: int = 60, labels: str = "flipped") -> pd.DataFrame:
    """Predictions of four views per patient, each right with probability `right`; `complete` labels are the others'."""
    world, draw = np.random.default_rng(0), np.random.default_rng(seed)
    views = 4 * patients
    truth = world.choice(CLASSES, views)
    # A policy that changes a tenth of the labels.
    changed = (world.random(views) < 0.1) & (labels != "complete")
    policy = np.where(changed, np.where(truth == "pos", "neg", "pos"), truth)
    patient = np.arange(views) // 4
    parts = []
    for s in range(seeds):
        hit = draw.random(views) < right
        probability = np.where((truth == "pos") == hit, 0.9, 0.1)
        part = pd.DataFrame(
            {
                "view_id": [f"v{i}" for i in range(views)], "patient_id": [f"p{i}" for i in patient],
                "fold": (patient + s) % 3, "seed": s, "label_original": truth, "label_policy": policy, "kept": 1,
                "probability": probability, "prediction": decide(probability, CLASSES),
            }
        )  # fmt: skip
        parts.append(part)
    return pd.concat(parts, ignore_index=True)[PREDICTION_COLUMNS]


ROWS = {
    "table1": [
        Row("complete", "imagenet-complete", paper="complete"),
        Row("filtered", "imagenet-filtered", paper="filtered"),
        Row("flipped", "imagenet-flipped", paper="flipped"),
    ],
    "table2": [
        Row("none (scratch)", "scratch-flipped", paper="scratch"),
        Row("ImageNet", "imagenet-flipped", paper="imagenet"),
        Row("UD testicles only", "ud_testicle-flipped", is_pretrained=True, paper="ud_testicle"),
        Row("UD thyroids only", "ud_thyroid-flipped", is_pretrained=True, paper="ud_thyroid"),
        Row("UD", "ud-flipped", is_pretrained=True, paper="ud"),
    ],
}
RIGHT = {
    "imagenet-complete": 0.7, "imagenet-filtered": 0.9, "imagenet-flipped": 0.7, "scratch-flipped": 0.4,
    "ud_testicle-flipped": 0.8, "ud_thyroid-flipped": 0.8, "ud-flipped": 0.95,
}  # fmt: skip


@functools.cache
def _study(seeds: int) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """Tables 1 and 2 by name, and the predictions that they show."""
    predictions = {
        name: predicted(right, i, seeds, labels=name.split("-")[1]) for i, (name, right) in enumerate(RIGHT.items())
    }
    references = {"table1": "complete", "table2": "UD"}
    return {
        name: numbers(rows, predictions, "pos", "runs", references[name]) for name, rows in ROWS.items()
    }, predictions


def study(seeds: int = 4) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """As `_study`, in dictionaries of the test's own."""
    tables, predictions = _study(seeds)
    return dict(tables), dict(predictions)


@pytest.fixture(scope="module")
def findings():
    tables, predictions = study()
    found = check_claims(tables, ROWS, predictions, "none", 2.0, None)
    return {finding.claim: finding for finding in found}


def test_the_comparison_is_the_tables_own() -> None:
    tables, predictions = study()
    for name, reference in (("table1", "complete"), ("table2", "UD")):
        base = next(row for row in ROWS[name] if row.name == reference)
        for row in ROWS[name]:
            if row != base:
                found, labels = paired_comparison(row, base, predictions, "none")
                printed = tables[name].set_index("name").loc[row.name]
                assert (found.difference, found.low, found.high, found.p) == pytest.approx(
                    tuple(printed[["difference_mean", "difference_low", "difference_high", "p_value"]])
                )
                assert labels == ("original" if name == "table1" else "policy")


def test_the_corrected_test_is_scipys_paired_test_but_for_its_variance() -> None:
    _, predictions = study()
    a, b = ROWS["table2"][1], ROWS["table2"][4]
    found, _ = paired_comparison(a, b, predictions, "none")
    runs = []
    for row in (a, b):
        views = predictions[row.experiment]
        hit = views["prediction"] == views["label_policy"]
        runs.append(100 * hit.groupby([views["seed"], views["fold"]]).mean().to_numpy())
    naive = stats.ttest_rel(*runs)
    assert found.difference == pytest.approx((runs[0] - runs[1]).mean())
    # Twelve runs of three folds: the variance is 1/12 + 1/2 instead of 1/12.
    t = naive.statistic * math.sqrt((1 / 12) / (1 / 12 + 1 / 2))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), 11))


@pytest.mark.parametrize(
    ("low", "high", "p", "result"),
    [
        (1.0, 3.0, 0.01, "confirmed"),
        (-3.0, -1.0, 0.01, "contradicted"),
        (-1.0, 3.0, 0.3, "within noise"),
        # Holm's correction takes the evidence away.
        (1.0, 3.0, 0.06, "within noise"),
        # No test is made where there is no p value.
        (1.0, 3.0, NAN, "confirmed"),
        (NAN, NAN, NAN, "no verdict"),
    ],
)
def test_better(low: float, high: float, p: float, result: str) -> None:
    mean = 2.0 if math.isnan(low) else (low + high) / 2
    assert better(Comparison("a", "b", mean, low, high, p)) == result
    assert better(Comparison("a", "b", mean, low, high, p, is_one_seed=True)) == "no verdict"


@pytest.mark.parametrize(
    ("low", "high", "result"),
    [
        (-1.9, 1.9, "confirmed"),
        # A small difference that is no noise is still the same to within the margin.
        (0.2, 1.9, "confirmed"),
        (-1.0, 2.1, "within noise"),
        # It excludes 0, but may lie within the margin.
        (1.0, 3.0, "within noise"),
        (2.1, 5.0, "contradicted"),
        (-5.0, -2.1, "contradicted"),
        (NAN, NAN, "no verdict"),
    ],
)
def test_equal(low: float, high: float, result: str) -> None:
    assert equal(Comparison("a", "b", 0.0, low, high, NAN), 2.0) == result
    assert equal(Comparison("a", "b", 0.0, low, high, NAN, is_one_seed=True), 2.0) == "no verdict"


def test_every_claim_names_rows_of_the_papers_tables() -> None:
    for claim in CLAIMS:
        keys = {key for pair in claim.pairs for key in pair}
        assert keys <= set(paper_rows(claim.table))
        if claim.table != "table1_protocols":
            assert keys <= set(paper_numbers(claim.table).index)


def test_verdicts(findings) -> None:
    assert len(findings) == len(CLAIMS) + 2 == 12
    helps = findings["Discarding suspicious labels helps"]
    assert helps.verdict == "confirmed: consistent with the claim, conditional on one backbone per row"
    assert helps.paper == "filtered 88.15; complete 81.51"
    assert helps.compared == "accuracy on the original labels of all views, table 1"
    assert "on each row's own labels" in helps.difference
    assert findings["Flipping suspicious labels helps"].verdict == "within noise"
    scratch = findings["Pretraining beats starting from scratch"]
    assert scratch.verdict == (
        "confirmed: consistent with the claim, conditional on one backbone per row, for the rows that are here"
    )
    assert scratch.compared == "accuracy on the shared labels, table 2; not here: “USCL”"
    assert len(scratch.comparisons) == 4
    assert findings["USCL's ultrasound pretraining stays below ImageNet's"].verdict == "not tested here"
    assert "“USCL”" in findings["USCL's ultrasound pretraining stays below ImageNet's"].compared
    same = findings["Testicles alone pretrain as well as thyroids alone"]
    assert same.verdict == "within noise: neither closer than ±2 points nor further apart"
    assert ", p " not in same.difference
    assert findings["The manifold filter raises precision and lowers recall"].result == "not tested here"


def test_p_values_are_corrected_over_the_page(findings) -> None:
    _, predictions = study()
    raw, corrected = [], []
    for claim in CLAIMS:
        rows = {row.name: row for row in ROWS.get(claim.table, ())}
        for comparison in findings[claim.text].comparisons:
            if not claim.is_equality:
                pair = rows[comparison.name], rows[comparison.reference]
                raw.append(paired_comparison(*pair, predictions, "none")[0].p)
                corrected.append(comparison.p)
    assert len(raw) == 7
    assert corrected == pytest.approx(holm(np.array(raw)))


def test_one_comparison_that_fails_contradicts_a_claim() -> None:
    tables, predictions = study()
    predictions["ud_thyroid-flipped"] = predicted(0.2, 99)
    found = check_claims(tables, ROWS, predictions, "none", 2.0, None)
    by_claim = claims_table(found).set_index("claim")
    row = by_claim.loc["Pretraining beats starting from scratch"]
    assert row["result"] == "contradicted"
    assert row["verdict"] == "contradicted: consistent with the opposite, conditional on one backbone per row"
    assert row["decided_by"] == "UD thyroids only against none (scratch)"
    assert row["difference_high"] < 0
    same = by_claim.loc["Testicles alone pretrain as well as thyroids alone"]
    assert same["result"] == "contradicted"


def test_another_name_of_a_row_changes_no_verdict(findings) -> None:
    tables, predictions = study()
    rows = {name: [replace(row, name={"UD": "our mix"}.get(row.name, row.name)) for row in ROWS[name]] for name in ROWS}
    tables["table2"] = tables["table2"].replace({"name": {"UD": "our mix"}})
    found = {f.claim: f for f in check_claims(tables, rows, predictions, "none", 2.0, None)}
    claim = "Pretraining on testicles and thyroids (UD) beats ImageNet"
    assert found[claim].result == findings[claim].result == "confirmed"
    assert found[claim].paper == findings[claim].paper == "UD 86.78; ImageNet 83.89"
    assert found[claim].difference == findings[claim].difference.replace("UD", "our mix")
    for text, finding in findings.items():
        assert (found[text].verdict, found[text].compared) == (finding.verdict, finding.compared)
        numbers = [[(c.difference, c.low, c.high, c.p) for c in f.comparisons] for f in (found[text], finding)]
        np.testing.assert_array_equal(*numbers)


def test_backbones_of_their_own_lift_the_condition() -> None:
    tables, predictions = study()
    predictions["ud_thyroid-flipped"] = predicted(0.2, 99)
    found = {f.claim: f for f in check_claims(tables, ROWS, predictions, "per_fold", 2.0, None)}
    assert found["Testicles alone pretrain as well as thyroids alone"].verdict == "contradicted"
    assert "the one backbone of ImageNet" in found["Pretraining on testicles and thyroids (UD) beats ImageNet"].verdict


def test_one_seed_decides_nothing() -> None:
    tables, predictions = study(seeds=1)
    found = check_claims(tables, ROWS, predictions, "none", 2.0, None)
    assert {f.verdict for f in found} == {"no verdict: one seed", "not tested here"}


def generation(precision: float, recall: float, std: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "name": ["unfiltered", "filtered", "unfiltered_equal", "filtered_equal"],
            "precision_mean": [70.0, 70.0 + precision, 70.0, 71.0], "precision_std": std,
            "recall_mean": [30.0, 30.0 + recall, 30.0, 29.0], "recall_std": std,
        }
    )  # fmt: skip


def test_filtering() -> None:
    found = check_filtering(generation(10.0, -10.0, 3.0), "none")
    assert found.verdict == "confirmed: consistent with the claim, conditional on one generator"
    assert found.paper == "precision 79.68 → 90.10; recall 25.00 → 11.90"
    # Twice the root of 3² + 3².
    assert "precision +10.00 (1.51 to 18.49), at equal size +1.00" in found.difference
    assert "recall −10.00 (−18.49 to −1.51), at equal size −1.00" in found.difference
    assert check_filtering(generation(10.0, 10.0, 3.0), "none").result == "contradicted"
    assert check_filtering(generation(10.0, -8.0, 3.0), "none").result == "within noise"
    assert check_filtering(generation(10.0, -10.0, 3.0), "per_fold").verdict == "confirmed"
    assert check_filtering(generation(10.0, -10.0, NAN), "none").verdict == "no verdict: no interval"


def shares(full: float, unaugmented: float) -> pd.DataFrame:
    """Heat of both arms on 40 views; one map has no heat."""
    noise = np.random.default_rng(0).normal(0, 0.02, (2, 40))
    noise -= noise.mean(axis=1, keepdims=True)
    parts = [
        pd.DataFrame(
            {
                "arm": arm, "view_id": [f"v{i}" for i in range(40)], "heat_before": 0.1,
                "heat_on_markers": 0.1 + moved + noise[i],
            }
        )
        for i, (arm, moved) in enumerate((("full", full), ("unaugmented", unaugmented)))
    ]  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    table.loc[3, "heat_on_markers"] = NAN
    return table


def test_markers() -> None:
    predictions = {"x": predicted(0.8, 0, seeds=1)}
    found = check_markers(shares(0.01, 0.2), predictions)
    assert found.verdict == "confirmed: consistent with the claim, conditional on one network per arm"
    assert "39 test views of 10 patients" in found.compared
    table = shares(0.01, 0.2).pivot_table("heat_on_markers", "view_id", "arm").dropna()
    assert found.comparisons[0].difference == pytest.approx(100 * (table["unaugmented"] - table["full"]).mean())
    assert found.comparisons[0].low < found.comparisons[0].difference < found.comparisons[0].high
    assert check_markers(shares(0.2, 0.01), predictions).result == "contradicted"
    assert check_markers(shares(0.1, 0.1), predictions).result == "within noise"
    assert check_markers(None, predictions).verdict == "not tested here"
    without_heat = shares(0.01, 0.2).assign(heat_on_markers=NAN)
    assert check_markers(without_heat, predictions).compared == "no view of figure 5 has heat in both arms"


def rows_json(tmp_path) -> list[str]:
    """The rows of the example study as the rules pass them, one JSON list per table."""
    write_json({"views": 880}, tmp_path / "parameters.json")
    return [
        json.dumps(
            [
                {
                    "name": row.name, "paper": row.paper, "experiment": row.experiment,
                    **({"parameters": str(tmp_path / "parameters.json")} if row.is_pretrained else {}),
                }
                for row in rows
            ]
        )
        for rows in ROWS.values()
    ]  # fmt: skip


def make(tmp_path, *words: str) -> dict[str, str]:
    """Run the stage on the example study; the texts of its outputs by suffix."""
    tables, predictions = study()
    files, csvs = [], []
    for name, frame in predictions.items():
        for seed, part in frame.groupby("seed"):
            files.append(str(tmp_path / f"{name}_{seed}.csv"))
            write_csv(part, files[-1])
    for name, table in (tables | {"generation": generation(10.0, -10.0, 3.0)}).items():
        csvs.append(str(tmp_path / f"{name}.csv"))
        write_csv(table, csvs[-1])
    write_csv(shares(0.01, 0.2), tmp_path / "figure5.csv")
    outputs = {suffix: tmp_path / f"out.{suffix}" for suffix in ("csv", "md", "html")}
    arguments = [
        "--tables", "table1", "table2", "generation", "--numbers", *csvs, "--experiments", *predictions,
        "--predictions", *files, "--classes", *CLASSES, "--rows", *rows_json(tmp_path),
        "--shares", str(tmp_path / "figure5.csv"),
        *itertools.chain.from_iterable((f"--output-{suffix}", str(path)) for suffix, path in outputs.items()), *words,
    ]  # fmt: skip
    stage.main(stage.parser().parse_args(arguments))
    return {suffix: path.read_text(encoding="utf-8") for suffix, path in outputs.items()}


def test_stage(tmp_path) -> None:
    texts = make(tmp_path, "--origin", "PHANTOM")
    assert all("PHANTOM" in text for text in texts.values())
    assert "can neither support nor refute the paper" in texts["md"]
    table = read_csv(tmp_path / "out.csv")
    assert len(table) == 12
    cells = Cells(texts["html"]).rows
    assert cells[0] == ["claim", "the paper", "compared here", "difference", "verdict"]
    assert [row[0] for row in cells[1:]] == table["claim"].tolist()
    assert [row[4] for row in cells[1:]] == table["verdict"].tolist()
    assert table.set_index("claim")["result"].value_counts().to_dict() == {
        "not tested here": 5, "confirmed": 5, "within noise": 2,
    }  # fmt: skip
    assert "over 3 folds × 4 seeds of 60 patients" in texts["md"]
    assert "white-space: normal" in texts["html"]


def test_a_row_may_be_called_like_a_number(tmp_path, monkeypatch) -> None:
    tables, predictions = study()
    rows = {**ROWS, "table2": [replace(row, name="007" if row.name == "UD" else row.name) for row in ROWS["table2"]]}
    tables["table2"] = tables["table2"].replace({"name": {"UD": "007"}})
    monkeypatch.setitem(globals(), "ROWS", rows)
    monkeypatch.setitem(globals(), "study", lambda: (tables, predictions))
    assert "007 against ImageNet: +" in make(tmp_path)["md"]


def test_a_wide_margin_confirms_equality(tmp_path) -> None:
    make(tmp_path, "--margin", "25")
    table = read_csv(tmp_path / "out.csv").set_index("claim")
    assert table.loc["Testicles alone pretrain as well as thyroids alone", "result"] == "confirmed"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tables", "table1"], "--tables names 1, --numbers 3 files"),
        (["--margin", "0"], "points above 0"),
        (["--rows"], "--rows has 0 lists for the tables table1, table2: one of each is needed"),
        (["--rows", *['[{"name": "x", "experiment": "ud-flipped"}]'] * 2], "table1 are not of the same rows"),
        (["--experiments", "--predictions"], "table1 shows the experiment imagenet-complete, but"),
    ],
)
def test_stage_refuses(tmp_path, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(tmp_path, *words)
