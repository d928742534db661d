"""The audit's votes against a slow loop, and the label policies."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from workflow_scripts.audit import change_at_random, clean_labels, complete_labels, nest_labels
from workflow_scripts.audit import count_votes as vote
from workflow_scripts.audit.labels import (
    apply_decisions,
    decisions_of_clinician,
    decisions_of_votes,
    read_decisions,
    require_reviewed_labels,
    rows_of_clinician,
)
from workflow_scripts.audit.suspicion import judge
from workflow_scripts.audit.votes import count_votes, votes_at_least
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, read_rows, write_csv, write_rows
from workflow_scripts.study.config.audit import VoteRule

VIEWS = [f"i{i}#v" for i in range(30)]
LABELS = pd.DataFrame({"view_id": VIEWS, "label": ["neg", "pos"] * 15, "keep": 1})
INDEX = LABELS.assign(image_id=[view[:-2] for view in VIEWS], patient_id=[view[1:-2] for view in VIEWS], side="")
CLASSES = ["neg", "pos"]


def losses(files: int, epochs: int, seed: int) -> dict[str, pd.DataFrame]:
    """Random losses of three-fold audits; the last view is never trained on, and a few epochs are missing."""
    draw = np.random.default_rng(seed)
    tables = {}
    for file in range(files):
        own_fold = draw.integers(3, size=len(VIEWS))
        hardness = np.linspace(0.1, 2, len(VIEWS))
        rows = [
            (view, fold, epoch, hardness[i] * draw.gamma(8, 0.125))
            for fold in range(3)
            for i, view in enumerate(VIEWS[:-1])
            for epoch in range(epochs)
            if own_fold[i] != fold and draw.random() < 0.9
        ]
        tables[f"file{file}"] = pd.DataFrame(rows, columns=["view_id", "fold", "epoch", "loss"]).sample(
            frac=1, random_state=seed
        )
    return tables


@pytest.mark.parametrize("share", [1.0, 0.7, 0.3])
def test_votes_equal_a_slow_loop(share: float) -> None:
    tables = losses(4, 6, 0)
    result = judge(tables, {}, INDEX, VoteRule(share=share), "pos")
    for _, row in result.iterrows():
        votes = evaluations = 0
        for table in tables.values():
            for fold in range(3):
                mine = table[(table["view_id"] == row["view_id"]) & (table["fold"] == fold)]
                evaluations += len(mine) > 0
                votes += sum(loss > 1.0 for loss in mine["loss"]) >= 3
        assert (row["votes"], row["evaluations"]) == (votes, evaluations)
        assert row["suspicious"] == int(evaluations > 0 and votes / evaluations >= share - 1e-12)
    assert 0 < result["suspicious"].sum() < len(VIEWS)
    assert result["evaluations"].tolist() == [8] * 29 + [0]
    assert result["suspicious"].iloc[-1] == 0


def test_a_loss_at_the_threshold_is_no_exceedance() -> None:
    table = pd.DataFrame({"view_id": VIEWS[0], "fold": 0, "epoch": range(3), "loss": [1.0, 1.5, 2.0]})
    assert count_votes({"a": table}, LABELS, 1.0, 3)["votes"].iloc[0] == 0
    assert count_votes({"a": table}, LABELS, 1.0, 2)["votes"].iloc[0] == 1
    assert count_votes({"a": table}, LABELS, 0.99, 3)["votes"].iloc[0] == 1


def test_share_is_met_despite_rounding() -> None:
    table = pd.concat(
        pd.DataFrame({"view_id": VIEWS[0], "fold": fold, "epoch": [0], "loss": [2.0 if fold < 7 else 0.0]})
        for fold in range(10)
    )
    for share, suspicious in ((0.7, 1), (0.71, 0)):
        result = judge(
            {"a": table},
            {},
            INDEX,
            VoteRule(exceedances=1, share=share),
            "pos",
        )
        assert result["suspicious"].iloc[0] == suspicious


def test_bad_losses_are_refused() -> None:
    table = losses(1, 4, 0)["file0"]
    with pytest.raises(UserError, match="2 losses are not numbers"):
        count_votes({"a": table.assign(loss=[np.nan] * 2 + [1.0] * (len(table) - 2))}, LABELS, 1, 3)
    with pytest.raises(UserError, match="views have no label, for example x#y"):
        count_votes({"a": table.assign(view_id="x#y")}, LABELS, 1, 3)
    with pytest.raises(UserError, match="4 epochs can never hold 5"):
        count_votes({"a": table}, LABELS, 1, 5)


def test_cumulative_counts() -> None:
    assert votes_at_least(np.array([0, 1, 3, 3, 2]), 4).tolist() == [4, 3, 2, 0]


def test_policies() -> None:
    complete = [{"view_id": v, "label": label, "keep": "1"} for v, label in (("a", "neg"), ("b", "pos"), ("c", "neg"))]
    votes = [{"view_id": v, "suspicious": s} for v, s in (("a", "1"), ("b", "0"), ("c", "1"))]
    filtered = apply_decisions(complete, decisions_of_votes("filtered", votes), CLASSES, "votes")
    assert [(row["label"], row["keep"]) for row in filtered] == [("neg", "0"), ("pos", "1"), ("neg", "0")]
    flipped = apply_decisions(complete, decisions_of_votes("flipped", votes), CLASSES, "votes")
    assert [(row["label"], row["keep"]) for row in flipped] == [("pos", "1"), ("pos", "1"), ("pos", "1")]
    answers = [{"view_id": v, "decision": d} for v, d in (("a", "keep"), ("b", "flip"), ("c", "discard"))]
    reviewed = apply_decisions(complete, decisions_of_clinician(answers, "d.csv"), CLASSES, "d.csv")
    assert [(row["label"], row["keep"]) for row in reviewed] == [("neg", "1"), ("neg", "1"), ("neg", "0")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"view_id": "a", "decision": "drop"}],
            r"d.csv, line 2: decision 'drop' of a is not one of keep, flip, discard, unsure",
        ),
        ([{"view_id": "zz", "decision": "flip"}], "d.csv: 1 of its views are not among the labelled ones: zz"),
        ([{"view_id": "a", "decision": "flip"}] * 2, "line 3: a is decided twice"),
        ([{"view": "a", "decision": "flip"}], "needs the columns view_id and decision"),
        ([{"view_id;decision": "a;flip"}], "separated by commas; its first line reads view_id;decision"),
    ],
)
def test_bad_decisions_are_refused(rows: list[dict[str, str]], message: str) -> None:
    complete = [{"view_id": "a", "label": "neg", "keep": "1"}]
    with pytest.raises(UserError, match=message):
        apply_decisions(complete, decisions_of_clinician(rows, "d.csv"), CLASSES, "d.csv")


def test_unsure_leaves_the_label_and_further_columns_are_allowed() -> None:
    complete = [{"view_id": v, "label": "neg", "keep": "1"} for v in "ab"]
    answers = [
        {"view_id": "a", "decision": "unsure", "comment": "flip?"},
        {"view_id": "b", "decision": "flip", "x": ""},
    ]
    reviewed = apply_decisions(complete, decisions_of_clinician(answers, "d.csv"), CLASSES, "d.csv")
    assert [(row["label"], row["keep"]) for row in reviewed] == [("neg", "1"), ("pos", "1")]


@pytest.mark.parametrize("comment", ["=1+1", "-3", "@x", "+", "'quoted'", "''=", "plain", "it's =", ""])
def test_the_guard_against_formulas_is_taken_off(comment: str) -> None:
    guarded = f"'{comment}" if comment[:1] in ("=", "+", "-", "@", "'") and comment else comment
    rows = rows_of_clinician([{"\ufeffview_id": "a", "decision": "keep", "comment": guarded}], "d.csv")
    assert rows == [{"view_id": "a", "decision": "keep", "comment": comment}]


def test_rows_of_another_length_do_not_hurt() -> None:
    rows = [{"view_id": "a", "decision": "keep", "comment": None, None: ["too", "many"]}]
    assert rows_of_clinician(rows, "d.csv") == [{"view_id": "a", "decision": "keep", "comment": ""}]


def test_decisions_on_labels_that_have_changed_are_refused() -> None:
    complete = [{"view_id": "a", "label": "neg", "keep": "1"}]
    require_reviewed_labels([{"view_id": "a", "decision": "flip", "label": "neg"}], complete, "d.csv")
    require_reviewed_labels([{"view_id": "a", "decision": "flip"}], complete, "d.csv")
    with pytest.raises(UserError, match="d.csv: a was reviewed under the label 'pos', but is labelled 'neg' now"):
        require_reviewed_labels([{"view_id": "a", "decision": "flip", "label": "pos"}], complete, "d.csv")


def test_reviewed_labels_do_not_follow_from_votes() -> None:
    with pytest.raises(UserError, match="--policy reviewed does not follow from votes; use filtered or flipped"):
        decisions_of_votes("reviewed", [{"view_id": "a", "suspicious": "1"}])


def test_unknown_labels_are_refused() -> None:
    with pytest.raises(UserError, match="has the label 'maybe'; the classes are neg and pos"):
        apply_decisions([{"view_id": "a", "label": "maybe", "keep": "1"}], {}, CLASSES, "votes")


def test_stages_from_losses_to_label_sets(tmp_path) -> None:
    index = [{"view_id": v, "image_id": v[:-2], "patient_id": v[1:-2], "organ": "t", "label": label, "side": "",
              "view": "v"}
             for v, label in zip(VIEWS, LABELS["label"], strict=True)]  # fmt: skip
    write_rows(index, list(index[0]), tmp_path / "index.csv")
    call(complete_labels, "--index", tmp_path / "index.csv", "--output-labels", tmp_path / "complete.csv")
    files, oof = [], []
    for name, table in losses(2, 6, 1).items():
        files.append(tmp_path / f"{name}.csv")
        oof.append(tmp_path / f"{name}_oof.csv")
        write_csv(table, files[-1])
        write_csv(pd.DataFrame({"view_id": VIEWS, "fold": 0, "probability": 0.5}), oof[-1])
    call(
        vote, "--losses", *files, "--oof", *oof, "--index", tmp_path / "index.csv", "--positive", "pos",
        "--exceedances", 3, "--share", 0.75, "--output-votes", tmp_path / "votes.csv", "--output-bias", tmp_path / "bias.csv",
    )  # fmt: skip
    suspicious = [row["view_id"] for row in read_rows(tmp_path / "votes.csv") if row["suspicious"] == "1"]
    assert suspicious
    for policy in ("filtered", "flipped"):
        call(
            clean_labels, "--policy", policy, "--votes", tmp_path / "votes.csv",
            "--complete", tmp_path / "complete.csv", "--classes", *CLASSES, "--output-labels", tmp_path / f"{policy}.csv",
        )  # fmt: skip
    original = dict(zip(VIEWS, LABELS["label"], strict=True))
    filtered, flipped = read_rows(tmp_path / "filtered.csv"), read_rows(tmp_path / "flipped.csv")
    assert [row["view_id"] for row in filtered if row["keep"] == "0"] == suspicious
    assert {row["view_id"]: row["label"] for row in filtered} == original
    assert [row["view_id"] for row in flipped if row["label"] != original[row["view_id"]]] == suspicious
    assert {row["keep"] for row in flipped} == {"1"}

    for policy in ("filtered", "flipped"):
        call(
            change_at_random, "--policy", policy, "--votes", tmp_path / "votes.csv", "--seed", 3,
            "--complete", tmp_path / "complete.csv", "--classes", *CLASSES, "--output-labels", tmp_path / f"{policy}_r.csv",
        )  # fmt: skip
    changed = [
        row["view_id"] for row in read_rows(tmp_path / "flipped_r.csv") if row["label"] != original[row["view_id"]]
    ]
    left_out = [row["view_id"] for row in read_rows(tmp_path / "filtered_r.csv") if row["keep"] == "0"]
    assert changed == left_out
    assert changed != suspicious
    assert sorted(original[view] for view in changed) == sorted(original[view] for view in suspicious)

    call(
        nest_labels, "--policy", "flipped", "--losses", *files, "--index", tmp_path / "index.csv", "--exceedances", 3,
        "--complete", tmp_path / "complete.csv", "--classes", *CLASSES, "--share", 0.5,
        "--output-labels", tmp_path / "n.csv",
    )  # fmt: skip
    nested = read_csv(tmp_path / "n.csv")
    assert len(nested) == 3 * len(VIEWS)
    for fold, part in nested.groupby("fold"):
        assert part["view_id"].tolist() == VIEWS
        runs = [table[table["fold"] == fold] for table in losses(2, 6, 1).values()]
        for row in part.itertuples():
            mine = [run.loc[run["view_id"] == row.view_id, "loss"] for run in runs]
            mine = [run for run in mine if len(run)]
            flip = bool(mine) and sum((run > 1).sum() >= 3 for run in mine) >= 0.5 * len(mine)
            assert (row.label != original[row.view_id]) == flip
    assert 0 < (nested["label"] != nested["view_id"].map(original)).sum() < len(nested)
    with pytest.raises(UserError, match="nested labels need votes, mean_loss or aum"):
        call(
            nest_labels, "--policy", "flipped", "--losses", *files, "--index", tmp_path / "index.csv", "--method",
            "oof_loss", "--complete", tmp_path / "complete.csv", "--classes", *CLASSES,
            "--output-labels", tmp_path / "x.csv",
        )  # fmt: skip


def call(stage, *words: object) -> None:
    """Run a stage in this process."""
    stage.main(stage.parser().parse_args([str(word) for word in words]))


DECIDED = [
    {"view_id": "a#x", "decision": "flip", "comment": "größer"},
    {"view_id": "b#x", "decision": "keep", "comment": ""},
]


def saved(separator: str, encoding: str) -> bytes:
    lines = [DECIDED[0].keys(), *(row.values() for row in DECIDED), ["", "", ""]]
    return "\r\n".join(separator.join(line) for line in [*lines, []]).encode(encoding)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_decisions_are_read_as_a_spreadsheet_saves_them(tmp_path: Path, separator: str, encoding: str) -> None:
    (tmp_path / "decisions.csv").write_bytes(saved(separator, encoding))
    assert read_decisions(tmp_path / "decisions.csv") == DECIDED


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"decisions\.csv holds no decision"),
        (b"view_id,decision,comment\n", r"decisions\.csv holds no decision"),
        (b"view_id,label\na,neg\n", "needs the columns view_id and decision"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "needs the columns view_id and decision|is not a CSV table"),
    ],
)
def test_a_file_without_decisions_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "decisions.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_decisions(tmp_path / "decisions.csv")
