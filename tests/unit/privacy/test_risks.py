"""Singling out, linkability and inference: risks beyond a control group, with intervals that hold."""

import numpy as np
import pytest

from workflow_scripts.privacy import risks


def flags(successes: int, targets: int) -> np.ndarray:
    return np.arange(targets) < successes


def test_the_risk_is_what_the_attack_achieves_beyond_the_control() -> None:
    found = risks.risk(flags(60, 100), flags(20, 100))
    assert found["value"] == pytest.approx(0.5)
    assert 0.2 < found["low"] < 0.5 < found["high"] < 0.75
    # As often against strangers: no risk is shown, and none above a bound is excluded.
    nothing = risks.risk(flags(20, 100), flags(30, 100))
    assert nothing["value"] == nothing["low"] == 0
    assert 0 < nothing["high"] < 0.2
    assert risks.risk(flags(5, 5), flags(5, 5))["value"] == 0


def test_views_of_few_patients_count_as_few() -> None:
    views, patients = (risks.risk(flags(40, 100), flags(10, 100), units) for units in (None, 10))
    assert views["value"] == patients["value"]
    assert patients["low"] < views["low"]


@pytest.mark.parametrize(("attack", "control"), [(0.5, 0.1), (0.1, 0.1), (0.9, 0.3)])
def test_the_interval_holds_the_true_risk_in_95_of_100_studies(attack: float, control: float) -> None:
    generator, true, held = np.random.default_rng(0), (attack - control) / (1 - control), []
    for _ in range(400):
        found = risks.risk(generator.random(40) < attack, generator.random(20) < control)
        held.append(found["low"] <= true <= found["high"])
    assert np.mean(held) >= 0.95


def test_a_threshold_set_on_the_control_group_makes_no_risk_of_chance() -> None:
    generator, patients, shown = np.random.default_rng(0), (np.arange(100), np.arange(20)), []
    for _ in range(200):
        sides = [(generator.random(len(names)), names) for names in patients]
        shown.append(risks.risk(*risks.recognised(*sides))["low"] > 0)
    assert np.mean(shown) < 0.06


def test_patients_are_linked_by_their_first_two_views() -> None:
    patients = np.array(["b", "a", "a", "c", "b", "a"])
    assert risks.linked(np.array([1, 7, 7, 3, 2, 0]), patients).tolist() == [True, False]
    assert risks.linked(np.array([1]), np.array(["a"])).size == 0


def test_members_are_those_whom_few_strangers_undercut() -> None:
    unseen, names = np.linspace(1, 2, 20), np.arange(20).astype(str)
    members, strangers = risks.recognised(
        (np.array([0.5, 1.9, 0.7, 1.9]), np.array(["x", "y", "x", "y"])), (unseen, names)
    )
    assert members.tolist() == [True, False]
    assert strangers.sum() == 2


def test_the_table_names_what_was_found_and_what_was_not_measured() -> None:
    found = risks.measured({
        "singling_out": (flags(30, 60), flags(0, 40), 20),
        "linkability": (flags(0, 0), flags(0, 3), None),
        "inference": (flags(1, 10), flags(1, 10), None),
    })  # fmt: skip
    assert list(found) == ["singling_out", "inference"]
    table = risks.risks_layout(found, "PHANTOM")
    assert table.rows[0][2:4] == ("30 of 60 generated views (50%)", "0 of 40 views (0%)")
    assert table.rows[0][4].startswith("50% (")
    notes = " ".join(table.notes)
    assert "More than chance: Singling out. Do not share" in notes
    assert "Not measured: Linkability" in notes
