"""k-NN geometry against float64 brute force, and against reference values."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.shared import SHARED, needs_golden
from workflow_scripts.core.errors import UserError
from workflow_scripts.synthesis.neighbours import Tiling, inside, membership, nearest, nearest_others, radii
from workflow_scripts.synthesis.products import tiling_on


def brute_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(a[:, None].astype(np.float64) - b[None]).sum(axis=2))


def brute_radii(real: np.ndarray, k: int) -> np.ndarray:
    distances = brute_distances(real, real)
    np.fill_diagonal(distances, np.inf)
    return np.sort(distances, axis=1)[:, k - 1]


def cloud(seed: int, count: int, width: int, offset: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, width)) + offset).astype(np.float32)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10_000), count=st.integers(3, 40), width=st.integers(1, 20),
    offset=st.sampled_from([0.0, 30.0, 3000.0]), scale=st.sampled_from([1e-12, 1.0, 1e15]),
    rows=st.integers(1, 50), columns=st.integers(1, 50), copies=st.integers(0, 5), data=st.data(),
)  # fmt: skip
def test_answers_are_those_of_float64_brute_force(
    seed: int,
    count: int,
    width: int,
    offset: float,
    scale: float,
    rows: int,
    columns: int,
    copies: int,
    data: st.DataObject,
) -> None:
    real = cloud(seed, count, width, offset) * np.float32(scale)
    real[: min(copies, count)] = real[0]
    # Points on real features, and beside them: decisions at the rim.
    points = np.concatenate(
        [cloud(seed + 1, 7, width, offset) * np.float32(scale), real[:5], real[:5] * np.float32(1 + 1e-7)]
    )
    k, tiling = data.draw(st.integers(1, count - 1)), Tiling(rows, columns)
    radius = radii(real, k, tiling)
    np.testing.assert_allclose(radius, brute_radii(real, k), rtol=1e-12)
    distances = brute_distances(points, real)
    result = membership(real, radius, points, tiling)
    np.testing.assert_array_equal(result.balls, (distances <= radius).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = distances / radius
    ratio[distances == 0] = 0
    np.testing.assert_allclose(result.ratio, ratio.min(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(result.ratio <= 1, result.inside)
    found, chosen = nearest(points, real, k, tiling)
    np.testing.assert_allclose(found, np.sort(distances, axis=1)[:, :k], rtol=1e-12)
    np.testing.assert_array_equal(np.take_along_axis(distances, chosen, axis=1), found)


def test_float32_alone_would_be_wrong() -> None:
    """A rim far from the origin, where float32 products lose every digit that matters."""
    real = cloud(0, 200, 64, offset=1000)
    points = cloud(1, 500, 64, offset=1000)
    distances = brute_distances(points, real)
    radius = np.sort(distances, axis=0)[20]  # each ball's rim runs exactly through a point
    result = membership(real, radius, points)
    np.testing.assert_array_equal(result.balls, (distances <= radius).sum(axis=1))


def test_products_of_a_torch_device_give_the_same_answers() -> None:
    real, points, torch_products = (
        cloud(0, 300, 64, offset=100),
        cloud(1, 500, 64, offset=100),
        tiling_on(torch.device("cpu")),
    )
    radius = radii(real, 5)
    np.testing.assert_array_equal(radii(real, 5, torch_products), radius)
    plain, other = membership(real, radius, points), membership(real, radius, points, torch_products)
    np.testing.assert_array_equal(other.balls, plain.balls)
    np.testing.assert_array_equal(other.ratio, plain.ratio)
    for one, another in zip(nearest(points, real, 3), nearest(points, real, 3, torch_products), strict=True):
        np.testing.assert_array_equal(another, one)


def test_duplicates_have_radius_zero_and_hold_their_own_kind() -> None:
    real = np.concatenate([np.repeat(cloud(0, 1, 8), 4, axis=0), cloud(1, 10, 8)])
    radius = radii(real, 3)
    assert (radius[:4] == 0).all()
    assert (radius[4:] > 0).all()
    kept, ratio = inside(real[:4], radius[:4], np.stack([real[0], real[5]]))
    assert list(kept) == [True, False]
    assert list(ratio) == [0.0, np.inf]


def test_a_collapsed_set_is_cheap() -> None:
    collapsed = np.repeat(cloud(0, 1, 256), 6000, axis=0)
    collapsed[-3:] += 1
    distances = nearest_others(collapsed, 3)
    assert not distances[:-3].any()
    np.testing.assert_array_equal(distances[-3:, :2], 0)
    assert (distances[-3:, 2] > 0).all()


def test_of_equally_distant_rows_the_first_comes_first() -> None:
    reference = np.array([[1], [-1], [1], [3]], dtype=np.float32)
    distances, rows = nearest(np.zeros((1, 1), dtype=np.float32), reference, 3)
    assert rows.tolist() == [[0, 1, 2]]
    assert distances.tolist() == [[1, 1, 1]]


@needs_golden
def test_parity_with_scikit_learn_in_float64() -> None:
    golden = np.load(SHARED / "golden" / "manifold.npz")
    radius = radii(golden["real"], int(golden["k"]))
    np.testing.assert_allclose(radius, golden["radii64"], rtol=1e-6)
    kept, ratio = inside(golden["real"], radius, golden["fake"])
    np.testing.assert_array_equal(kept, golden["inside64"])
    np.testing.assert_array_equal(ratio <= 1, kept)
    assert (golden["inside_tf_fp16"] != kept).sum() == 2  # what the authors' float16 made of it


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(6, 60), width=st.integers(1, 12), move=st.floats(-100, 100))
def test_geometry_knows_neither_order_nor_origin_and_grows_with_k(
    seed: int, count: int, width: int, move: float
) -> None:
    generator = np.random.default_rng(seed)
    # Sixteenths: moving them by a sixteenth's multiple rounds nothing, so that decisions at rims are the same ones.
    real, points = (np.round(16 * generator.standard_normal((count, width))) / 16 for _ in range(2))
    order, other = generator.permutation(count), generator.permutation(count)
    offset = round(16 * move) / 16
    kept = [inside(real, radii(real, k), points)[0] for k in (1, 3, 5)]
    assert (kept[0] <= kept[1]).all()
    assert (kept[1] <= kept[2]).all()
    shuffled = inside(real[order] + offset, radii(real[order] + offset, 3), points[other] + offset)[0]
    np.testing.assert_array_equal(shuffled, kept[1][other])
    assert inside(real, radii(real, 1), real)[0].all()


@pytest.mark.parametrize("k", [5, 6, 0])
def test_k_must_be_smaller_than_the_set(k: int) -> None:
    with pytest.raises(UserError, match=r"5"):
        radii(cloud(0, 5, 3), k)


def test_sets_that_do_not_fit_are_refused_with_numbers() -> None:
    good = cloud(0, 5, 3)
    with pytest.raises(UserError, match=r"points 3, reference 4"):
        nearest(good, cloud(0, 5, 4), 1)
    with pytest.raises(UserError, match=r"6 nearest .* 5 views"):
        nearest(good, good, 6)
    bad = good.copy()
    bad[2, 1] = np.nan
    with pytest.raises(UserError, match=r"1 of 5 rows .* row 2"):
        radii(bad, 1)
    with pytest.raises(UserError, match="shape"):
        membership(good, np.ones(4), good)
    with pytest.raises(UserError, match="at least one view"):
        nearest(good[:0], good, 1)
