"""Metrics, the three meanings of ±, and the statistics of a comparison."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sk

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.statistics import corrected_paired_test, holm, patient_bootstrap
from workflow_scripts.finetuning.calibration import brier
from workflow_scripts.finetuning.metrics import METRICS, scores
from workflow_scripts.finetuning.predictions import PREDICTION_COLUMNS, check_predictions, decide
from workflow_scripts.tables.aggregation import aggregate, mean_and_std, patient_interval, run_scores

CLASSES = ["neg", "pos"]


def test_scores_by_hand() -> None:
    # 3 true positives, 1 false negative, 2 false positives, 4 true negatives
    truth = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], bool)
    decision = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0], bool)
    probability = np.array([0.9, 0.8, 0.7, 0.2, 0.6, 0.6, 0.1, 0.1, 0.3, 0.1])
    values = scores(truth, decision, probability)
    assert values["accuracy"] == pytest.approx(7 / 10)
    assert values["precision"] == pytest.approx(3 / 5)
    assert values["recall"] == pytest.approx(3 / 4)
    assert values["f1"] == pytest.approx(2 * 3 / (2 * 3 + 2 + 1))
    assert values["balanced_accuracy"] == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert values["mcc"] == pytest.approx((3 * 4 - 2 * 1) / math.sqrt(5 * 4 * 6 * 5))
    pairs = [(p > n) + 0.5 * (p == n) for p in probability[truth] for n in probability[~truth]]
    assert values["auroc"] == pytest.approx(np.mean(pairs))
    assert values["auprc"] == pytest.approx(sk.average_precision_score(truth, probability))
    assert values["brier"] == pytest.approx(sk.brier_score_loss(truth, probability))
    # Bins (0, 0.1]: three of 0.1, none positive; (0.1, 0.2]: 0.2, positive; (0.2, 0.3]: 0.3, not; (0.5, 0.6]: two of
    # 0.6, not; 0.7, 0.8 and 0.9, each alone and positive.
    assert values["ece"] == pytest.approx((3 * 0.1 + 0.8 + 0.3 + 2 * 0.6 + 0.3 + 0.2 + 0.1) / 10)


@pytest.mark.filterwarnings("error")
def test_scores_where_they_are_undefined() -> None:
    yes, no = np.ones(4, bool), np.zeros(4, bool)
    half = np.full(4, 0.5)
    # No positive view and none predicted: nothing to be precise about.
    values = scores(no, no, half)
    assert (values["accuracy"], values["precision"], values["recall"], values["f1"], values["mcc"]) == (1, 0, 0, 0, 0)
    assert all(math.isnan(values[name]) for name in ("auroc", "auprc", "balanced_accuracy"))
    # Only positives, none found.
    values = scores(yes, no, half)
    assert (values["accuracy"], values["recall"], values["auprc"]) == (0, 0, 1)
    assert math.isnan(values["auroc"])
    # The majority baseline: both classes there, one predicted.
    values = scores(np.array([1, 0, 0, 0], bool), no, half)
    assert (values["accuracy"], values["f1"], values["auroc"], values["balanced_accuracy"]) == (0.75, 0, 0.5, 0.5)
    assert all(math.isnan(value) for value in scores(no[:0], no[:0], half[:0]).values())


def test_a_tie_is_negative() -> None:
    assert decide(np.array([0.5, np.nextafter(0.5, 1), 0.0, 1.0]), CLASSES).tolist() == ["neg", "pos", "neg", "pos"]


def runs_table(accuracy: list[list[float]], f1: list[list[float]]) -> pd.DataFrame:
    """Scores (seeds x folds) as `run_scores` returns them."""
    index = pd.MultiIndex.from_product([range(len(accuracy)), range(len(accuracy[0]))], names=["seed", "fold"])
    return pd.DataFrame({"accuracy": np.ravel(accuracy), "f1": np.ravel(f1)}, index=index)


def test_the_three_meanings_of_plus_minus() -> None:
    runs = runs_table([[0.8, 0.9], [0.7, 0.6]], [[0.5, 0.7], [0.4, 0.2]])
    over_runs = {
        "accuracy": (0.75, math.sqrt((0.05**2 + 0.15**2 + 0.05**2 + 0.15**2) / 3)),
        "f1": (0.45, math.sqrt((0.05**2 + 0.25**2 + 0.05**2 + 0.25**2) / 3)),
    }
    # Fold means 0.85, 0.65 and 0.6, 0.3.
    over_seeds = {"accuracy": (0.75, 0.2 / math.sqrt(2)), "f1": (0.45, 0.3 / math.sqrt(2))}
    expected = {
        "runs": over_runs,
        "seeds": over_seeds,
        "released": {"accuracy": over_runs["accuracy"], "f1": over_seeds["f1"]},
    }
    for spread, values in expected.items():
        result = aggregate(runs, spread)
        assert result.keys() == values.keys()
        for metric, value in values.items():
            assert result[metric] == pytest.approx(value), (spread, metric)


def test_one_seed_has_no_spread_over_seeds() -> None:
    result = aggregate(runs_table([[0.8, 0.9]], [[0.5, 0.7]]), "released")
    assert result["accuracy"] == pytest.approx((0.85, math.sqrt(2 * 0.05**2)))
    assert result["f1"][0] == pytest.approx(0.6)
    assert math.isnan(result["f1"][1])


def test_undefined_runs_do_not_count() -> None:
    assert mean_and_std([0.5, math.nan, 0.7]) == pytest.approx((0.6, math.sqrt(0.02)))
    assert all(map(math.isnan, mean_and_std([math.nan])))
    runs = runs_table([[1.0, 1.0], [1.0, 1.0]], [[0.5, math.nan], [0.7, 0.9]])
    assert aggregate(runs, "seeds")["f1"] == pytest.approx((0.65, 0.3 / math.sqrt(2)))


def predictions(seeds: int = 2, folds: int = 3, patients: int = 12, seed: int = 0) -> pd.DataFrame:
    """Random predictions of two views per patient; some views are dropped, some labels flipped by the policy."""
    draw = np.random.default_rng(seed)
    label = draw.choice(CLASSES, patients).repeat(2)
    policy = np.where(draw.random(2 * patients) < 0.2, np.where(label == "pos", "neg", "pos"), label)
    kept = (draw.random(2 * patients) < 0.85).astype(int)
    parts = []
    for s in range(seeds):
        probability = draw.random(2 * patients)
        part = pd.DataFrame(
            {
                "view_id": [f"{i}#a" for i in range(2 * patients)],
                "patient_id": [f"p{i // 2}" for i in range(2 * patients)],
            }
        )
        fold = draw.permutation(np.arange(patients) % folds).repeat(2)
        parts.append(
            part.assign(
                fold=fold, seed=s, label_original=label, label_policy=policy, kept=kept, probability=probability,
                prediction=decide(probability, CLASSES),
            )
        )  # fmt: skip
    return pd.concat(parts, ignore_index=True)[PREDICTION_COLUMNS]


@pytest.mark.parametrize("labels", ["policy", "original"])
def test_run_scores_equal_scikit_learn_run_by_run(labels: str) -> None:
    table = predictions()
    result = run_scores(table, "pos", labels)
    assert result.index.tolist() == [(s, f) for s in range(2) for f in range(3)]
    assert tuple(result.columns) == METRICS
    for (s, f), row in result.iterrows():
        run = table[(table["seed"] == s) & (table["fold"] == f)]
        if labels == "policy":
            run = run[run["kept"] == 1]
        truth, answer = run[f"label_{labels}"], run["prediction"]
        assert row["accuracy"] == pytest.approx(sk.accuracy_score(truth, answer))
        assert row["f1"] == pytest.approx(sk.f1_score(truth, answer, pos_label="pos", zero_division=0))
        assert row["precision"] == pytest.approx(sk.precision_score(truth, answer, pos_label="pos", zero_division=0))
        assert row["recall"] == pytest.approx(sk.recall_score(truth, answer, pos_label="pos", zero_division=0))
        assert row["brier"] == pytest.approx(sk.brier_score_loss(truth == "pos", run["probability"]))
        if truth.nunique() == 2:
            assert row["auroc"] == pytest.approx(sk.roc_auc_score(truth == "pos", run["probability"]))


@pytest.mark.filterwarnings("error")
def test_a_fold_of_one_class_is_scored() -> None:
    table = predictions()
    table.loc[table["fold"] == 0, ["label_policy", "label_original"]] = "neg"
    result = run_scores(table, "pos", "policy")
    assert result["auroc"].isna().tolist() == [True, False, False] * 2
    assert not result["accuracy"].isna().any()
    assert not math.isnan(aggregate(result, "released")["auroc"][0])


def test_corrected_test_is_the_closed_form() -> None:
    differences = np.random.default_rng(0).normal(0.02, 0.03, 12)
    test = corrected_paired_test(differences, folds=3)
    s = differences.std(ddof=1)
    # Twelve runs of three folds: the standard error is 0.764 s, the interval ± 1.68 s.
    assert (test.high - test.low) / 2 / s == pytest.approx(1.68, abs=0.005)
    t = differences.mean() / (math.sqrt(1 / 12 + 1 / 2) * s)
    assert test.p == pytest.approx(2 * stats.t.sf(abs(t), 11))
    assert (test.low + test.high) / 2 == pytest.approx(test.difference) == pytest.approx(differences.mean())
    # Two folds, two runs, by hand: 1 degree of freedom, p = 1 - 2 atan(t) / pi.
    t = 2.0 / math.sqrt((1 / 2 + 1) * 2.0)
    assert corrected_paired_test(np.array([1.0, 3.0]), folds=2).p == pytest.approx(1 - 2 * math.atan(t) / math.pi)


def test_corrected_test_holds_its_level_where_the_naive_one_does_not() -> None:
    """Repeated cross-validation shares test patients between seeds; draw such differences under the null."""
    draw = np.random.default_rng(0)
    worlds, corrected, naive = 400, 0, 0
    for _ in range(worlds):
        # What a world's patients favour is common to all its runs; only the rest averages out.
        runs = draw.normal(0, 1, 1) * 0.65 + draw.normal(0, 1, 12)
        corrected += corrected_paired_test(runs, 3).p < 0.05
        naive += stats.ttest_1samp(runs, 0).pvalue < 0.05
    assert corrected / worlds < 0.08
    assert naive / worlds > 0.3


def test_the_luck_of_backbones_widens_the_interval_by_the_analysis_of_variance() -> None:
    # Three backbones of four runs; means 1, 2, 6 and the deviations below within each.
    within = np.array([-1.0, 1.0, -1.0, 1.0])
    differences = np.concatenate([mean + within for mean in (1.0, 2.0, 6.0)])
    starts = np.repeat([0, 1, 2], 4)
    between_squares, within_squares = 4 * (4 + 1 + 9) / 2, 12 / 9
    variance = (between_squares - within_squares) / 4
    common, own = (1 / 12 + 1 / 2) * differences.var(ddof=1), variance * (1 / 3 - 1 / 12)
    freedom = (common + own) ** 2 / (common**2 / 11 + own**2 / 2)
    test = corrected_paired_test(differences, 3, starts)
    t = 3.0 / math.sqrt(common + own)
    assert test.p == pytest.approx(2 * stats.t.sf(t, freedom))
    assert test.high - 3.0 == pytest.approx(stats.t.ppf(0.975, freedom) * math.sqrt(common + own))
    # Backbones that differ no more than their runs do change nothing, nor does a single one.
    alike = np.tile([1.0, 2.0, 3.0], 4)
    assert corrected_paired_test(alike, 3, starts) == corrected_paired_test(alike, 3)
    assert corrected_paired_test(differences, 3, np.zeros(12)) == corrected_paired_test(differences, 3)


def test_with_lucky_backbones_the_test_holds_its_level_only_if_it_knows_them() -> None:
    draw = np.random.default_rng(0)
    worlds, starts = 400, np.arange(12) // 3 % 3
    knowing = unknowing = 0
    for _ in range(worlds):
        runs = draw.normal(0, 2, 3)[starts] + draw.normal(0, 1, 12)
        knowing += corrected_paired_test(runs, 3, starts).p < 0.05
        unknowing += corrected_paired_test(runs, 3).p < 0.05
    assert knowing / worlds < 0.07
    assert unknowing > 1.5 * knowing


def test_patient_interval() -> None:
    draw = np.random.default_rng(2)
    patients = np.arange(150).repeat(4)
    # Views of a patient share their probability and outcome, so that patients, not views, are the sample.
    probability = draw.random(150).repeat(4)
    truth = draw.random(150).repeat(4) < 0.5
    low, high = patient_interval(lambda p, t: float(t.mean()), probability, truth, patients)
    margin = 1.96 * truth.std() / math.sqrt(150)
    assert (low, high) == pytest.approx((truth.mean() - margin, truth.mean() + margin), abs=0.015)
    shuffled = draw.permutation(600)
    order = probability[shuffled], truth[shuffled], patients[shuffled]
    assert patient_interval(brier, *order) == pytest.approx(patient_interval(brier, probability, truth, patients))
    assert patient_interval(brier, truth.astype(float), truth, patients) == (0, 0)


def test_degenerate_differences() -> None:
    assert corrected_paired_test(np.zeros(6), 3).p == 1
    assert corrected_paired_test(np.full(6, 0.25), 3).p == 0
    single = corrected_paired_test(np.array([0.1]), 3)
    assert single.difference == pytest.approx(0.1)
    assert math.isnan(single.p)


def test_holm_by_hand() -> None:
    nan = math.nan
    result = holm(np.array([0.01, nan, 0.04, 0.03, 0.005]))
    # Sorted 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, made monotone.
    np.testing.assert_allclose(result, [0.03, nan, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.9, 0.8])), [1, 1])
    assert holm(np.array([nan])).tolist() == pytest.approx([nan], nan_ok=True)


def test_patient_bootstrap() -> None:
    draw = np.random.default_rng(1)
    views = np.full((200, 2), 4)
    correct = 4 * (draw.random((200, 1)) < 0.8).repeat(2, axis=1)
    low, high = patient_bootstrap(correct, views)
    mean = correct.sum() / views.sum()
    # All views of a patient agree, so that patients, not views, are the sample.
    margin = 1.96 * math.sqrt(mean * (1 - mean) / 200)
    assert (low, high) == pytest.approx((mean - margin, mean + margin), abs=0.01)
    assert patient_bootstrap(correct, views) == (low, high)
    assert patient_bootstrap(views, views) == (1, 1)
    # Patients whose views are all dropped carry no weight.
    empty = np.zeros((50, 2), np.int64)
    padded = patient_bootstrap(np.concatenate([views, empty]), np.concatenate([views, empty]))
    assert padded == (1, 1)


def test_predictions_that_cannot_be_compared_are_refused() -> None:
    table = predictions()
    check_predictions({"a": table, "b": table.sample(frac=1, random_state=0)}, CLASSES)
    with pytest.raises(UserError, match="b and a were not predicted on the same views"):
        check_predictions({"a": table, "b": table[table["seed"] == 0]}, CLASSES)
    with pytest.raises(UserError, match="b and a were not predicted"):
        check_predictions({"a": table, "b": table.assign(fold=(table["fold"] + 1) % 3)}, CLASSES)
    with pytest.raises(UserError, match="predicted twice by seed 0"):
        check_predictions({"a": pd.concat([table, table[:1]])}, CLASSES)
    with pytest.raises(UserError, match="holds 'neg'; the classes are no and yes"):
        check_predictions({"a": table}, ["no", "yes"])
    with pytest.raises(UserError, match="lack the columns kept"):
        check_predictions({"a": table.drop(columns="kept")}, CLASSES)
    with pytest.raises(UserError, match="diverged"):
        check_predictions({"a": table.assign(probability=np.nan)}, CLASSES)
