"""The critical sentence of a table: which comparison it picks, and what it dares to say."""

import math

import numpy as np
import pandas as pd
import pytest

from workflow_scripts.tables.reading import Comparison, comparisons, condition, critical_sentence, verdict
from workflow_scripts.tables.rows import Row

ROWS = [
    Row("ImageNet", "imagenet-flipped", "imagenet"),
    Row("UD testicles only", "ud_testicle-flipped", "ud_testicle", is_pretrained=True),
    Row("UD", "ud-flipped", "ud", is_pretrained=True),
    Row("majority class", "majority-flipped", "majority"),
]
NAN = math.nan


def values(rows: list[Row], accuracy: list[float], *tests: tuple[float, float, float, float]) -> pd.DataFrame:
    """What `tables.numbers` returns, as far as the reading looks."""
    columns = ["difference_mean", "difference_low", "difference_high", "p_corrected"]
    table = pd.DataFrame(np.array(tests, float), columns=columns)
    names = [row.name for row in rows]
    return table.assign(name=names, accuracy_mean=accuracy, accuracy_original_mean=accuracy[::-1])


def sentence(test: tuple[float, float, float, float], seeds: int = 4, holdout: str = "none") -> str:
    """The sentence of a table whose best other row has this test."""
    noise, none = (-9.0, -20.0, 2.0, 0.2), (NAN, NAN, NAN, NAN)
    table = values(ROWS, [83.9, 90.0, 86.8, 99.0], noise, test, none, noise)
    return critical_sentence("table2", ROWS, table, "UD", "policy", seeds, holdout)


def test_an_interval_that_includes_0_is_noise() -> None:
    assert sentence((-2.891, -7.2, 1.415, 0.25)) == (
        "Critical reading, on the shared labels: the 2.89 points of accuracy between UD testicles only and UD (in "
        "favour of UD; corrected 95 % CI −1.42 to 7.20, Holm-corrected p 0.250) are within noise."
    )
    assert "in favour of UD testicles only; corrected 95 % CI −1.00 to 3.00" in sentence((1.0, -1.0, 3.0, 0.4))
    assert "the 0.00 points of accuracy between UD testicles only and UD (in favour of neither;" in sentence(
        (0.0, 0.0, 0.0, 1.0)
    )


def test_a_difference_is_at_most_consistent_with_one_backbone_per_row() -> None:
    text = sentence((5.0, 2.0, 8.0, 0.004))
    assert "are consistent with a true difference, conditional on one backbone per row" in text
    # Every fold and seed has its own backbone in both rows.
    text = sentence((5.0, 2.0, 8.0, 0.004), holdout="per_fold")
    assert text.endswith("are more than noise for these patients and this recipe.")


def test_what_holm_takes_away_is_noise() -> None:
    text = sentence((5.0, 0.1, 9.9, 0.09))
    assert "do not survive Holm's correction" in text
    assert "count as within noise" in text


@pytest.mark.parametrize("test", [(5.0, 2.0, 8.0, 0.004), (1.0, -1.0, 3.0, 0.4)])
def test_one_seed_gives_no_verdict(test: tuple[float, float, float, float]) -> None:
    text = sentence(test, seeds=1)
    assert text.endswith("rest on one seed, so that their spread over seeds is unknown: no verdict.")
    assert "noise" not in text
    assert "consistent" not in text
    assert "95 %" not in text


def test_one_run_gives_no_verdict() -> None:
    text = sentence((5.0, NAN, NAN, NAN), seeds=1)
    assert text.endswith("(in favour of UD testicles only) rest on one run per row and have no interval: no verdict.")
    assert "nan" not in text


def test_a_lone_network_is_not_compared() -> None:
    rows = [ROWS[2], ROWS[3]]
    table = values(rows, [86.0, 80.0], (NAN, NAN, NAN, NAN), (-6.0, -9.0, -3.0, 0.01))
    text = critical_sentence("table2", rows, table, "UD", "policy", 4, "none")
    assert text == "Critical reading: there is no second network, so nothing is compared."


def test_the_best_other_network_is_picked_on_the_labels_that_are_compared() -> None:
    noise = (-1.0, -3.0, 1.0, 0.4)
    table = values(ROWS, [83.9, 90.0, 86.8, 99.0], *[noise] * 4)
    (policy,) = comparisons("table2", ROWS, table, "UD", "policy", 4, "none")
    assert policy.name == "UD testicles only"
    # On the original labels the order is reversed: 99.0 belongs to ImageNet.
    (original,) = comparisons("table2", ROWS, table, "UD", "original", 4, "none")
    assert original.name == "ImageNet"
    assert "on the original labels of all views" in critical_sentence(
        "table2", ROWS, table, "UD", "original", 4, "none"
    )


def test_table_1_is_about_cleaned_labels() -> None:
    rows = [
        Row("complete", "imagenet-complete", "imagenet"),
        Row("filtered", "imagenet-filtered", "imagenet"),
        Row("flipped", "imagenet-flipped", "imagenet"),
        Row("majority class", "majority-flipped", "majority"),
    ]
    tests = (NAN, NAN, NAN, NAN), (6.6, 1.0, 12.0, 0.03), (0.4, -3.0, 4.0, 0.8), (-9.0, -12.0, -6.0, 0.001)
    table = values(rows, [81.5, 88.2, 86.8, 80.0], *tests)
    text = critical_sentence("table1", rows, table, "complete", "original", 4, "none")
    filtered, flipped = text.split("; the ")
    assert "between filtered and complete" in filtered
    assert "consistent with" in filtered
    assert "between flipped and complete" in flipped
    assert "within noise" in flipped
    assert "majority" not in text


def test_protocols_are_about_the_cleaning_that_did_not_see_the_test() -> None:
    rows = [
        Row("complete", "imagenet-complete", "imagenet"),
        Row("flipped", "imagenet-flipped", "imagenet"),
        Row("flipped, nested", "imagenet-flipped_nested", "imagenet"),
    ]
    table = values(rows, [81.0, 90.0, 82.0], (NAN, NAN, NAN, NAN), (6.0, 1.0, 12.0, 0.03), (0.4, -3.0, 4.0, 0.8))
    found = comparisons("table1_protocols", rows, table, "complete", "original", 4, "none")
    assert [c.name for c in found] == ["flipped, nested"]


def test_condition_names_the_rows_that_share_a_backbone() -> None:
    imagenet, testicle, ud, _ = ROWS
    assert condition((imagenet, ud), "none") == "conditional on one backbone per row"
    assert condition((imagenet, ud), "per_fold") == "conditional on the one backbone of ImageNet"
    assert condition((testicle, ud), "per_fold") == ""
    assert condition((testicle, ud), "none", pretraining_seeds=2) == "conditional on one backbone per row"
    assert condition((testicle, ud), "none", pretraining_seeds=3) == ""
    assert condition((imagenet, ud), "none", pretraining_seeds=3) == "conditional on the one backbone of ImageNet"


def test_no_wording_without_a_condition_is_stronger_than_the_evidence() -> None:
    weak = Comparison("a", "b", 1.0, -1.0, 3.0, 0.001)
    assert not weak.is_beyond_noise
    assert verdict(weak) == "are within noise"
