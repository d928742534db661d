"""One batch on two processes, in chunks, or with activations computed twice: the same losses, gradients and weights."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.shared import REPOSITORY, replace
from tests.textures import textures
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import write_npy
from workflow_scripts.networks.backbone import create_backbone, load_initialisation, standardise
from workflow_scripts.networks.contrastive import Encoder, nt_xent, organ_loss
from workflow_scripts.pretraining import pretrain as stage
from workflow_scripts.pretraining.augmentation import augment_pairs, pair_draws, view_recipes
from workflow_scripts.pretraining.contrastive_step import check_batch, compute_gradients
from workflow_scripts.pretraining.loop import make_encoder
from workflow_scripts.pretraining.mix import ViewUnion
from workflow_scripts.pretraining.optimisers import make_optimiser
from workflow_scripts.pretraining.shared_norms import share_batch_norm
from workflow_scripts.runtime.cli import run
from workflow_scripts.runtime.processes import Processes
from workflow_scripts.study.config.pretraining import PretrainingRecipe

CPU = torch.device("cpu")
TINY = replace(
    PretrainingRecipe(),
    steps=3, batch_size=8, projection=(32, 16), lr=0.2, checkpoint_every=2,
)  # fmt: skip
# In which each process of two encodes its part: without batch statistics, with those of the batch, of two or four images.
CASES = {
    "frozen": (TINY, False),
    "global": (TINY, True),
    "global, organ alone": (replace(TINY, loss_con=False), True),
    "ghost of 2": (replace(TINY, chunk=2), True),
    "ghost of 4": (replace(TINY, chunk=4), True),
    "adamw": (replace(TINY, optimiser="adamw", lr=1e-3), True),
}
State = dict[str, Any]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def mix() -> ViewUnion:
    stores = [textures(5, 32, seed=1), textures(3, 32, seed=2, coarse=True)]
    return ViewUnion(stores, [np.arange(5), np.arange(3)], [np.zeros(5), np.ones(3)])


def encoder_for(recipe: PretrainingRecipe) -> Encoder:
    """In float64, so that what is left is no rounding."""
    backbone = create_backbone("test_resnet")
    load_initialisation(backbone, "scratch", None, 0)
    return make_encoder(backbone, 2, mix(), recipe).double()


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Both views of eight images (2, 8, 1, H, W), and their organs (8,)."""
    views, indices = mix(), np.arange(8)
    images = torch.from_numpy(views.take(indices))
    return augment_pairs(
        images, view_recipes(TINY.augmentation), pair_draws(0, step, indices)
    ).double(), torch.from_numpy(views.organs)


def three_steps(recipe: PretrainingRecipe, statistics: bool, processes: Processes) -> State:
    """Losses and gradients of each step, and the state at the end."""
    encoder = encoder_for(recipe).train(statistics)
    if processes.count > 1 and not recipe.chunk:
        encoder.backbone = share_batch_norm(encoder.backbone, CPU)
    optimiser = make_optimiser([encoder], recipe.optimiser, recipe.lr, recipe.weight_decay)
    found: State = {"losses": [], "gradients": []}
    for step in range(3):
        pairs, organs = batch(step)
        optimiser.zero_grad()
        losses = compute_gradients(encoder, pairs[:, processes.part(8)], organs, recipe, processes)
        found["losses"].append([losses.total, losses.contrastive, losses.organ])
        found["gradients"].append(
            {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
        )
        optimiser.step()
    return {**found, "state": encoder.state_dict()}


def assert_close(one: Mapping[str, Tensor], other: Mapping[str, Tensor], tolerance: float = 1e-9) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        scale = max(value.abs().max().item(), 1e-12)
        torch.testing.assert_close(other[name] / scale, value / scale, rtol=0, atol=tolerance, msg=name)


def work_as(rank: int, port: int, folder: Path) -> None:
    """One of two processes: every case."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    processes = Processes()
    processes.join(CPU)
    found: State = {name: three_steps(*case, processes) for name, case in CASES.items()}
    found["any"] = [processes.any(here) for here in (False, rank == 1, True)]
    processes.leave()
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[State]:
    """What two gloo processes find."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    encoder_for(TINY)  # imports timm once for both
    # A fork spares each child the import of torch, but torch forbids it once a GPU is in use.
    method = "spawn" if torch.cuda.is_available() else "fork"
    torch.multiprocessing.start_processes(work_as, (port, folder), nprocs=2, start_method=method)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("case", list(CASES))
def test_two_processes_equal_one(two: list[State], case: str) -> None:
    """Loss, every gradient, and weights and running statistics after three steps."""
    alone = three_steps(*CASES[case], Processes())
    for rank in two:
        shared = rank[case]
        for here, there in zip(alone["losses"], shared["losses"], strict=True):
            assert [v is None for v in here] == [v is None for v in there]
            assert [v.item() for v in here if v is not None] == pytest.approx(
                [v.item() for v in there if v is not None]
            )
        for one, other in zip(alone["gradients"], shared["gradients"], strict=True):
            assert_close(one, other)
        assert_close(alone["state"], shared["state"])


def test_processes_agree_on_flags(two: list[State]) -> None:
    assert [rank["any"] for rank in two] == 2 * [[False, True, True]]


def plain_gradients(encoder: Encoder, recipe: PretrainingRecipe, ghosts: int) -> tuple[float, dict[str, Tensor]]:
    """The textbook way: one graph through everything; batch norm sees `ghosts` images at a time."""
    pairs, organs = batch(0)
    outputs = [encoder(standardise(chunk.flatten(0, 1))) for chunk in pairs.split(ghosts, dim=1)]
    embeddings = torch.cat([z.unflatten(0, (2, -1)) for z, _ in outputs], dim=1)
    logits = torch.cat([c.unflatten(0, (2, -1)) for _, c in outputs], dim=1)
    loss = nt_xent(*embeddings, recipe.temperature) + recipe.organ_weight * organ_loss(
        logits.flatten(0, 1), organs.repeat(2)
    )
    loss.backward()
    return loss.item(), {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}


def test_the_released_organ_loss_is_twice_that_of_equation_3() -> None:
    found = {}
    for kind in ("mean", "sum"):
        recipe = replace(TINY, loss_con=False, organ_loss=kind)
        encoder, (pairs, organs) = encoder_for(recipe), batch(0)
        losses = compute_gradients(encoder, pairs, organs, recipe, Processes())
        gradients = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
        found[kind] = float(losses.total), gradients
    assert found["sum"][0] == pytest.approx(2 * found["mean"][0])
    assert_close({name: 2 * value for name, value in found["mean"][1].items()}, found["sum"][1])


@pytest.mark.parametrize(
    ("chunk", "training", "ghosts"),
    [(0, True, 8), (8, True, 8), (4, True, 4), (2, True, 2), (2, False, 8), (1, False, 8)],
)
def test_gradient_caching_is_exact_for_ghost_batch_norm(chunk: int, training: bool, ghosts: int) -> None:
    """Chunks of c equal one graph whose norms see c images; with frozen norms they equal the plain batch."""
    recipe = replace(TINY, chunk=chunk)
    loss, expected = plain_gradients(encoder_for(recipe).train(training), recipe, ghosts)
    encoder = encoder_for(recipe).train(training)
    losses = compute_gradients(encoder, *batch(0), recipe, Processes())
    assert losses.total.item() == pytest.approx(loss, rel=1e-12)
    assert_close(expected, {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None})


def test_the_chunk_is_part_of_the_model_where_norms_see_the_batch() -> None:
    whole, chunked = (three_steps(replace(TINY, chunk=chunk), True, Processes()) for chunk in (0, 2))
    name = next(name for name in whole["gradients"][0] if name.startswith("backbone.conv1"))
    one, other = whole["gradients"][0][name].flatten(), chunked["gradients"][0][name].flatten()
    assert torch.cosine_similarity(one, other, dim=0) < 0.99


def buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.double().clone() for name, value in module.named_buffers()}


@pytest.mark.parametrize(("chunk", "checkpointing"), [(0, False), (0, True), (2, False), (2, True)])
def test_running_statistics_are_updated_once(chunk: int, checkpointing: bool) -> None:
    """By the mean over the chunks' statistics, though every chunk is encoded twice."""
    recipe = replace(TINY, chunk=chunk)
    encoder = encoder_for(recipe)
    encoder.backbone.set_grad_checkpointing(checkpointing)  # type: ignore[operator]
    pairs, organs = batch(0)
    after = []
    for part in pairs.split(chunk or 8, dim=1):
        fresh = encoder_for(recipe)
        fresh(standardise(part.flatten(0, 1)))
        after.append(buffers(fresh))
    expected = {name: torch.stack([state[name] for state in after]).mean(dim=0) for name in after[0]}
    compute_gradients(encoder, pairs, organs, recipe, Processes())
    assert_close(expected, buffers(encoder))


def test_activation_checkpointing_changes_nothing() -> None:
    plain, checkpointed = encoder_for(TINY), encoder_for(TINY)
    checkpointed.backbone.set_grad_checkpointing(True)  # type: ignore[operator]
    for encoder in (plain, checkpointed):
        compute_gradients(encoder, *batch(0), TINY, Processes())
    for one, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), checkpointed.buffers(), strict=True))


class Counted(nn.Module):
    """Counts the values that autograd keeps of what passes through it."""

    def __init__(self, inner: Encoder) -> None:
        super().__init__()
        self.inner, self.organ, self.largest = inner, inner.organ, 0

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor | None]:
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = self.inner(views)
        self.largest = max(self.largest, sum(kept.values()))
        return outputs


def test_memory_follows_the_chunk() -> None:
    kept = {}
    for chunk in (0, 2):
        counted = Counted(encoder_for(TINY))
        compute_gradients(counted, *batch(0), replace(TINY, chunk=chunk), Processes())  # type: ignore[arg-type]
        kept[chunk] = counted.largest
    assert 0 < kept[2] < 0.5 * kept[0]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [((8, 3, 1), "not a multiple of chunk 3"), ((8, 0, 3), "8 images, which 3"), ((8, 4, 4), "2 chunks of 4, which 4")],
)
def test_batches_that_cannot_be_shared_are_refused(numbers: tuple[int, int, int], message: str) -> None:
    check_batch(8, 2, 2)
    with pytest.raises(UserError, match=message):
        check_batch(*numbers)


@pytest.mark.slow
def test_the_stage_on_two_processes_equals_one_and_continues_it(tmp_path: Path) -> None:
    write_npy(textures(24, 32, seed=1), tmp_path / "views.npy")
    rows = "\n".join(f"v{i}#full,v{i},p{i},testicle,,full" for i in range(24))
    (tmp_path / "views.csv").write_text(f"view_id,image_id,patient_id,organ,label,view\n{rows}\n")

    def command(name: str, *extra: str) -> list[str]:
        out = tmp_path / name
        return [
            "--views", str(tmp_path / "views.npy"),
            "--index", str(tmp_path / "views.csv"), "--organs", "testicle", "thyroid", "--backbone", "test_resnet",
            "--output-backbone", str(out / "backbone.safetensors"), "--output-heads", str(out / "heads.safetensors"),
            "--output-metrics", str(out / "metrics.jsonl"), "--output-parameters", str(out / "parameters.json"),
            "--output-sheet", str(out / "sheet.npy"),
            "--work-dir", str(tmp_path / "work" / name), "--log", str(tmp_path / f"{name}.log"), "--device", "cpu",
            "--steps", "4", "--batch-size", "8", "--projection", "16", "--lr", "0.2", "--checkpoint-every", "1",
            *extra,
        ]  # fmt: skip

    def pretrain(*argv: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "workflow_scripts.pretraining.pretrain", *command(*argv)]
        return subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)

    run(stage.main, stage.parser(), command("one"))
    # A limit that is over at the first step: both processes must leave, though each has a clock of its own.
    interrupted = pretrain("two", "--processes", "2", "--time-limit", "0.0001")
    assert interrupted.returncode != 0
    assert "step 1 of 4 (pretraining)" in (tmp_path / "two.log").read_text()
    done = pretrain("two", "--processes", "2")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two.log").read_text().count("24 views of 1 sets") == 1
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    one, two = (load_file(tmp_path / name / "backbone.safetensors") for name in ("one", "two"))
    assert_close(
        {name: value.double() for name, value in one.items()},
        {name: value.double() for name, value in two.items()},
        1e-5,
    )
