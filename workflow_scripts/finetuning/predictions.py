"""The table of predictions: its columns, the decision threshold, and checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from workflow_scripts.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

PREDICTION_COLUMNS = [
    "view_id", "patient_id", "fold", "seed", "label_original", "label_policy", "kept", "probability", "prediction",
]  # fmt: skip
# Of external views, which every network predicts: the network is that of a seed and a fold.
EXTERNAL_COLUMNS = ["view_id", "patient_id", "label", "seed", "fold", "probability"]
# Of each training: how far it moved the weights, its last losses, and the factor on its learning rates.
TRAINING_COLUMNS = ["seed", "fold", "weights_moved", "loss_before", "loss_last", "rate_factor"]
# A view is positive when its probability exceeds this: the argmax of two logits; a tie is negative.
DECISION = 0.5


def decide(probability: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Class names (N,) from probabilities of the positive (second) class in [0, 1]."""
    return np.where(np.asarray(probability) > DECISION, classes[1], classes[0])


def check_predictions(predictions: dict[str, pd.DataFrame], classes: Sequence[str]) -> None:
    """Raise `UserError` unless all experiments predict the same views once per seed, in the same folds, by known names.

    `predictions` maps an experiment to its joined table.
    """
    first_name, first_runs = "", None
    for name, table in predictions.items():
        missing = [column for column in PREDICTION_COLUMNS if column not in table.columns]
        if missing:
            raise UserError(f"{name}: its predictions lack the columns {', '.join(missing)}")
        for column in ("label_original", "label_policy", "prediction"):
            strange = sorted(set(table[column].unique()) - set(classes))
            if strange:
                raise UserError(
                    f"{name}: column {column} holds {strange[0]!r}; the classes are {' and '.join(classes)}"
                )
        if not table["probability"].between(0, 1).all():
            raise UserError(f"{name}: some probabilities are not numbers between 0 and 1; that training run diverged")
        repeated = table.duplicated(["view_id", "seed"])
        if repeated.any():
            row = table[repeated].iloc[0]
            raise UserError(f"{name}: view {row['view_id']} is predicted twice by seed {row['seed']}")
        runs = table.set_index(["view_id", "seed"])["fold"].sort_index()
        if first_runs is None:
            first_name, first_runs = name, runs
        elif not runs.equals(first_runs):
            raise UserError(
                f"{name} and {first_name} were not predicted on the same views, seeds and folds, so their rows cannot "
                f"be compared (seeds {sorted(set(table['seed']))} with {len(table)} rows, and seeds "
                f"{sorted(set(predictions[first_name]['seed']))} with {len(first_runs)} rows); rerun the older one"
            )
