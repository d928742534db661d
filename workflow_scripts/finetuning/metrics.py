"""Classification metrics of one run (paper, Sec. 4.3). All are shares, in [0, 1] but for MCC in [-1, 1]."""

from __future__ import annotations

import numpy as np

from workflow_scripts.finetuning.calibration import brier, expected_calibration_error

METRICS = ("accuracy", "f1", "precision", "recall", "auroc", "auprc", "balanced_accuracy", "mcc", "ece", "brier")


def scores(truth: np.ndarray, decision: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Metrics of one run on its test views.

    `truth` and `decision` are bool (N,), True where the class is positive; `probability` is float (N,), the positive
    class's. Precision, recall and F1 are those of the positive class and 0 where their denominator is 0; so is MCC.
    ECE (expected calibration error, ten equally wide bins) and Brier score are errors: the smaller, the better. Few views
    make ECE larger, so a run's is above that of all runs pooled.
    What cannot be measured is NaN: everything without views, AUROC and balanced accuracy where a class is absent, AUPRC
    (average precision) without positives.
    """
    from sklearn.metrics import (
        accuracy_score,
        average_precision_score,
        balanced_accuracy_score,
        matthews_corrcoef,
        precision_recall_fscore_support,
        roc_auc_score,
    )

    truth, decision = np.asarray(truth, bool), np.asarray(decision, bool)
    values = dict.fromkeys(METRICS, float("nan"))
    if not len(truth):
        return values
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, decision, average="binary", pos_label=True, zero_division=0
    )
    values.update(accuracy=accuracy_score(truth, decision), precision=precision, recall=recall, f1=f1)
    values.update(ece=expected_calibration_error(probability, truth), brier=brier(probability, truth))
    # scikit-learn warns about one lone label; MCC is 0 then by its own definition.
    both = len(np.unique(truth)) == 2
    values["mcc"] = matthews_corrcoef(truth, decision) if both else 0.0
    if truth.any():
        values["auprc"] = average_precision_score(truth, probability)
    if both:
        values["auroc"] = roc_auc_score(truth, probability)
        values["balanced_accuracy"] = balanced_accuracy_score(truth, decision)
    return {name: float(value) for name, value in values.items()}
