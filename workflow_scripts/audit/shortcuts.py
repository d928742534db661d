"""Shortcuts: can the label be told from what is no tissue?

What is known of a view apart from its anatomy becomes a few numbers, in four kinds: the size of its box, where it comes from
(device, scanner, centre), its exposure, and what the scanner has written over it. A linear classifier is tested on them
by patient, with the labels of the patients permuted for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workflow_scripts.core.statistics import drawn_auroc, times_drawn, with_interval
from workflow_scripts.study.config.names import GROUPS

if TYPE_CHECKING:
    import pandas as pd

FOLDS = 5
PERMUTATIONS = 1999
SEED = 0
# Columns of the measured features of a view (audit/view_features.py).
EXPOSURE, OVERLAY = ("brightness", "black", "contrast", "sharpness"), ("inside", "rim")
MARKERS = ("circle", "plus")
# What is tested: each kind alone, and together.
KINDS = {
    "size": "size and aspect of the frame",
    "source": "device, scanner and centre",
    "exposure": "brightness, contrast and sharpness",
    "overlay": "callipers and text",
}
TESTS = {
    **{kind: (kind,) for kind in KINDS},
    "size_source": ("size", "source"),
    "all": tuple(KINDS),
}
TITLES = {**KINDS, "size_source": "size, aspect and source", "all": "all of them"}


@dataclass(frozen=True)
class Finding:
    """One test: whether the label of a patient can be told from one or several kinds of features.

    `auroc` with its 95 % interval over patients; `p` by permutation, and `p_corrected` for all tests together. All are NaN
    and `features` is 0 where nothing is to be tested: where the features, or the labels, are the same for all patients.
    """

    test: str
    features: int
    auroc: float
    low: float
    high: float
    p: float
    p_corrected: float


def patient_features(measured: pd.DataFrame, index: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The features of each patient by kind, means over the views, in the order of the patients' ids.

    `measured` by `measure_views` (audit.view_features), and the `index` of these views. Features that are the same everywhere
    are left out.
    """
    import pandas as pd

    sources = [pd.get_dummies(index[name], prefix=name, dtype=float) for name in GROUPS if name in index]
    height, width = np.log(index[["height", "width"]].to_numpy(np.float64)).T
    sizes = np.stack([height, width, height - width], axis=1)
    # Squares as well: the largest and the smallest frames may have one label.
    squares = (sizes - np.median(sizes, axis=0)) ** 2
    tables = {
        "size": pd.DataFrame(np.concatenate([sizes, squares], axis=1)),
        "source": pd.concat(sources, axis=1) if sources else pd.DataFrame(index=index.index),
        "exposure": measured[list(EXPOSURE)],
        "overlay": measured[[*OVERLAY, *MARKERS]].assign(coloured=index["coloured"].to_numpy()),
    }
    by_patient = {kind: table.groupby(index["patient_id"].to_numpy()).mean() for kind, table in tables.items()}
    return {kind: table.loc[:, np.ptp(table.to_numpy(), axis=0) > 1e-9] for kind, table in by_patient.items()}


def find_shortcuts(
    features: dict[str, pd.DataFrame], truth: np.ndarray, permutations: int = PERMUTATIONS, seed: int = SEED
) -> list[Finding]:
    """Each of `TESTS` on P patients: `features` as `patient_features` gave them, `truth` bool (P,).

    Ridge regression on the standardised features predicts the patients of each of five folds, which do not depend on the
    labels; so the permuted labels have the distribution of the true ones if there is no shortcut. The corrected p value
    compares with the largest AUROC of all tests under each permutation (Westfall and Young 1993), so that with no shortcut
    the chance of any corrected p of 0.05 or less is 5 %. The intervals redraw the patients as many times.
    """
    draw = np.random.default_rng(seed)
    labels = np.stack([truth, *(draw.permutation(truth) for _ in range(permutations))], axis=1)
    fold = draw.permutation(len(truth)) % min(FOLDS, len(truth))
    tested, scores, found = [], [], []
    for test, kinds in TESTS.items():
        columns = np.concatenate([features[kind].to_numpy(np.float64) for kind in kinds], axis=1)
        # A test of several kinds of which only one varies would repeat that one's.
        if (
            truth.all()
            or not truth.any()
            or not columns.shape[1]
            or (len(kinds) > 1 and sum(features[kind].shape[1] > 0 for kind in kinds) < 2)
        ):
            continue
        tested.append((test, columns.shape[1]))
        scores.append(out_of_fold(columns, labels, fold))
        found.append(aurocs(scores[-1], labels))
    largest = np.max(found, axis=0) if found else np.zeros(0)
    times = times_drawn(len(truth), permutations)
    results = {}
    for (test, count), score, values in zip(tested, scores, found, strict=True):
        p, corrected = ((1 + (null[1:] >= values[0]).sum()) / (1 + permutations) for null in (values, largest))
        auroc, low, high = with_interval("auroc", drawn_auroc(score[:, 0], truth, times)).values()
        results[test] = Finding(test, count, auroc, low, high, p, corrected)
    nan = float("nan")
    return [results.get(test, Finding(test, 0, nan, nan, nan, nan, nan)) for test in TESTS]


def out_of_fold(columns: np.ndarray, labels: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Scores (P, L) of each of L labellings from features (P, D), each patient by a model of the other folds."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    targets = labels.astype(np.float64)
    scores = np.empty_like(targets)
    for part in np.unique(fold):
        train, test = fold != part, fold == part
        model = make_pipeline(StandardScaler(), Ridge()).fit(columns[train], targets[train])
        # Without the share of positives in training, which is the lower the more of them are tested.
        scores[test] = model.predict(columns[test]).reshape(test.sum(), -1) - targets[train].mean(axis=0)
    return scores


def aurocs(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each column, (L,): `scores` (P, L), `labels` bool (P, L), as many positives in each."""
    from scipy.stats import rankdata

    positives = labels.sum(axis=0)
    ranks = (rankdata(scores, axis=0) * labels).sum(axis=0)
    return (ranks - positives * (positives + 1) / 2) / (positives * (len(labels) - positives))
