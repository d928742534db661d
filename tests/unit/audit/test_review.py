"""The review page's contents: choice and order of cards, trajectories, and a page that nothing can break out of."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from workflow_scripts.audit import make_review_page as review_page
from workflow_scripts.audit.review import (
    CANDIDATES,
    choose_cards,
    fingerprint,
    neighbours,
    ordered,
    review_html,
    trajectories,
)
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import write_csv, write_npy
from workflow_scripts.study.patients import numbered_organ_sides

CLASSES = ["neg", "pos"]


def votes_of(frames: int, suspicious: list[int], label: str = "neg") -> pd.DataFrame:
    """Two views a frame, each frame an organ side; labels neg but for every third frame."""
    count = 2 * frames
    organ_side = np.arange(count) // 2
    marked = np.isin(np.arange(count), suspicious)
    return pd.DataFrame(
        {
            "view_id": [f"i{i // 2}#{'ts'[i % 2]}" for i in range(count)],
            "label": np.where(organ_side % 3 == 0, "pos", "neg"),
            "votes": np.where(marked, 16, np.arange(count) % 5),
            "evaluations": 16,
            "suspicious": marked.astype(int),
            "organ_side": organ_side,
        }
    )


def no_losses(votes: pd.DataFrame) -> pd.Series:
    return pd.Series(0.0, index=votes["view_id"])


def test_controls_match_the_labels_and_come_from_other_organ_sides():
    votes = votes_of(40, suspicious=[0, 1, 2, 6, 8, 14])
    cards = choose_cards(votes, no_losses(votes), controls=2.0, seed=0)
    suspicious, controls = cards[cards["group"] == "suspicious"], cards[cards["group"] == "control"]
    assert set(suspicious["view_id"]) == set(votes[votes["suspicious"] == 1]["view_id"])
    assert controls["label"].value_counts().to_dict() == {
        label: 2 * count for label, count in suspicious["label"].value_counts().items()
    }
    assert not set(controls["organ_side"]) & set(suspicious["organ_side"])
    assert controls["organ_side"].is_unique
    assert set(controls["suspicious"]) == {0}


def test_too_few_controls_are_all_taken():
    votes = votes_of(4, suspicious=[0, 1, 2])
    cards = choose_cards(votes, no_losses(votes), controls=5.0, seed=0)
    assert set(cards[cards["group"] == "control"]["view_id"]) == {"i2#t", "i2#s", "i3#t", "i3#s"}
    assert choose_cards(votes, no_losses(votes), controls=0.0, seed=0)["group"].unique().tolist() == ["suspicious"]


def test_without_suspicion_the_most_voted_are_candidates_and_ties_go_to_the_higher_loss():
    votes = votes_of(40, suspicious=[])
    losses = pd.Series(np.linspace(0, 1, len(votes)), index=votes["view_id"])
    candidates = choose_cards(votes, losses, controls=1.0, seed=0).query("group == 'candidate'")
    assert len(candidates) == CANDIDATES
    assert candidates["votes"].min() >= 3
    threes = votes[votes["votes"] == 3]["view_id"].tolist()
    assert candidates[candidates["votes"] == 3]["view_id"].tolist() == threes[::-1][: CANDIDATES - 16]


def test_views_that_no_run_trained_on_are_never_read():
    votes = votes_of(10, suspicious=[0]).assign(evaluations=lambda t: np.where(t.index < 6, 16, 0))
    assert set(choose_cards(votes, no_losses(votes), 9.0, 0)["view_id"]) <= set(votes["view_id"][:6])


def test_order_is_random_by_seed_when_blind_and_by_votes_when_open():
    votes = votes_of(30, suspicious=list(range(0, 40, 4)))
    cards = choose_cards(votes, no_losses(votes), 1.0, 0)
    first, again, other = (ordered(cards, "blind", no_losses(votes), seed)["view_id"].tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert sorted(first) == sorted(other)
    groups = ordered(cards, "blind", no_losses(votes), 0)["group"].tolist()
    assert "control" in groups[:8]
    assert "suspicious" in groups[:8]
    assert ordered(cards, "open", no_losses(votes), 0)["votes"].is_monotonic_decreasing


def test_an_organ_side_is_a_patients_side_where_it_is_known_and_else_a_frame():
    index = pd.DataFrame(
        {
            "image_id": ["a", "a", "b", "c", "d", "e"],
            "patient_id": ["p", "p", "p", "p", "p", "q"],
            "side": ["left", "left", "left", "right", "", "left"],
        }
    )
    assert numbered_organ_sides(index).tolist() == [0, 0, 0, 1, 2, 3]
    numbers = numbered_organ_sides(index).to_numpy()
    assert neighbours(2, index, numbers) == [0, 1]
    assert neighbours(0, index, numbers) == [1, 2]
    assert neighbours(3, index, numbers) == []


def test_trajectories_are_over_all_runs():
    first = pd.DataFrame({"view_id": "v", "fold": [0, 0, 1], "epoch": [1, 2, 1], "loss": [1.0, 4.0, 2.0]})
    second = pd.DataFrame({"view_id": ["v", "w"], "fold": 0, "epoch": 1, "loss": [6.0, 0.5]})
    rows = trajectories([first, second]).values.tolist()
    assert rows == [["v", 1, 3.0, 1.0, 6.0], ["v", 2, 4.0, 4.0, 4.0], ["w", 1, 0.5, 0.5, 0.5]]


@pytest.fixture
def study(tmp_path):
    """Files of a study whose names are as hostile as a CSV can carry them."""
    votes = votes_of(12, suspicious=[0, 1, 7])
    names = {0: '</script><script>alert("1")</script>', 1: 'it\'s "q", a=b\n&amp; <b>', 7: "\u2028{{ 7 * 7 }}"}
    votes["view_id"] = [names.get(i, view) for i, view in enumerate(votes["view_id"])]
    index = pd.DataFrame(
        {
            "view_id": votes["view_id"], "image_id": [f"i{i // 2}" for i in range(24)], "patient_id": "PATIENT-7", "side": "",
            "organ": "t", "label": votes["label"], "view": ["transverse", "sagittal"] * 12,
        }
    )  # fmt: skip
    losses = pd.concat(
        pd.DataFrame({"view_id": votes["view_id"], "fold": 0, "epoch": epoch, "loss": 1.5 / epoch}) for epoch in (1, 2)
    )
    for name, table in {"votes": votes.drop(columns="organ_side"), "index": index, "losses": losses}.items():
        write_csv(table, tmp_path / f"{name}.csv")
    write_npy(np.random.default_rng(0).integers(0, 256, (24, 16, 16)).astype(np.uint8), tmp_path / "views.npy")
    return tmp_path


def page_of(study, *words: object) -> str:
    arguments = [
        "--votes", study / "votes.csv", "--losses", study / "losses.csv", "--views", study / "views.npy",
        "--index", study / "index.csv", "--classes", *CLASSES, "--output-page", study / "review.html", *words,
    ]  # fmt: skip
    review_page.main(review_page.parser().parse_args([str(word) for word in arguments]))
    return (study / "review.html").read_text(encoding="utf-8")


def embedded(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="study">(.*?)</script>', page, re.DOTALL)[1])


def test_nothing_breaks_out_of_the_page(study):
    page = page_of(study, "--origin", "<PHANTOM>")
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "&lt;PHANTOM&gt;" in page
    assert "<PHANTOM>" not in page
    assert "\u2028" not in page
    assert "PATIENT-7" not in page
    ids = {card["id"] for card in embedded(page)["cards"]}
    assert '</script><script>alert("1")</script>' in ids
    assert "\u2028{{ 7 * 7 }}" in ids


def test_the_page_forbids_itself_the_network_and_foreign_scripts(study):
    page = page_of(study)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src &#39;none&#39;") or policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)


def test_cards_carry_what_is_revealed_and_both_views(study):
    contents = embedded(page_of(study, "--threshold", 1.2))
    card = next(card for card in contents["cards"] if card["id"].startswith("</script>"))
    assert (card["label"], card["votes"], card["evaluations"], card["group"]) == ("pos", 16, 16, "suspicious")
    assert (card["plane"], [other["plane"] for other in card["others"]]) == ("transverse", ["sagittal"])
    assert card["losses"] == [[1, 1.5, 1.5, 1.5], [2, 0.75, 0.75, 0.75]]
    assert {str(card["image"]), str(card["others"][0]["image"])} <= set(contents["images"])
    assert (contents["threshold"], contents["mode"], contents["classes"]) == (1.2, "blind", CLASSES)


def test_the_page_is_the_same_for_the_same_study(study):
    assert page_of(study) == page_of(study)
    assert page_of(study) != page_of(study, "--seed", 1)


def test_the_fingerprint_names_ids_labels_votes_pixels_and_mode():
    card = {"id": "a", "label": "neg", "votes": 1, "evaluations": 16, "pixels": "x"}
    other = {**card, "id": "b"}
    own = fingerprint([card, other], "blind")
    assert fingerprint([other, card], "blind") == own
    changed = [fingerprint([{**card, key: "2"}, other], "blind") for key in card]
    assert len({own, *changed, fingerprint([card, other], "open")}) == 7


def test_tables_that_do_not_agree_are_refused(study):
    with pytest.raises(UserError, match="--controls -1.0: it must not be negative"):
        page_of(study, "--controls", -1)
    with pytest.raises(UserError, match="has the label 'pos'; the classes are yes and no"):
        page_of(study, "--classes", "yes", "no")
    write_npy(np.zeros((3, 16, 16), np.uint8), study / "views.npy")
    with pytest.raises(UserError, match=r"different numbers of rows: .*views.npy 3, .*index.csv 24"):
        page_of(study)


def test_a_page_is_rendered_without_origin():
    study = {
        "fingerprint": "f",
        "mode": "open",
        "classes": CLASSES,
        "threshold": 1.0,
        "origin": "",
        "cards": [],
        "images": {},
    }
    assert '<span class="origin">' not in review_html(study)
