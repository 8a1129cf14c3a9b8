"""Pairs of an example and a category that it may be of, so that an expectation over c costs few."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cpvae.models.cpvae import NEGLIGIBLE


class Pairs(NamedTuple):
    """Examples with each of the categories that they may be of, a category after the other.

    ``row`` (p) and ``component`` (p) are a pair, ``weight`` (p) is q(c|x), and ``counts`` (k) says
    how many pairs each category has: so a product with its matrix is one product.
    """

    row: Int[Tensor, " p"]
    component: Int[Tensor, " p"]
    weight: Float[Tensor, " p"]
    counts: list[int]

    def within(self, rows: slice) -> tuple["Pairs", Bool[Tensor, " p"]]:
        """The pairs of some rows, which count from 0 then, and which of these here they are."""
        mine = (self.row >= rows.start) & (self.row < rows.stop)
        component = self.component[mine]
        counts = component.bincount(minlength=len(self.counts)).tolist()
        return Pairs(self.row[mine] - rows.start, component, self.weight[mine], counts), mine


def pairs_of(qc: Float[Tensor, "b k"], at_least: float = NEGLIGIBLE) -> Pairs:
    """The pairs of examples and categories whose probability is ``at_least`` so much.

    The weights of each example sum to one, so a bound over fewer categories is a bound.
    """
    component, row = (at_least < qc.T).nonzero().T
    weight = qc[row, component]
    total = torch.zeros_like(qc[:, 0]).index_add_(0, row, weight)
    counts = component.bincount(minlength=qc.shape[1]).tolist()
    return Pairs(row, component, weight / total[row], counts)
