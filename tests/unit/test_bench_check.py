"""The regression guard's decision: ratios against a peer, and how far the committed rounds scatter."""

import json

import pytest

from benchmarks.check import LEAST, ROWS, slower, tolerance
from benchmarks.measure import RESULTS

STEADY = [2.0, 2.01, 1.99, 2.0, 2.02]
NOISY = [2.0, 2.6, 1.6, 2.2, 1.8]


def test_steady_rounds_allow_a_tenth():
    assert tolerance(STEADY) == LEAST
    assert not slower(STEADY, 1.85)
    assert slower(STEADY, 1.75)


def test_rounds_that_scatter_allow_what_they_scatter():
    assert tolerance(NOISY) > 0.4
    assert not slower(NOISY, 1.4)
    assert slower(NOISY, 0.9)


@pytest.mark.parametrize("rounds", [STEADY, NOISY])
def test_faster_is_never_wrong(rounds: list[float]):
    assert not slower(rounds, 10 * max(rounds))


def test_only_ratios_count():
    assert all(slower([3 * r for r in STEADY], 3 * now) == slower(STEADY, now) for now in (1.7, 1.75, 1.85, 2.5))


def test_the_committed_baseline_has_every_row():
    committed = json.loads((RESULTS / "check.json").read_text(encoding="utf-8"))["rows"]
    assert [row["row"] for row in committed] == list(ROWS)
    assert not any(slower(row["ratios"], sorted(row["ratios"])[len(row["ratios"]) // 2]) for row in committed)
