r"""Drawing rows that meet conditions: importance resampling, no row is drawn and thrown away.

Wanted are draws of c, z and x given that some cells have a value and others lie in a range. (c, z)
are proposed, weighted by

.. math:: \frac{p(c)\, p(z \mid c)\, p(x_{given} \mid z, c)\, P(x_{ranges} \mid z, c)}{q(c, z)},

and resampled by their weights; then the rest of the row is drawn given (c, z), and what is in a
range from p(x | z, c) cut to it. The model `residual` proposes q(c, z | conditions): categories by
the mixture that it started from, p(c) weighted by each component's density of the cells and its
share inside the ranges, and z by its own posterior, see `_Posterior`. Other models propose from
p(c) p(z|c).

The effective sample size, the squared sum of the weights over the sum of their squares (Kong 1992),
says how many independent draws the proposals are worth.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import logsumexp
from torch import Tensor
from torch.nn.functional import one_hot

from cpvae.choices import DRAW_FROM, choose
from cpvae.data.conditions import Conditions
from cpvae.models import truncated
from cpvae.models.base import Model
from cpvae.models.functional import LOG_2PI, Gaussian, gaussian_log_prob, marginal_log_prob
from cpvae.models.heads import GaussianHead
from cpvae.models.numbers import NumberHead
from cpvae.models.pairs import Pairs
from cpvae.models.precision import single_precision
from cpvae.models.ranges import (
    Between,
    columns_of,
    ends_of,
    first_level,
    logits_of,
    place_of,
)
from cpvae.models.residual import ResidualCPVAE
from cpvae.streams import torch_stream

TIMES, FEWEST = 4, 10_000  # proposals a row, and at least
LEAST_EFFECTIVE = 10.0
LEAST_SHARE = 1e-7  # of all rows: beyond, a model's tails say nothing about the data
DEFENSIVE = 0.1  # share of the proposals that are from p(c) p(z|c)


class Drawn(NamedTuple):
    """Rows (n, f) in the data's units, and the component (n) of each.

    ``effective`` is the effective sample size of the ``proposals``, and ``share`` how many of all
    rows meet the conditions; None where a density stands for it, that of an exact value.
    """

    x: Tensor
    component: Tensor
    effective: float
    proposals: int
    share: float | None

    def in_words(self, n: int) -> str:
        """What the draws of ``n`` rows are worth."""
        words = f"{self.proposals} proposals are worth {self.effective:.0f} independent rows"
        if self.share is not None:
            words = f"{100 * self.share:.2g} % of all rows are like this; {words}"
        return words + (f", fewer than {n}: some share what is latent" * (self.effective < n))


class Proposals(NamedTuple):
    """Latent values as `Model.decode` takes them, their component, and log p(c, z) / q(c, z).

    Where numbers were proposed with them, the weight has those too.
    """

    latent: tuple[Tensor, ...]
    component: Int[Tensor, " m"]
    log_weight: Float[np.ndarray, " m"]


@single_precision()
@torch.no_grad()
def sample_given(
    model: Model,
    n: int,
    conditions: Conditions,
    component: int | Sequence[int] | None = None,
    from_: str | None = None,
    generator: torch.Generator | None = None,
) -> Drawn:
    """Draws rows of a table that meet conditions, see above; arguments as for `Model.sample`.

    Raises:
        ValueError: an effective sample size below ten, no table, or arguments as for
            `Model.sample`.
    """
    if model.likelihood.binarised:
        raise ValueError(
            "Conditions need a likelihood of measurements, and this model reads grey values: fit "
            "with likelihood 'gaussian' or 'mixed'."
        )
    generator = generator or torch_stream(0, "sampling", device=model.aggregated.device)
    log_shares = _log_shares(model, component, from_)
    m, at_once = max(TIMES * n, FEWEST), model.rows_at_once()
    sizes = [min(at_once, m - start) for start in range(0, m, at_once)]
    if isinstance(model, ResidualCPVAE):
        posterior = _Posterior(model, conditions, log_shares, generator)
        parts = [posterior.draw(size) for size in sizes]
    else:
        how = conditions, log_shares, generator
        parts = [_of_prior(model, size, *how) for size in sizes]
    latent = tuple(torch.cat(each) for each in zip(*(p.latent for p in parts), strict=True))
    log_weight = np.concatenate([part.log_weight for part in parts])
    weight, effective = _normalised(log_weight)
    if effective < LEAST_EFFECTIVE:
        raise ValueError(
            f"Rows with {conditions.words} are too rare for this model: {m} proposals are worth "
            f"{effective:.1f} independent rows, and {LEAST_EFFECTIVE:.0f} are needed. Ask for less."
        )
    share = float(np.exp(logsumexp(log_weight) - np.log(m)))
    if exact := _asks_for_exact_values(model, conditions):
        share = math.nan
    if share < LEAST_SHARE:
        raise ValueError(
            f"Rows with {conditions.words} are less than {LEAST_SHARE:g} of all rows by this "
            f"model: what it says of them rests on no data. Ask for less."
        )
    chosen = torch.from_numpy(_systematic(weight, n, generator)).to(model.aggregated.device)
    kept = tuple(each[chosen] for each in latent)
    params = model.decode(*kept)
    x = model.likelihood.sample(params, generator)
    _put(x, model, params, conditions, generator)
    component_of = torch.cat([part.component for part in parts])[chosen]
    return Drawn(x, component_of, effective, m, None if exact else share)


def _asks_for_exact_values(model: Model, conditions: Conditions) -> bool:
    """Whether a value is given whose likelihood is a density, and no probability."""
    for column in np.flatnonzero(~np.isnan(conditions.cells)):
        head, place, _ = place_of(model, int(column))
        rounded = isinstance(head, NumberHead) and head.rounding[place] > 0
        if isinstance(head, NumberHead | GaussianHead) and not rounded:
            return True
    return False


def _log_shares(
    model: Model, component: int | Sequence[int] | None, from_: str | None
) -> np.ndarray:
    """Log p(c) that rows are drawn by, (k)."""
    k = model.n_components
    some = [component] if isinstance(component, int) else component
    if some is not None and not (some and all(0 <= each < k for each in some)):
        raise ValueError(f"component={component} does not exist: choose one from 0 to {k - 1}.")
    from_ = from_ or model.drawn_from
    choose("from_", from_, DRAW_FROM)
    shares = model.aggregated.double().cpu().numpy() if from_ == "aggregated" else np.ones(k)
    if some is not None:
        wanted = np.isin(np.arange(k), some)
        shares = np.where(wanted, np.maximum(shares, 1e-9), 0.0)
    return np.log(shares / shares.sum() + truncated.TINY)


def _normalised(log_weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights that sum to one, and their effective sample size; 0 where none is above 0."""
    most = log_weight.max()
    if not np.isfinite(most):
        return np.zeros_like(log_weight), 0.0
    weight = np.exp(log_weight - most)
    weight = weight / weight.sum()
    return weight, float(1 / np.square(weight).sum())


def _systematic(weight: np.ndarray, n: int, generator: torch.Generator) -> np.ndarray:
    """Numbers (n) of proposals in proportion to their weights, in random order (Kitagawa 1996)."""
    start = torch.rand(1, generator=generator, device=generator.device).item()
    places = (start + np.arange(n)) / n
    chosen = np.searchsorted(np.cumsum(weight), places).clip(max=len(weight) - 1)
    order = torch.randperm(n, generator=generator, device=generator.device)
    return chosen[order.cpu().numpy()]


# --- proposals -----------------------------------------------------------------------------------


def _of_prior(
    model: Model,
    m: int,
    conditions: Conditions,
    log_shares: Float[np.ndarray, " k"],
    generator: torch.Generator,
) -> Proposals:
    """Proposals from p(c) p(z|c): the weight is p(x_given | z, c) P(x_ranges | z, c)."""
    shares = torch.from_numpy(np.exp(log_shares)).to(model.aggregated)
    component = torch.multinomial(shares, m, replacement=True, generator=generator)
    latent = model.draw(component, generator)
    params = model.decode(*latent)
    log_weight = _log_prob_of_cells(model, conditions, params)
    return Proposals(latent, component, log_weight + _log_in_ranges(model, conditions, params))


def _log_in_ranges(
    model: Model, conditions: Conditions, params: Float[Tensor, "m p"]
) -> Float[np.ndarray, " m"]:
    """Log P(x_ranges | z, c)."""
    found = np.zeros(len(params))
    for column in conditions.ranges:
        found += Between(model, params, column, conditions).log_share()
    return found


class _Posterior:
    """Proposals of the model `residual`, from q(c, z | conditions) and some from p(c) p(z|c).

    Numbers that are not given are proposed with (c, z), those in ranges first: so the density of a
    proposal has a formula. A share of `DEFENSIVE` is from the prior, and each proposal is weighed
    against both (Veach and Guibas 1995): weights then have a limit, wherever training has moved
    the model away from the mixture.

    Arguments:
        model: which one
        conditions: that rows are to meet
        log_shares: log p(c)
        generator: of the draws
    """

    def __init__(
        self,
        model: ResidualCPVAE,
        conditions: Conditions,
        log_shares: Float[np.ndarray, " k"],
        generator: torch.Generator,
    ):
        self.model, self.conditions, self.generator = model, conditions, generator
        first = columns_of(model)[0]
        self.read = model.infer(model.likelihood.observe(_given(model, conditions)))[0]
        numbers = self.read[0, : model.n_numbers].double().cpu().numpy()
        ranges = [first.index(column) for column in conditions.ranges]
        missing = np.flatnonzero(np.isnan(numbers)).tolist()
        self.free = ranges + [i for i in missing if i not in ranges]
        self.n_ranges = len(ranges)
        self.rng = np.random.default_rng(
            int(torch.randint(2**31, (), generator=generator, device=generator.device))
        )
        self.box = _box(model, conditions, numbers, self.free, self.n_ranges)
        log_q = log_shares + _log_density(model, conditions, self.read)
        log_q = log_q + self.box.log_share(self.rng)
        self.log_shares, self.log_q = log_shares, log_q - logsumexp(log_q)

    def draw(self, m: int) -> Proposals:
        """``m`` proposals."""
        model, w = self.model, self.model.n_numbers
        from_prior = round(DEFENSIVE * m)
        component = np.concatenate(
            [
                self.rng.choice(model.n_components, size, p=np.exp(log_p - logsumexp(log_p)))
                for size, log_p in ((from_prior, self.log_shares), (m - from_prior, self.log_q))
            ]
        )
        is_prior = np.arange(m) < from_prior
        order = np.argsort(component, kind="stable")
        component, is_prior = component[order], is_prior[order]
        drawn = torch.from_numpy(component).to(self.read.device)
        row = torch.arange(m, device=drawn.device)
        counts = drawn.bincount(minlength=model.n_components).tolist()
        pairs = Pairs(row, drawn, torch.ones(m).to(self.read), counts)
        of_prior = torch.from_numpy(is_prior).to(drawn.device).unsqueeze(1)
        normal = torch.randn(m, model.latent_dim, generator=self.generator, device=self.read.device)
        points = self.box.draw(component, self.rng)
        u = torch.where(of_prior, normal, self._encode(points, pairs).sample(normal))
        params = self._decode(u, pairs)
        points = np.where(is_prior[:, None], self._numbers(params), points)
        posterior = self._encode(points, pairs)
        free = params[:, :w][:, self.free], params[:, w : 2 * w][:, self.free]
        log_numbers = gaussian_log_prob(torch.from_numpy(points).to(u), *free).sum(-1)
        log_pu = -0.5 * (u**2 + LOG_2PI).sum(-1)
        base = self.log_shares[component] + (log_pu + log_numbers).double().cpu().numpy()
        log_q = self.log_q[component] + self.box.log_prob(component, points)
        log_q = log_q + posterior.log_prob(u).double().cpu().numpy()
        in_ranges = _log_in_ranges(model, self.conditions, params)
        log_density = np.logaddexp(
            np.log(DEFENSIVE) - in_ranges, np.log1p(-DEFENSIVE) + log_q - base
        )
        log_weight = _log_prob_of_cells(model, self.conditions, params) - log_density
        c = one_hot(drawn, model.n_components).to(u.dtype)
        return Proposals((model.place(u, pairs), c), drawn, log_weight)

    def _encode(self, points: Float[np.ndarray, "m r"], pairs: Pairs) -> Gaussian:
        """q(u | x, c) of the row with the numbers that it lacked."""
        rows = self.read.repeat(len(points), 1)
        rows[:, self.free] = torch.from_numpy(points).to(rows)
        return self.model.encode(rows, pairs)

    def _decode(self, u: Float[Tensor, "m d"], pairs: Pairs) -> Float[Tensor, "m p"]:
        c = one_hot(pairs.component, self.model.n_components).to(u.dtype)
        return self.model.decode(self.model.place(u, pairs), c)

    def _numbers(self, params: Float[Tensor, "m p"]) -> Float[np.ndarray, "m r"]:
        """The numbers that are not given drawn from p(y | z, c), in their ranges."""
        w = self.model.n_numbers
        mean = params[:, :w][:, self.free].double().cpu().numpy()
        scale = (0.5 * params[:, w : 2 * w][:, self.free].double()).exp().cpu().numpy()
        noise = self.rng.standard_normal(mean.shape)
        first = slice(self.n_ranges)
        low, high = (
            (end[first] - mean[:, first]) / scale[:, first] for end in (self.box.low, self.box.high)
        )
        uniform = self.rng.random(low.shape)
        noise[:, first] = np.nan_to_num(truncated.draw(low, high, uniform))
        return mean + scale * noise


def _box(
    model: ResidualCPVAE,
    conditions: Conditions,
    given: Float[np.ndarray, " w"],
    free: list[int],
    n_ranges: int,
) -> truncated.Box:
    """What the mixture says of the numbers that are free, given others (NaN: not given)."""
    means, covariances = (
        part.double().cpu().numpy() for part in (model.missing.means, model.missing.covariances)
    )
    known, of = np.flatnonzero(~np.isnan(given)), np.array(free, dtype=int)
    mean, covariance = means[:, of], covariances[:, of[:, None], of]
    if len(known):
        across = covariances[:, of[:, None], known]
        solved = np.linalg.solve(covariances[:, known[:, None], known], across.transpose(0, 2, 1))
        mean = mean + np.einsum("kjr,kj->kr", solved, given[known] - means[:, known])
        covariance = covariance - across @ solved
    low, high = ends_of(model.number_head, conditions, columns_of(model)[0])
    return truncated.Box(mean, covariance, low[of], high[of], n_ranges)


def _log_density(
    model: ResidualCPVAE, conditions: Conditions, read: Float[Tensor, "1 i"]
) -> Float[np.ndarray, " k"]:
    """Log-density of what is given in each component of the mixture, but for a constant."""
    numbers = read[:, : model.n_numbers].double()
    each = zip(model.missing.means.double(), model.missing.covariances.double(), strict=True)
    found = torch.cat([marginal_log_prob(numbers, *of) for of in each])
    log_chances = model.responsibilities.log_chances.double()
    found = found + (model.chances_of(read).double() @ log_chances.T).squeeze(0)
    for column, levels in conditions.levels.items():
        start = 2 * model.n_binary + first_level(model, column)
        found = found + log_chances[:, [start + level for level in levels]].logsumexp(1)
    return found.cpu().numpy()


# --- cells ---------------------------------------------------------------------------------------


def _given(model: Model, conditions: Conditions) -> Float[Tensor, "1 f"]:
    """The cells that are given as a row, NaN elsewhere."""
    return torch.from_numpy(conditions.cells).to(model.aggregated).unsqueeze(0)


def _log_prob_of_cells(
    model: Model, conditions: Conditions, params: Float[Tensor, "m p"]
) -> Float[np.ndarray, " m"]:
    """Log p of the cells that are given and of the categories that are allowed."""
    row = model.likelihood.observe(_given(model, conditions))
    found = model.likelihood.log_prob(row.expand(len(params), -1), params)
    for column, levels in conditions.levels.items():
        found = found + logits_of(model, params, column).log_softmax(1)[:, levels].logsumexp(1)
    return found.double().cpu().numpy()


def _put(
    x: Float[Tensor, "n f"],
    model: Model,
    params: Float[Tensor, "n p"],
    conditions: Conditions,
    generator: torch.Generator,
) -> None:
    """Puts into rows what the conditions say, drawn again where they leave it open."""
    given = ~np.isnan(conditions.cells)
    x[:, given] = torch.from_numpy(conditions.cells[given]).to(x)
    for column, levels in conditions.levels.items():
        allowed = torch.tensor(levels, device=x.device)
        logits = logits_of(model, params, column)[:, levels]
        drawn = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
        x[:, column] = allowed[drawn].to(x)
    for column in conditions.ranges:
        uniform = _uniform((len(x),), generator)
        values = Between(model, params, column, conditions).draw(uniform)
        x[:, column] = torch.from_numpy(values).to(x)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> np.ndarray:
    return torch.rand(shape, generator=generator, device=generator.device).double().cpu().numpy()
