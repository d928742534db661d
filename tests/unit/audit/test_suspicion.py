"""Scores of suspicious labels against their definitions and cleanlab; organ sides; the sweep; the score of the audit."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cleanlab.rank import get_label_quality_scores
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from workflow_scripts.audit import score_audit
from workflow_scripts.audit.change_at_random import random_decisions
from workflow_scripts.audit.figures import scores_figure, sweep_figure
from workflow_scripts.audit.score_audit import score_methods
from workflow_scripts.audit.suspicion import METHODS, bar, judge, label_scores
from workflow_scripts.audit.votes import class_bias, count_votes, discordant_organ_sides, sweep
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import write_csv
from workflow_scripts.study.config.audit import VoteRule
from workflow_scripts.study.manifest import own_ids
from workflow_scripts.study.patients import numbered_organ_sides

PATIENTS = 40
PAPER = VoteRule()


def study(seed: int = 0, runs: int = 4, epochs: int = 6):
    """Two views on each of two sides of 40 patients; a tenth of the sides have a wrong label, which costs more loss."""
    draw = np.random.default_rng(seed)
    index = pd.DataFrame(
        [
            {
                "view_id": f"p{p}{s}#{v}",
                "image_id": f"p{p}{s}",
                "patient_id": f"p{p}",
                "side": s,
                "organ_side": 2 * p + k,
            }
            for p in range(PATIENTS)
            for k, s in enumerate(("left", "right"))
            for v in "ab"
        ]
    )
    truth = draw.random(2 * PATIENTS) < 0.3
    wrong = (draw.random(2 * PATIENTS) < 0.1)[index["organ_side"]]
    positive = truth[index["organ_side"]] ^ wrong
    index["label"] = np.where(positive, "pos", "neg")
    fold = index["patient_id"].str[1:].astype(int) % 3
    hardness = draw.uniform(0, 0.5, len(index))
    losses, oof = {}, {}
    for run in range(runs):
        logit = draw.normal(1.2, 1.5, len(index)) * np.where(wrong, -1, 1)
        probability = 1 / (1 + np.exp(-logit))
        oof[f"run{run}"] = pd.DataFrame(
            {"view_id": index["view_id"], "probability": np.where(positive, probability, 1 - probability)}
        )
        rows = [
            pd.DataFrame(
                {
                    "view_id": index["view_id"][fold != f], "fold": f, "epoch": epoch,
                    "loss": draw.gamma(2.0, 0.2 + (hardness + 0.4 * wrong)[fold != f]),
                }
            )
            for f in range(3)
            for epoch in range(1, epochs + 1)
        ]  # fmt: skip
        losses[f"run{run}"] = pd.concat(rows, ignore_index=True)
    return losses, oof, index, wrong


def test_scores_follow_their_definitions() -> None:
    losses, oof, index, _ = study()
    scores = label_scores(losses, oof, index, PAPER, "pos").set_index("view_id")
    together = pd.concat(losses.values())
    view = index["view_id"][17]
    mine = together.loc[together["view_id"] == view, "loss"].to_numpy()
    own = [
        probability if index["label"][17] == "pos" else 1 - probability
        for probability in (table["probability"][17] for table in oof.values())
    ]
    row = scores.loc[view]
    assert row["mean_loss"] == pytest.approx(mine.mean())
    # With p = exp(-loss) the label's probability, its logit exceeds the other's by ln(p / (1 - p)).
    assert row["aum"] == pytest.approx(-np.log(np.exp(-mine) / (1 - np.exp(-mine))).mean())
    assert row["oof_loss"] == pytest.approx(-np.log(own).mean())
    assert row["confident_learning"] == pytest.approx(1 - np.mean(own))
    assert row["votes_score"] == row["votes"] / row["evaluations"]
    assert row["evaluations"] == 8


def test_confident_learning_ranks_as_cleanlab_does() -> None:
    _, oof, index, _ = study(1)
    losses = study(1)[0]
    mean = np.mean([table["probability"] for table in oof.values()], axis=0)
    labels = (index["label"] == "pos").to_numpy(np.int64)
    quality = get_label_quality_scores(labels, np.stack([1 - mean, mean], 1), method="self_confidence")
    score = label_scores(losses, oof, index, PAPER, "pos")["confident_learning"]
    np.testing.assert_allclose(score, 1 - quality, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_one_threshold_means_the_same_probability_for_every_method(method: str) -> None:
    """Where every run gives the label the same probability, all losses and scores cross their bars together."""
    _, _, index, _ = study()
    for probability, suspicious in ((0.30, True), (0.40, False)):
        loss = -np.log(probability)
        losses = {
            "run": pd.DataFrame({"view_id": np.tile(index["view_id"], 3), "fold": 0, "epoch": np.repeat([1, 2, 3], len(index))})
            .assign(loss=loss)
        }  # fmt: skip
        own = np.where(index["label"] == "pos", probability, 1 - probability)
        oof = {"run": pd.DataFrame({"view_id": index["view_id"], "probability": own})}
        votes = judge(losses, oof, index, VoteRule(method=method), "pos")
        assert (votes["suspicious"] == suspicious).all()


@pytest.mark.parametrize("method", METHODS)
def test_an_organ_side_is_judged_as_one(method: str) -> None:
    losses, oof, index, _ = study(2)
    organ_sides = numbered_organ_sides(index).to_numpy()
    assert (organ_sides == index["organ_side"]).all()
    rule = VoteRule(method=method, share=0.6)
    views = judge(losses, oof, index, rule, "pos")
    assert discordant_organ_sides(views["suspicious"] == 1, organ_sides) > 0
    whole = judge(losses, oof, index, VoteRule(method=method, share=0.6, unit="organ_side"), "pos")
    assert discordant_organ_sides(whole["suspicious"] == 1, organ_sides) == 0
    assert (whole[["votes", "evaluations"]] == views[["votes", "evaluations"]]).all().all()
    by_organ_side = views.groupby(organ_sides)
    if method == "votes":
        expected = by_organ_side["votes"].sum() / by_organ_side["evaluations"].sum() >= 0.6
    else:
        expected = by_organ_side["score"].mean() > bar(rule)
    assert (whole.groupby(organ_sides)["suspicious"].first() == expected).all()


def test_a_view_that_was_never_evaluated_is_not_suspicious() -> None:
    losses, oof, index, _ = study()
    view = index["view_id"][5]
    losses = {name: table[table["view_id"] != view].assign(loss=9.0) for name, table in losses.items()}
    for method in ("votes", "mean_loss", "aum"):
        votes = judge(losses, oof, index, VoteRule(method=method), "pos").set_index("view_id")
        assert votes.loc[view, ["evaluations", "suspicious"]].tolist() == [0, 0]
        assert votes["suspicious"].sum() == len(index) - 1


def test_missing_out_of_fold_predictions_are_named() -> None:
    losses, oof, index, _ = study()
    with pytest.raises(UserError, match="run0: 3 labelled views have no out-of-fold probability"):
        judge(losses, {**oof, "run0": oof["run0"][3:]}, index, PAPER, "pos")


def test_the_sweep_agrees_with_single_votes() -> None:
    losses, _, index, _ = study()
    organ_sides = numbered_organ_sides(index).to_numpy()
    table = sweep(losses, index, organ_sides, [0.5, 1.0], [1, 3, 20])
    assert len(table) == 2 * 3 * 8
    for row in table[table["exceedances"] < 20].itertuples():
        votes = count_votes(losses, index, row.threshold, row.exceedances)["votes"].to_numpy()
        suspicious = votes >= row.at_least
        assert row.views == suspicious.sum()
        assert row.organ_sides == len(set(organ_sides[suspicious]))
        assert row.discordant == discordant_organ_sides(suspicious, organ_sides)
    # More exceedances than epochs flag nothing: a sweep says so, where a rule would be refused.
    assert table.loc[table["exceedances"] == 20, "views"].sum() == 0
    figure = sweep_figure(table[table["exceedances"] != 20], len(index), 1.0, True, "PHANTOM")
    assert "PHANTOM" in [text.get_text() for text in figure.texts]


def test_the_class_bias_of_the_weighted_sampler_is_seen() -> None:
    losses, oof, index, _ = study()
    negative = set(index.loc[index["label"] == "neg", "view_id"])
    seen = {name: table[~table["view_id"].isin(negative) | (table["epoch"] % 2 == 0)] for name, table in losses.items()}
    bias = class_bias(seen, judge(seen, oof, index, PAPER, "pos")).set_index("label")
    assert bias["recorded_epochs"].to_dict() == {"neg": 3, "pos": 6}
    assert bias["views"].sum() == len(index)
    assert bias.loc["pos", "flag_rate"] > bias.loc["neg", "flag_rate"]


def test_the_score_of_an_audit() -> None:
    losses, oof, index, wrong = study()
    table = score_methods(
        losses,
        oof,
        index,
        wrong,
        VoteRule(share=0.7),
        "pos",
        draws=50,
    )
    assert table["method"].tolist() == list(METHODS)
    for row in table.itertuples():
        assert row.average_precision_low <= row.average_precision <= row.average_precision_high
        assert row.average_precision > 2 * wrong.mean()
    scores = label_scores(losses, oof, index, PAPER, "pos")
    mine = table.set_index("method")
    assert mine.loc["mean_loss", "average_precision"] == pytest.approx(
        average_precision_score(wrong, scores["mean_loss"])
    )
    votes = judge(losses, oof, index, VoteRule(share=0.7), "pos")["suspicious"].to_numpy() == 1
    assert mine.loc["votes", "flagged"] == votes.sum() > 0
    assert mine.loc["votes", "precision"] == pytest.approx(wrong[votes].mean())
    assert mine.loc["votes", "recall"] == pytest.approx(votes[wrong].mean())
    with pytest.raises(UserError, match="0 of 160 labels are wrong"):
        score_methods(losses, oof, index, np.zeros(len(index), bool), PAPER, "pos", draws=5)
    assert scores_figure(table, int(wrong.sum()), len(wrong), "PHANTOM").axes


def test_the_stage_finds_the_drawn_classes_with_and_without_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_audit, "DRAWS", 20)
    losses, oof, index, wrong = study()
    other = index["label"].map({"pos": "neg", "neg": "pos"})
    frames = index.assign(truth=np.where(wrong, other, index["label"])).drop_duplicates("image_id")
    write_csv(frames[["image_id", "patient_id", "truth"]], tmp_path / "manifest.csv")
    (tmp_path / "key").write_text("a secret of sixteen bytes or more")
    for name, tables in (("losses", losses), ("oof", oof)):
        for run, table in tables.items():
            write_csv(table, tmp_path / f"{name}_{run}.csv")
    keyed = {own: hidden for hidden, own in own_ids(tmp_path / "manifest.csv", tmp_path / "key").items()}

    def scores(images: pd.Series, *key: str) -> bytes:
        write_csv(index.assign(image_id=images), tmp_path / "index.csv")
        files = [
            "--losses", *sorted(map(str, tmp_path.glob("losses_*"))), "--oof", *sorted(map(str, tmp_path.glob("oof_*"))),
            "--index", str(tmp_path / "index.csv"), "--manifest", str(tmp_path / "manifest.csv"), *key,
        ]  # fmt: skip
        outputs = ["--output-scores", str(tmp_path / "s.csv"), "--output-figure", str(tmp_path / "s.png")]
        score_audit.main(score_audit.parser().parse_args([*files, "--positive", "pos", *outputs]))
        return (tmp_path / "s.csv").read_bytes()

    hidden = index["image_id"].map(keyed)
    assert scores(index["image_id"]) == scores(hidden, "--patient-key", str(tmp_path / "key"))
    with pytest.raises(UserError, match="column truth is missing"):
        scores(hidden)


def test_scores_agree_on_what_is_hard() -> None:
    losses, oof, index, _ = study()
    scores = label_scores(losses, oof, index, PAPER, "pos")
    assert spearmanr(scores["oof_loss"], scores["confident_learning"]).statistic > 0.9
    assert spearmanr(scores["mean_loss"], scores["aum"]).statistic > 0.8


def test_the_random_control_changes_as_many_of_each_class() -> None:
    complete = [{"view_id": f"v{i}", "label": "pos" if i % 4 == 0 else "neg"} for i in range(400)]
    label = {row["view_id"]: row["label"] for row in complete}
    decisions = {f"v{i}": "flip" for i in (*range(0, 80, 4), *range(1, 40, 4))}
    draws = [random_decisions(decisions, complete, seed) for seed in range(3)]
    assert draws[0] == random_decisions(decisions, complete[::-1], 0)
    assert len({frozenset(drawn) for drawn in draws}) == 3
    for drawn in draws:
        assert [list(drawn.values()).count(kind) for kind in ("flip", "discard")] == [30, 0]
        assert sum(label[view] == "pos" for view in drawn) == 20
