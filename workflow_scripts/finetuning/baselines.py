"""Baselines without a network: the commonest class, and texture statistics with a linear classifier."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# Local binary patterns: (neighbours, radius in pixels) of two scales.
_PATTERNS = ((8, 1), (16, 2))
# Grey-level co-occurrence: distances in pixels, four directions, grey levels.
_DISTANCES = (1, 2, 4)
_ANGLES = (0.0, math.pi / 4, math.pi / 2, 3 * math.pi / 4)
_LEVELS = 32
_PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")


def texture_features(view: np.ndarray) -> np.ndarray:
    """Texture statistics of one uint8 view (H, W): float64 (43,).

    Histograms of uniform local binary patterns (Ojala et al. 2002) at two scales, and Haralick's co-occurrence
    properties at three distances, averaged over four directions.
    """
    import numpy as np
    from skimage.feature import graycomatrix, graycoprops, local_binary_pattern

    parts = []
    for neighbours, radius in _PATTERNS:
        codes = local_binary_pattern(view, neighbours, radius, method="uniform").astype(np.int64)
        # Neighbours beyond the rim count as black; their codes would not describe texture.
        codes = codes[radius:-radius, radius:-radius]
        parts.append(np.bincount(codes.ravel(), minlength=neighbours + 2) / codes.size)
    levels = (view.astype(np.uint16) * _LEVELS // 256).astype(np.uint8)
    matrices = graycomatrix(levels, _DISTANCES, _ANGLES, levels=_LEVELS, symmetric=True, normed=True)
    parts += [graycoprops(matrices, name).mean(axis=1) for name in _PROPERTIES]
    return np.concatenate(parts)


def majority_probability(train_truth: np.ndarray, test_count: int) -> np.ndarray:
    """The training part's prevalence of the positive class, for every test view: float64 (test_count,)."""
    import numpy as np

    return np.full(test_count, float(np.mean(train_truth)))


def linear_probability(train: np.ndarray, train_truth: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Probability of the positive class from standardised features and class-balanced logistic regression.

    `train` (N, D) and `test` (M, D) are features, `train_truth` bool (N,). Where the training part has one class only,
    the answer is that class. Returns float64 (M,).
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(train_truth)) < 2:
        return majority_probability(train_truth, len(test))
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000))
    return model.fit(train, train_truth).predict_proba(test)[:, 1]
