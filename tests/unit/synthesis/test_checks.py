"""Files of features are read in one way: whole, finite, of one width, or named in one sentence."""

from pathlib import Path

import numpy as np
import pytest

from workflow_scripts.core.errors import UserError
from workflow_scripts.synthesis.checks import read_features

FEATURES = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)


def test_features_are_read_in_the_order_of_their_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", FEATURES)
    np.save(tmp_path / "b.npy", FEATURES[:2] + 1)
    first, second = read_features(tmp_path / "a.npy", tmp_path / "b.npy")
    np.testing.assert_array_equal(first, FEATURES)
    np.testing.assert_array_equal(second, FEATURES[:2] + 1)
    assert isinstance(first, np.memmap)


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (FEATURES[:0], r"b.npy: expected features .* at least one view, got shape \(0, 3\)"),
        (FEATURES.ravel(), r"b.npy: expected features .* got shape \(15,\)"),
        (FEATURES.astype(str), r"b.npy: expected features .* of <U"),
        (FEATURES.astype(complex), r"b.npy: expected features .* of complex128"),
        (np.where(FEATURES[3, 1] == FEATURES, np.nan, FEATURES), r"b.npy: 1 of 5 rows hold NaN .* the first is row 3"),
        (FEATURES[:, :2], r"a.npy 3, .*b.npy 2; all must come from the same network"),
    ],
)
def test_what_is_no_set_of_features_is_refused(tmp_path: Path, damaged: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", FEATURES)
    np.save(tmp_path / "b.npy", damaged)
    with pytest.raises(UserError, match=message):
        read_features(tmp_path / "a.npy", tmp_path / "b.npy")
