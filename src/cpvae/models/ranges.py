"""Columns of a likelihood's heads: where they are, and what p(x | z, c) says of their ranges."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import nbinom
from torch import Tensor

from cpvae.data.conditions import Conditions
from cpvae.models import truncated
from cpvae.models.base import Model
from cpvae.models.heads import CountHead, GaussianHead
from cpvae.models.numbers import NumberHead


def columns_of(model: Model) -> list[list[int]]:
    """The features of each head."""
    every = torch.arange(model.shape[0]).to(model.aggregated)
    return [part.int().tolist() for part in model.likelihood.by_head(every)]


def place_of(model: Model, column: int) -> tuple[Any, int, int]:
    """The head of a column, its place in the head, and where the head's parameters begin."""
    begin = 0
    for head, mine in zip(model.likelihood.heads, columns_of(model), strict=True):
        if column in mine:
            return head, mine.index(column), begin
        begin += int(head.n_params)  # type: ignore[arg-type]  # a ModuleList forgets the type
    raise AssertionError("every column has a head")


def first_level(model: Model, column: int) -> int:
    """Where the categories of a column begin, among those of its head."""
    head, place, _ = place_of(model, column)
    return int(sum(head.n_levels[:place]))


def ends_of(
    head: Any, conditions: Conditions, columns: list[int]
) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """The ranges of a head's columns as it standardises them, a value being an interval."""
    ends = []
    for side, end in ((-1, conditions.low), (1, conditions.high)):
        value = torch.from_numpy((end + side * conditions.half)[columns])
        read = head.standardised(head.encode(value.clamp(-1e30, 1e30).to(head.loc)))
        ends.append(np.where(value.isinf(), value, read.double().cpu()))
    return ends[0], ends[1]


def logits_of(model: Model, params: Float[Tensor, "m p"], column: int) -> Float[Tensor, "m l"]:
    """Logits of a column's categories."""
    head, place, begin = place_of(model, column)
    start = begin + first_level(model, column)
    return params[:, start : start + head.n_levels[place]]


class Between:
    """A column of numbers between two values, as p(x | z, c) has it.

    Arguments:
        model: of a table
        params: of n rows
        column: a feature
        conditions: its ends
    """

    def __init__(self, model: Model, params: Tensor, column: int, conditions: Conditions):
        self.head, self.place, begin = place_of(model, column)
        self.ends = conditions.low[column], conditions.high[column]
        self.step = 2 * conditions.half[column]
        self.width = self.head.n_columns
        mine = params[:, begin : begin + self.head.n_params]
        if isinstance(self.head, CountHead):
            mean = self.head.log_mean(mine)[:, self.place].exp().double().cpu().numpy()
            r = self.head.log_dispersion[self.place].exp().item()
            self.count = nbinom(r, r / (r + mean))
            return
        if isinstance(self.head, NumberHead):
            middle, logvar = mine.chunk(2, 1)
        elif isinstance(self.head, GaussianHead):
            middle, logvar = mine, self.head.noise_var().log().expand_as(mine)
        else:
            raise AssertionError("other heads have no ranges")
        self.mean = middle[:, self.place].double().cpu().numpy()
        self.scale = (0.5 * logvar[:, self.place].double()).exp().cpu().numpy()
        columns = next(of for of in columns_of(model) if column in of)
        low, high = (end[self.place] for end in ends_of(self.head, conditions, columns))
        self.low, self.high = (low - self.mean) / self.scale, (high - self.mean) / self.scale

    def log_share(self) -> Float[np.ndarray, " n"]:
        """Log of the probability of the range."""
        if isinstance(self.head, CountHead):
            below, above = self._of_count()
            with np.errstate(divide="ignore"):
                return np.log(np.maximum(above - below, 0))
        return truncated.log_mass(self.low, self.high)

    def draw(self, uniform: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Values in the range, in the data's units."""
        if isinstance(self.head, CountHead):
            below, above = self._of_count()
            x = self.count.ppf(below + uniform * (above - below))
        else:
            read = torch.zeros(len(uniform), self.width).to(self.head.loc)
            drawn = self.mean + self.scale * truncated.draw(self.low, self.high, uniform)
            read[:, self.place] = torch.from_numpy(drawn).to(read)
            plain = self.head.plain(read) if isinstance(self.head, NumberHead) else read
            x = self.head.decode(plain)[:, self.place].double().cpu().numpy()
        x = np.round(x / self.step) * self.step if self.step else x
        return np.clip(x, *self.ends)

    def _of_count(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = self.ends
        return self.count.cdf(low - 1), self.count.cdf(high)
