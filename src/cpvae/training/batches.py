"""Batches: examples and all noise of many steps at a time, on the device.

Training data stays on the device, grey values in two bytes each. What a block of steps needs beside
the model is made in one go: examples are gathered, changed, binarised, and all noise is drawn.
Several models share the data, and nothing else: each has its own order, noise and binarisation,
which are functions of its seed and the epoch (`streams`).
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpvae.data.augment import Augment
from cpvae.models.base import Model, draw_noise
from cpvae.streams import torch_stream
from cpvae.training import processes

MOST_STEPS = 50  # prepared at once
MOST_BYTES = {"cpu": 2**25, "cuda": 2**30}  # memory that a block may take, about


class Batch(NamedTuple):
    """What one step consumes, (b, ...) each, or a block of steps, (steps, r, b, ...).

    ``changed`` is None without an augmentation, and ``initial`` (b, 2, 2), see `initialise`, where
    there are no initial clusters.
    """

    observed: Tensor
    normal: Tensor
    gumbel: Tensor
    changed: Tensor | None = None
    initial: Tensor | None = None

    def take(self, rows: slice) -> "Batch":
        """Some rows of it."""
        whole = self.present()
        taken = {name: tensor[..., rows, :] for name, tensor in whole.items() if name != "initial"}
        return Batch(
            **taken, initial=None if self.initial is None else self.initial[..., rows, :, :]
        )

    def present(self) -> dict[str, Tensor]:
        """The tensors that are there, by name."""
        return {name: t for name, t in self._asdict().items() if t is not None}


class Batches:
    """The batches of an epoch, for several models at once.

    Arguments:
        models: one model, or several that were built from the same configuration but the seed
        seeds: of order, noise and binarisation, one a model
        observed: training data as the models see it (n, f), on their device
        batch_size: examples a step
        augment: change of the data for the invariance term, or None to leave the term out
        initialised: whether examples get initial clusters, see `set_initial`
    """

    def __init__(
        self,
        models: Sequence[Model],
        seeds: Sequence[int],
        observed: Float[Tensor, "n f"],
        batch_size: int,
        augment: Augment | None,
        initialised: bool,
    ):
        self.models, self.seeds = list(models), list(seeds)
        self.batch_size, self.augment, self.device = batch_size, augment, observed.device
        self.likelihood = models[0].likelihood
        self.data = self.likelihood.store(observed)
        shape = (len(models), len(observed), 2, 2)
        self.initial = None
        if initialised:
            self.initial = torch.zeros(shape, dtype=torch.int64, device=self.device)

    def take(self, observed: Float[Tensor, "n f"]) -> None:
        """Takes other data of the same size."""
        self.data = self.likelihood.store(observed)

    def set_initial(self, index: int, ranges: Int[Tensor, "n 2 2"]) -> None:
        """Takes the initial clusters of a model, see `initialise.initial_clusters`."""
        assert self.initial is not None  # who has initial clusters has said so
        self.initial[index] = ranges

    def blocks(self, epoch: int) -> Iterator[tuple[Batch, int]]:
        """One pass over the data, each model in its own random order, in blocks of steps.

        Each with the number of rows of a step in all processes.
        """
        n = len(self.data)
        orders = [
            torch.randperm(n, generator=self._stream(r, "order", epoch), device=self.device)
            for r in range(len(self.models))
        ]
        noise = [self._stream(r, "training", epoch) for r in range(len(self.models))]
        for index in self._cut(torch.stack(orders)):
            yield self._prepare(index, noise), index.shape[-1]

    def _stream(self, r: int, purpose: str, epoch: int) -> torch.Generator:
        return torch_stream(self.seeds[r], purpose, epoch, self.device)

    def _cut(self, order: Int[Tensor, "r n"]) -> list[Int[Tensor, "s r b"]]:
        """The order cut into blocks of full batches, and the batch that is left over."""
        r, n = order.shape
        b = min(self.batch_size, n)
        full = n // b
        a_step = 4 * r * b * (2 * self.data.shape[1] + self.models[0].gumbel_dim)
        memory = MOST_BYTES.get(self.device.type, MOST_BYTES["cpu"])
        limit = min(MOST_STEPS, max(1, memory // a_step))
        steps = math.ceil(full / math.ceil(full / limit))
        batches = order[:, : full * b].view(r, full, b).transpose(0, 1)
        rest = order[:, full * b :].unsqueeze(0)
        return [*batches.split(steps), *([rest] if n % b else [])]

    def _prepare(self, index: Int[Tensor, "s r b"], generators: Sequence[torch.Generator]) -> Batch:
        """Examples and noise of a block; each model's from its own generator.

        They are made for all processes, of which each keeps its rows.
        """
        parts = [self._of_model(r, index[:, r], of) for r, of in enumerate(generators)]
        mine, _ = processes.share(index.shape[-1])
        if len(parts) == 1:
            return parts[0].take(mine)
        together = zip(*(part.present().values() for part in parts), strict=True)
        stacked = (torch.stack(tensors, 1) for tensors in together)
        return Batch(**dict(zip(parts[0].present(), stacked, strict=True))).take(mine)

    def _of_model(self, r: int, index: Int[Tensor, "s b"], generator: torch.Generator) -> Batch:
        likelihood = self.likelihood
        stored = self.data[index.flatten()]
        noise = likelihood.noise(stored.shape, generator)
        observed = likelihood.draw(stored, noise)
        normal, gumbel = draw_noise(self.models[r], len(stored), generator)
        changed = None
        if self.augment:
            uniform = torch.rand(
                len(stored), self.augment.n_random, generator=generator, device=self.device
            )
            moved = self.augment.change(likelihood.restore(stored), uniform)
            noise = likelihood.noise(stored.shape, generator)
            changed = likelihood.draw(likelihood.store(moved), noise).unflatten(0, index.shape)
        return Batch(
            observed.unflatten(0, index.shape),
            normal.unflatten(0, index.shape),
            gumbel.unflatten(0, index.shape),
            changed,
            None if self.initial is None else self.initial[r][index],
        )
