"""A mix of view stores that pretraining draws its batches from (paper, Sec. 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from workflow_scripts.core.randomness import epoch_order


class ViewUnion:
    """Several view stores seen as one: global index i is row `rows[i]` of store `sets[i]`, and shows `organs[i]`.

    `stores` are uint8 (N_s, H, W), usually memory maps, and are never copied as a whole; `rows` and `organs` give for
    each store the rows that take part (n_s,) and their organ labels (n_s,), integers from 0. `shares` are the shares of
    each store's rows that an epoch draws, in (0, 1], all by default. Monitors may need `patients` (one name per view; an
    empty one is a patient of its own) and `labels` (an integer per view, -1 for none), in the order of global indices.
    `frames`, the frame of each view, are needed by `partners` alone.
    """

    def __init__(
        self,
        stores: Sequence[np.ndarray],
        rows: Sequence[np.ndarray],
        organs: Sequence[np.ndarray],
        shares: Sequence[float] = (),
        patients: Sequence[str] = (),
        labels: Sequence[int] = (),
        frames: Sequence[str] = (),
    ) -> None:
        self.stores = list(stores)
        self.sets = np.repeat(np.arange(len(stores)), [len(part) for part in rows])
        self.rows = np.concatenate(rows).astype(np.int64)
        self.organs = np.concatenate(organs).astype(np.int64)
        self.counts = np.array([len(part) for part in rows])
        self.drawn = np.round(np.array(shares or [1.0] * len(rows)) * self.counts).astype(np.int64)
        self.patients = np.array(patients if len(patients) else [""] * len(self.rows), dtype=object)
        self.labels = np.array(labels if len(labels) else [-1] * len(self.rows), dtype=np.int64)
        self.frames = list(frames) or [str(i) for i in range(len(self.rows))]
        assert len(self.rows) == len(self.frames) == len(self.organs) == len(self.patients) == len(self.labels)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def epoch_size(self) -> int:
        """Views that an epoch draws."""
        return int(self.drawn.sum())

    @cached_property
    def partners(self) -> np.ndarray:
        """For each view, the global index (N,) of the next one of its frame, the first after the last; alone, its own."""
        members: dict[str, list[int]] = {}
        for i, frame in enumerate(self.frames):
            members.setdefault(frame, []).append(i)
        partners = np.arange(len(self))
        for views in members.values():
            partners[views] = np.roll(views, -1)
        return partners

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The images uint8 (n, H, W) of global indices (n,), in their order."""
        images = np.empty((len(indices), *self.stores[0].shape[1:]), dtype=np.uint8)
        for number, store in enumerate(self.stores):
            here = np.flatnonzero(self.sets[indices] == number)
            images[here] = store[self.rows[indices[here]]]
        return images


def epoch_indices(views: ViewUnion, seed: int, epoch: int) -> np.ndarray:
    """Global indices of an epoch in order: of every set its share, chosen afresh, and no view twice."""
    order = epoch_order(seed, "order", epoch, views.epoch_size)
    if views.epoch_size == len(views):
        return order
    starts = np.cumsum(views.counts) - views.counts
    chosen = [
        start + epoch_order(seed, f"set{number}", epoch, count)[:drawn]
        for number, (start, count, drawn) in enumerate(zip(starts, views.counts, views.drawn, strict=True))
    ]
    return np.concatenate(chosen)[order]


def batch_indices(views: ViewUnion, seed: int, batch_size: int, step: int) -> np.ndarray:
    """Global indices (batch_size,) of a step: each epoch has its own order, and its last incomplete batch is dropped."""
    epoch, position = divmod(step, views.epoch_size // batch_size)
    return epoch_indices(views, seed, epoch)[position * batch_size : (position + 1) * batch_size]
