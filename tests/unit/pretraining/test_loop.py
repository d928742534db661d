"""The training loop of pretraining and its entry point: losses, mixes, resumption, artefacts, mistakes."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.shared import replace, start_run
from tests.textures import textures
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import write_csv, write_npy
from workflow_scripts.networks.backbone import create_backbone, load_initialisation
from workflow_scripts.networks.contrastive import Encoder
from workflow_scripts.pretraining import loop as pretraining
from workflow_scripts.pretraining import pretrain as stage
from workflow_scripts.pretraining.augmentation import NOTHING, augment_pairs, pair_draws
from workflow_scripts.pretraining.contrastive_step import total_loss
from workflow_scripts.pretraining.loop import make_encoder, pretrain
from workflow_scripts.pretraining.mix import ViewUnion, batch_indices, epoch_indices
from workflow_scripts.runtime.cli import run
from workflow_scripts.runtime.work import Clock, Interrupted
from workflow_scripts.study.config.pretraining import PretrainingRecipe

TINY = replace(
    PretrainingRecipe(),
    steps=7, batch_size=8, projection=(32, 16), lr=0.2, checkpoint_every=3,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def mix(first: int = 12, second: int = 8, size: int = 16) -> ViewUnion:
    """Two stores, the second of another organ; 20 views make two batches of 8 an epoch."""
    stores = [textures(first, size, seed=1), textures(second, size, seed=2, coarse=True)][: 1 + (second > 0)]
    return ViewUnion(
        stores, [np.arange(len(s)) for s in stores], [np.full(len(s), organ) for organ, s in enumerate(stores)]
    )


class StopAfter(Clock):
    """A clock that is over when it has been asked `steps` times."""

    def __init__(self, steps: float) -> None:
        self.steps = steps

    def is_over(self) -> bool:
        self.steps -= 1
        return self.steps <= 0


NEVER = math.inf


def trained(
    folder: Path, views: ViewUnion, recipe: PretrainingRecipe, stop_after: float = NEVER
) -> tuple[Encoder, list[dict[str, Any]]]:
    """The encoder after (a part of) a run in `folder`, and the metrics without the one that tells the time."""
    backbone = create_backbone("test_resnet")
    load_initialisation(backbone, "scratch", None, recipe.seed)
    encoder = make_encoder(backbone, 2, views, recipe)
    run = start_run(folder)
    run.clock = StopAfter(stop_after)
    pretrain(encoder, views, recipe, run)
    rows = [json.loads(line) for line in run.work.metrics_file().read_text().splitlines()]
    return encoder, [{key: value for key, value in row.items() if key != "images_per_s"} for row in rows]


def assert_same(one: Encoder, other: Encoder) -> None:
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    for key in left:
        assert torch.equal(left[key], right[key]), key


def test_loss_falls_well_below_chance(tmp_path: Path) -> None:
    recipe = replace(TINY, steps=60, batch_size=64, projection=(128, 64), lr=0.6, checkpoint_every=100)
    views = mix(64, 64, size=32)
    _, rows = trained(tmp_path / "run", views, recipe)
    assert [row["step"] for row in rows] == [1, 6, 10, 12, 18, 20, 24, 30, 36, 40, 42, 48, 50, 54, 60]
    assert [row["step"] for row in rows if "knn_organ" in row] == list(range(6, 61, 6))
    assert rows[-1]["knn_organ"] > 0.9
    # Chance is log(2N - 1) = 4.84; views that cannot be told apart stay there.
    assert rows[-1]["loss_con"] < math.log(2 * 64 - 1) - 0.5
    assert rows[-1]["loss_con"] < rows[0]["loss_con"] - 0.4
    assert rows[-1]["loss_sup"] < 0.45 < 0.6 < rows[0]["loss_sup"]
    for row in rows:
        assert row["loss"] == pytest.approx(row["loss_con"] + 0.2 * row["loss_sup"], rel=1e-6)
        assert -8 <= row["uniformity"] <= 0 <= row["alignment"] <= 4


def test_shuffled_pairs_are_not_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: where the second view shows another image, the loss stays at chance or above."""
    augment_pairs = pretraining.augment_pairs

    def strangers(*arguments: Any) -> torch.Tensor:
        first, second = augment_pairs(*arguments)
        return torch.stack([first, second.roll(1, dims=0)])

    monkeypatch.setattr(pretraining, "augment_pairs", strangers)
    recipe = replace(TINY, steps=30, batch_size=32, projection=(128, 64), lr=0.4, organ_weight=0)
    _, rows = trained(tmp_path / "run", mix(64, 0, size=32), recipe)
    assert rows[-1]["loss_con"] > math.log(2 * 32 - 1) - 0.2


@pytest.mark.parametrize("optimiser", ["lars", "released"])
@pytest.mark.parametrize("stops", [[1], [2], [3], [4, 1], [1, 1, 1, 1, 1, 1]])
def test_interrupted_and_resumed_equals_undisturbed(tmp_path: Path, optimiser: str, stops: list[int]) -> None:
    """Two batches make an epoch, so stops at 2 and 4 are ends of epochs, the others are within one."""
    recipe = replace(TINY, optimiser=optimiser, lr=0.2 if optimiser == "lars" else 1e-3)
    whole, rows = trained(tmp_path / "whole", mix(), recipe)
    for stop in stops:
        with pytest.raises(Interrupted):
            trained(tmp_path / "parts", mix(), recipe, stop)
    parts, rows_in_parts = trained(tmp_path / "parts", mix(), recipe)
    assert_same(whole, parts)
    assert rows_in_parts == rows


@pytest.mark.parametrize("killed_at", [2, 3, 4, 5, 6])
def test_killed_without_warning_and_resumed_equals_undisturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    """A kill between checkpoints (every 3 steps) falls back to the last one; metrics of the lost steps come once."""
    monkeypatch.setattr(pretraining, "METRICS_EVERY", 1)
    whole, rows = trained(tmp_path / "whole", mix(), TINY)
    learning_rate = pretraining.learning_rate

    def killed(step: int, *others: Any) -> float:
        if step == killed_at:
            raise KeyboardInterrupt
        return learning_rate(step, *others)

    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "learning_rate", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "parts", mix(), TINY)
    parts, rows_in_parts = trained(tmp_path / "parts", mix(), TINY)
    assert_same(whole, parts)
    assert rows_in_parts == rows


def test_a_finished_run_that_was_not_closed_is_not_trained_again(tmp_path: Path) -> None:
    first, rows = trained(tmp_path / "run", mix(), TINY)
    again, rows_again = trained(tmp_path / "run", mix(), TINY, stop_after=1)
    assert_same(first, again)
    assert rows_again == rows


def test_seed_changes_everything(tmp_path: Path) -> None:
    one, _ = trained(tmp_path / "one", mix(), TINY)
    other, _ = trained(tmp_path / "other", mix(), replace(TINY, seed=1))
    differ = [not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)]
    assert all(differ)


def test_epochs_visit_every_view_once_but_for_the_last_odd_batch() -> None:
    views = mix(12, 11)
    epochs = [np.concatenate([batch_indices(views, 5, 7, 3 * epoch + i) for i in range(3)]) for epoch in range(2)]
    for order in epochs:
        assert len(order) == len(set(order.tolist())) == 21
        assert order.min() >= 0
        assert order.max() < 23
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0], np.concatenate([batch_indices(views, 6, 7, i) for i in range(3)]))
    visited = {int(i) for epoch in range(30) for step in range(3) for i in batch_indices(views, 5, 7, 3 * epoch + step)}
    assert visited == set(range(23)), "the dropped views change from epoch to epoch"
    assert sorted(batch_indices(mix(2, 2), 0, 4, 9)) == [0, 1, 2, 3]


def test_a_share_of_a_set_is_drawn_without_replacement_and_afresh() -> None:
    views = ViewUnion(mix().stores, [np.arange(12), np.arange(8)], [np.zeros(12), np.ones(8)], shares=[0.25, 1])
    epochs = [epoch_indices(views, 0, epoch) for epoch in range(20)]
    for drawn in epochs:
        assert len(set(drawn.tolist())) == len(drawn) == views.epoch_size == 11
        assert np.bincount(views.sets[drawn]).tolist() == [3, 8]
    assert set(np.concatenate(epochs).tolist()) == set(range(20))
    assert not np.array_equal(*epochs[:2])


def test_union_takes_views_of_every_store_in_the_order_asked(tmp_path: Path) -> None:
    arrays = [textures(n, 8, seed=n) for n in (5, 3, 4)]
    for number, array in enumerate(arrays):
        np.save(tmp_path / f"{number}.npy", array)
    maps = [np.load(tmp_path / f"{number}.npy", mmap_mode="r") for number in range(3)]
    views = ViewUnion(
        maps, [np.array([0, 2, 4]), np.array([], int), np.arange(4)], [np.zeros(3), np.zeros(0), np.ones(4)]
    )
    assert len(views) == 7
    assert all(isinstance(store, np.memmap) for store in views.stores), "stores are never copied"
    indices = np.array([6, 0, 3, 2, 6])
    images = views.take(indices)
    expected = [arrays[2][3], arrays[0][0], arrays[2][0], arrays[0][4], arrays[2][3]]
    np.testing.assert_array_equal(images, np.stack(expected))
    assert images.dtype == np.uint8
    assert views.organs[indices].tolist() == [1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("second", "settings", "has_projection", "has_organ"),
    [
        (8, {}, True, True),
        (0, {}, True, False),
        (8, {"organ_weight": 0.0}, True, False),
        (8, {"loss_con": False, "organ_weight": 0.0}, False, True),
    ],
)
def test_heads_and_losses_follow_the_mix(
    tmp_path: Path, second: int, settings: dict[str, Any], has_projection: bool, has_organ: bool
) -> None:
    encoder, rows = trained(tmp_path / "run", mix(12, second), replace(TINY, steps=2, **settings))
    assert (encoder.projection is not None, encoder.organ is not None) == (has_projection, has_organ)
    assert (rows[-1]["loss_con"] is not None, rows[-1]["loss_sup"] is not None) == (has_projection, has_organ)


def test_total_loss_is_eq_4_or_what_is_left_of_it() -> None:
    con, sup = torch.tensor(3.0), torch.tensor(0.5)
    assert total_loss(con, sup, 0.2).item() == pytest.approx(3.1)
    assert total_loss(con, None, 0.2) is con
    assert total_loss(None, sup, 0.2) is sup


def test_one_organ_without_contrastive_loss_is_refused() -> None:
    with pytest.raises(UserError, match="same organ"):
        make_encoder(create_backbone("test_resnet"), 2, mix(12, 0), replace(TINY, loss_con=False))


def test_a_mix_smaller_than_a_batch_is_refused_with_numbers() -> None:
    with pytest.raises(UserError, match=r"20 views.*21"):
        make_encoder(create_backbone("test_resnet"), 2, mix(), replace(TINY, batch_size=21))


def test_divergence_ends_the_run_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"loss is nan at step \d+ of 7"):
        trained(tmp_path / "run", mix(), replace(TINY, optimiser="adamw", lr=1e30, warmup=0.0))
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_collapse_is_announced_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    black = ViewUnion([np.zeros((8, 16, 16), np.uint8)], [np.arange(8)], [np.zeros(8)])
    trained(tmp_path / "collapsed", black, replace(TINY, steps=20))
    assert capsys.readouterr().err.count("collapsed") == 1
    trained(tmp_path / "healthy", mix(), replace(TINY, steps=20))
    assert "collapsed" not in capsys.readouterr().err


# The entry point


def write_set(folder: Path, name: str, organ: str, patients: list[str], seed: int) -> None:
    count = len(patients)
    write_npy(textures(count, 16, seed=seed), folder / f"{name}.npy")
    ids = [f"{name}_{i}" for i in range(count)]
    index = pd.DataFrame(
        {"view_id": [f"{i}#full" for i in ids], "image_id": ids, "patient_id": patients, "organ": organ, "label": "",
         "view": "full"}
    )  # fmt: skip
    write_csv(index, folder / f"{name}.csv")


Stage = Callable[..., Path]


@pytest.fixture
def pretrain_stage(tmp_path: Path) -> Stage:
    """Run the stage on two small sets and return the folder of its outputs."""
    write_set(tmp_path, "labelled", "testicle", [f"p{i % 6}" for i in range(18)], seed=1)
    write_set(tmp_path, "thyroid", "thyroid", [f"p{i % 6 + 4}" for i in range(12)], seed=2)
    patients = [f"p{i}" for i in range(6)]
    folds = pd.DataFrame({"view_id": patients, "patient_id": patients, "fold": [0, 1, 2, 0, 1, 2]})
    write_csv(folds, tmp_path / "folds.csv")

    def start(*extra: str, sets: tuple[str, ...] = ("labelled", "thyroid")) -> Path:
        out = tmp_path / "out"
        argv = [
            "--views", *[str(tmp_path / f"{name}.npy") for name in sets],
            "--index", *[str(tmp_path / f"{name}.csv") for name in sets],
            "--organs", "testicle", "thyroid", "--backbone", "test_resnet", "--layout", "scratch",
            "--output-backbone", str(out / "backbone.safetensors"), "--output-heads", str(out / "heads.safetensors"),
            "--output-metrics", str(out / "metrics.jsonl"), "--output-parameters", str(out / "parameters.json"),
            "--output-sheet", str(out / "sheet.npy"),
            "--work-dir", str(tmp_path / "work"), "--device", "cpu", "--time-limit", "0",
            "--steps", "4", "--batch-size", "8", "--projection", "32", "16", "--lr", "0.2", *extra,
        ]  # fmt: skip
        run(stage.main, stage.parser(), argv)
        return out

    return start


def test_stage_writes_a_backbone_that_timm_loads_and_says_how_it_was_made(
    pretrain_stage: Stage, tmp_path: Path
) -> None:
    out = pretrain_stage()
    backbone = timm.create_model("test_resnet", num_classes=0)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    weights = load_file(out / "backbone.safetensors")
    backbone.load_state_dict(weights, strict=True)
    assert any(not torch.equal(before[name], value) for name, value in weights.items())
    assert set(load_file(out / "heads.safetensors")) == {
        f"{layer}.{part}" for layer in ("projection.0", "projection.2", "organ") for part in ("weight", "bias")
    }

    parameters = json.loads((out / "parameters.json").read_text())
    for file in ("backbone.safetensors", "heads.safetensors"):
        with safe_open(out / file, "pt") as opened:
            assert json.loads(opened.metadata()["parameters"]) == parameters
    assert parameters["views"] == 30
    assert np.load(out / "sheet.npy").shape == (8, 7, 16, 16)
    assert [(entry["name"], entry["views"], entry["left_out"]) for entry in parameters["sets"]] == [
        ("labelled", 18, 0), ("thyroid", 12, 0),
    ]  # fmt: skip
    assert parameters["settings"]["steps"] == 4
    assert parameters["settings"]["augmentation"]["rotation"] == 30
    assert parameters["versions"]["torch"] == torch.__version__
    assert str(tmp_path) not in json.dumps(parameters), "an artefact does not depend on where it was made"
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert not (tmp_path / "work").exists()


def test_stage_is_reproducible_and_depends_on_its_inputs(pretrain_stage: Stage, tmp_path: Path) -> None:
    def backbone(*extra: str) -> bytes:
        return (pretrain_stage(*extra) / "backbone.safetensors").read_bytes()

    first = backbone()
    assert backbone() == first
    assert backbone("--seed", "1") != first
    write_set(tmp_path, "thyroid", "thyroid", [f"p{i % 6 + 4}" for i in range(12)], seed=3)
    assert backbone() != first


def test_stage_leaves_out_every_view_of_a_folds_patients(
    pretrain_stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ViewUnion] = []

    def spy(encoder: Encoder, views: ViewUnion, *others: Any) -> None:
        seen.append(views)
        pretrain(encoder, views, *others)

    monkeypatch.setattr(pretraining, "pretrain", spy)
    out = pretrain_stage("--folds", str(tmp_path / "folds.csv"), "--exclude-fold", "1")
    parameters = json.loads((out / "parameters.json").read_text())
    # Fold 1 is p1 and p4: six labelled views and the two thyroid views of p4.
    assert [(entry["views"], entry["left_out"]) for entry in parameters["sets"]] == [(12, 6), (10, 2)]
    assert parameters["exclude_fold"] == 1
    for number, name in enumerate(["labelled", "thyroid"]):
        patients = pd.read_csv(tmp_path / f"{name}.csv")["patient_id"]
        rows = seen[0].rows[seen[0].sets == number]
        assert set(patients[rows]) == set(patients) - {"p1", "p4"}


def test_stage_continues_an_interrupted_run(
    pretrain_stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (pretrain_stage() / "backbone.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Clock, "is_over", lambda _: True)
        with pytest.raises(SystemExit):
            pretrain_stage()
    assert "step 1 of 4 (pretraining)" in capsys.readouterr().err
    assert (pretrain_stage() / "backbone.safetensors").read_bytes() == whole
    assert "continuing" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["settings", "fold", "images", "index", "code"])
def test_stage_never_continues_another_run(
    pretrain_stage: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: str,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Clock, "is_over", lambda _: True)
        with pytest.raises(SystemExit):
            pretrain_stage()
    extra: list[str] = []
    if change == "settings":
        extra = ["--temperature", "0.4"]
    elif change == "fold":
        extra = ["--folds", str(tmp_path / "folds.csv"), "--exclude-fold", "1"]
    elif change == "images":
        write_npy(textures(12, 16, seed=9), tmp_path / "thyroid.npy")
    elif change == "index":
        index = pd.read_csv(tmp_path / "thyroid.csv", dtype=str, keep_default_na=False)
        write_csv(index.assign(organ="testicle"), tmp_path / "thyroid.csv")
    else:
        extra = ["--code-version", "changed"]
    pretrain_stage(*extra)
    assert "starting afresh" in capsys.readouterr().err


def test_stage_with_one_organ_has_no_organ_head(pretrain_stage: Stage) -> None:
    heads = load_file(pretrain_stage(sets=("labelled",)) / "heads.safetensors")
    assert not any(name.startswith("organ") for name in heads)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--batch-size", "31"], "30 views an epoch, fewer than one batch of 31"),
        (["--exclude-fold", "1"], "--folds and --exclude-fold go together"),
        (["--set-shares", "1"], "one number above 0 and up to 1 for each of the 2 stores"),
        (["--set-shares", "1", "1.5"], "up to 1 for each of the 2"),
        (["--organs", "testicle", "liver"], "thyroid.csv, row 2: organ 'thyroid'"),
        (["--layout", "timm"], "layout timm needs a file"),
        (["--layout", "timm", "--weights", "absent.safetensors"], "weights absent.safetensors do not exist"),
        (["--views", "absent.npy", "absent.npy"], "absent.npy does not exist"),
        (["--views", "absent.npy"], "--views names 1 stores, --index 2"),
    ],
)
def test_stage_says_what_is_wrong(
    pretrain_stage: Stage, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        pretrain_stage(*extra)
    assert message in capsys.readouterr().err


def test_stage_refuses_an_empty_fold_and_a_store_without_its_rows(
    pretrain_stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        pretrain_stage("--folds", str(tmp_path / "folds.csv"), "--exclude-fold", "7")
    assert "no patient is in fold 7; it has [0, 1, 2]" in capsys.readouterr().err
    write_npy(textures(5, 16), tmp_path / "thyroid.npy")
    with pytest.raises(SystemExit):
        pretrain_stage()
    assert "different numbers of rows" in capsys.readouterr().err
    write_npy(textures(12, 8), tmp_path / "thyroid.npy")
    with pytest.raises(SystemExit):
        pretrain_stage()
    assert "holds views of 8 x 8 pixels" in capsys.readouterr().err


def test_pairs_of_a_frame_hold_its_two_views() -> None:
    # Views of one grey each, and no augmentation: what a pair is of can be read from its pixels.
    grey = np.arange(10, dtype=np.uint8)[:, None, None] * np.full((1, 16, 16), 20, np.uint8)
    frames = ["a", "b", "a", "b", "c", "d", "d", "d", "e", "f"]
    views = ViewUnion([grey], [np.arange(10)], [np.zeros(10)], frames=frames)
    assert views.partners.tolist() == [2, 3, 0, 1, 4, 6, 7, 5, 8, 9]
    indices = np.arange(10)
    pairs = augment_pairs(
        torch.from_numpy(grey),
        (NOTHING, NOTHING),
        pair_draws(0, 0, indices),
        torch.from_numpy(views.take(views.partners)),
    )
    shown = (pairs[:, :, 0, 8, 8] * 255 / 20).round().long().tolist()
    assert shown == [list(range(10)), views.partners.tolist()]


def test_a_mix_without_frames_pairs_each_view_with_itself() -> None:
    assert mix().partners.tolist() == list(range(20))
