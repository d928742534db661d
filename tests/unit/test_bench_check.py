"""The regression guard's decision: ratios against a peer, and how far the committed rounds scatter."""

import json
import statistics

import pytest

from benchmarks.check import ROUNDS, ROWS, lowest_allowed
from benchmarks.measure import RESULTS

STEADY = [2.0, 2.01, 1.99, 2.0, 2.02]
NOISY = [2.0, 2.6, 1.6, 2.2, 1.8]


def test_steady_rounds_allow_a_tenth():
    assert 1.75 < lowest_allowed(STEADY) < 1.85


def test_rounds_that_scatter_allow_what_they_scatter():
    assert 0.9 < lowest_allowed(NOISY) < 1.4


@pytest.mark.parametrize("rounds", [STEADY, NOISY])
def test_the_median_itself_is_allowed_and_only_ratios_count(rounds: list[float]):
    assert lowest_allowed(rounds) < statistics.median(rounds)
    assert lowest_allowed([3 * ratio for ratio in rounds]) == pytest.approx(3 * lowest_allowed(rounds))


def test_the_committed_baseline_has_every_row():
    committed = json.loads((RESULTS / "check.json").read_text(encoding="utf-8"))["rows"]
    assert [row["row"] for row in committed] == list(ROWS)
    assert all(len(row["ratios"]) == ROUNDS and min(row["ratios"]) > 0 for row in committed)
