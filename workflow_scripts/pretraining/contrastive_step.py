"""One step of contrastive pretraining (paper, Sec. 4.1): the losses of a global batch and their gradients.

The loss needs all embeddings of the batch, its gradient into the network only those of one process, or of one chunk, at
a time. So the loss is taken on embeddings that are cut off from the network, and their gradient is handed back to it:

- several processes: each encodes its part, all take the same loss on the gathered embeddings (`processes`);
- gradient caching (Gao et al. 2021): a part is encoded in chunks without graph, and each chunk once more with it when its
  gradient is known. Memory then follows the chunk, not the batch.

Batch norm sees one chunk at a time: with `chunk` the network has ghost batch norm (Hoffer et al. 2017) of that many
images, and caching is exact for it. Without `chunk` the whole batch is normalised together, on all processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workflow_scripts.core.errors import UserError
from workflow_scripts.networks.backbone import standardise
from workflow_scripts.networks.contrastive import Encoder, nt_xent, organ_loss
from workflow_scripts.runtime.device import autocast
from workflow_scripts.runtime.processes import Processes
from workflow_scripts.study.config.pretraining import PretrainingRecipe


@dataclass(frozen=True)
class Losses:
    """The losses of the global batch (scalars; None where one is not used), and its embeddings (2, N, D), all detached."""

    total: Tensor
    contrastive: Tensor | None
    organ: Tensor | None
    embeddings: Tensor


def check_batch(batch_size: int, chunk: int, processes: int) -> None:
    """Raise `UserError` unless the batch divides into chunks, and chunks (or images) into processes."""
    if chunk and batch_size % chunk:
        raise UserError(f"batch_size {batch_size} is not a multiple of chunk {chunk}: all chunks must be of one size")
    parts, name = (batch_size // chunk, f"chunks of {chunk}") if chunk else (batch_size, "images")
    if parts % processes:
        raise UserError(
            f"a batch of {batch_size} has {parts} {name}, which {processes} processes cannot share evenly: "
            "use another number of processes"
        )


def compute_gradients(
    encoder: Encoder, pairs: Tensor, organs: Tensor, recipe: PretrainingRecipe, processes: Processes
) -> Losses:
    """Add the gradient of L = L_con + lambda L_sup (Eq. 4) over the global batch to the encoder's parameters.

    `pairs` (2, n, 1, H, W) in [0, 1] are the two views of this process's images, `organs` (N,) the labels of the whole
    batch. Running statistics of batch norms are updated once, by the mean over the chunks of all processes.
    """
    chunks = pairs.split(recipe.chunk or pairs.shape[1], dim=1)
    cached = len(chunks) > 1
    statistics = _Statistics(encoder)
    parts = []
    for chunk in chunks:
        statistics.restore()
        with torch.set_grad_enabled(not cached):
            parts.append(_encode(encoder, chunk))
        statistics.note()
    if recipe.chunk:
        statistics.average(processes)

    embeddings = _leaf([part[0] for part in parts], processes)
    logits = None if encoder.organ is None else _leaf([part[1] for part in parts if part[1] is not None], processes)
    con = nt_xent(embeddings[0], embeddings[1], recipe.temperature) if recipe.loss_con else None
    sup = None if logits is None else organ_loss(logits.flatten(0, 1), organs.repeat(2))
    if sup is not None and recipe.organ_loss == "sum":
        sup = 2 * sup
    loss = total_loss(con, sup, recipe.organ_weight)
    loss.backward()

    # Encoding once more, for caching here or for checkpointing within backward, must not count twice.
    statistics.keep()
    own = processes.part(embeddings.shape[1])
    gradients = [None if leaf is None or leaf.grad is None else leaf.grad[:, own] for leaf in (embeddings, logits)]
    start = 0
    for chunk, part in zip(chunks, parts, strict=True):
        outputs = _encode(encoder, chunk) if cached else part
        here = slice(start, start + chunk.shape[1])
        start = here.stop
        used = [(o, g[:, here]) for o, g in zip(outputs, gradients, strict=True) if o is not None and g is not None]
        torch.autograd.backward([output for output, _ in used], [gradient for _, gradient in used])
    statistics.restore()
    processes.add_up([p.grad for p in encoder.parameters() if p.grad is not None])
    return Losses(
        loss.detach(), None if con is None else con.detach(), None if sup is None else sup.detach(), embeddings.detach()
    )


def total_loss(loss_con: Tensor | None, loss_sup: Tensor | None, organ_weight: float) -> Tensor:
    """L = L_con + lambda L_sup (Eq. 4); a loss that is not used is None, and the other one is then the total, unweighted."""
    if loss_con is None:
        assert loss_sup is not None
        return loss_sup
    return loss_con if loss_sup is None else loss_con + organ_weight * loss_sup


def _encode(encoder: Encoder, pairs: Tensor) -> tuple[Tensor, Tensor | None]:
    """(2, n, 1, H, W) -> embeddings (2, n, D) and organ logits (2, n, C) or None."""
    device = pairs.device
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    with autocast(device):
        embeddings, logits = encoder(standardise(pairs.flatten(0, 1)).contiguous(memory_format=layout))
    count = pairs.shape[1]
    return embeddings.unflatten(0, (2, count)), None if logits is None else logits.unflatten(0, (2, count))


def _leaf(parts: list[Tensor], processes: Processes) -> Tensor:
    """The whole batch's values as the start of a graph of their own."""
    return processes.gather(torch.cat(parts, dim=1).detach()).requires_grad_()


class _Statistics:
    """The running statistics of a network's norms within a step."""

    def __init__(self, module: nn.Module) -> None:
        self.buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
        self.counters = [buffer for buffer in module.buffers() if not buffer.is_floating_point()]
        self.noted = 0
        self.totals = [torch.zeros_like(buffer) for buffer in self.buffers]
        self.keep()

    def keep(self) -> None:
        """Remember the present values."""
        self.kept = [buffer.clone() for buffer in [*self.buffers, *self.counters]]

    def restore(self) -> None:
        """Return to the values remembered."""
        for buffer, value in zip([*self.buffers, *self.counters], self.kept, strict=True):
            # By `data`: autograd saves the buffers with the graph, though training never reads them from it.
            buffer.data.copy_(value)

    def note(self) -> None:
        """Count the present values in."""
        self.noted += 1
        if self.totals:
            torch._foreach_add_(self.totals, self.buffers)

    def average(self, processes: Processes) -> None:
        """Set the statistics to the mean of those noted, over all processes."""
        processes.add_up(self.totals)
        for buffer, total in zip(self.buffers, self.totals, strict=True):
            buffer.data.copy_(total / (self.noted * processes.count))
