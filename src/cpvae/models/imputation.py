"""Drawing what is missing in a row, given what is there: once, or several times over.

(z, c) are proposed from q(z, c | x), some for each row, and one of them is taken in proportion to
its importance weight (Rubin 1987): so draws are of the model's own p(x_missing | x), and not of
what its inference makes of it. A mean of many is the expectation.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from cpvae.models.base import Model, normal_like
from cpvae.models.cpvae import ConditionalPriorVAE
from cpvae.models.functional import (
    Gaussian,
    component_log_prob,
    gaussian_log_prob,
    gumbel,
    mixture_log_prob,
)
from cpvae.models.pairs import Pairs
from cpvae.models.precision import single_precision
from cpvae.models.residual import ResidualCPVAE
from cpvae.models.vae import VAE

PROPOSALS = 20  # of a row


@single_precision()
@torch.no_grad()
def draw_missing(model: Model, x: Float[Tensor, "n f"], generator: torch.Generator) -> Tensor:
    """Rows (n, f) of a table in the data's units, their missing values (NaN) drawn; each once.

    Raises:
        ValueError: a model that has no draws of this kind.
    """
    found, gaps = x.clone(), x.isnan().any(1).nonzero().squeeze(1)
    for rows in gaps.split(max(1, model.rows_at_once() // PROPOSALS)) if len(gaps) else ():
        mine = x[rows]
        params = _posterior_params(model, model.likelihood.observe(mine), generator)
        drawn = model.likelihood.sample(params, generator)
        found[rows] = torch.where(mine.isnan(), drawn, mine)
    return found


def _posterior_params(
    model: Model, observed: Float[Tensor, "n f"], generator: torch.Generator
) -> Float[Tensor, "n p"]:
    """The decoder's output at one draw of p(z, c | x) for each row."""
    n, m = len(observed), PROPOSALS * len(observed)
    row = torch.arange(m, device=observed.device) // PROPOSALS
    if isinstance(model, ResidualCPVAE):
        params, log_weight = _of_mixture(model, observed, row, generator)
    elif isinstance(model, ConditionalPriorVAE):
        params, log_weight = _of_categories(model, observed, row, generator)
    elif isinstance(model, VAE):
        q = model.encode(model.likelihood.inputs(observed))
        each = Gaussian(q.mean[row], q.logvar[row])
        z = each.sample(normal_like(each.mean, generator))
        params = model.decode(z)
        log_weight = mixture_log_prob(z, model.mixture())[0] - each.log_prob(z)
        log_weight = log_weight + model.likelihood.log_prob(observed[row], params)
    else:
        raise ValueError(
            "Two-layer models give no draws of missing values: leave --draw out for their "
            "expectation, or fit another model."
        )
    uniform = torch.rand(n, PROPOSALS, generator=generator, device=observed.device)
    best = (log_weight.view(n, PROPOSALS) + gumbel(uniform)).argmax(1)
    return params[torch.arange(n, device=observed.device) * PROPOSALS + best]


def _of_mixture(
    model: ResidualCPVAE,
    observed: Float[Tensor, "n f"],
    row: Tensor,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "m p"], Float[Tensor, " m"]]:
    """The decoder's output and log-weights of rows repeated as ``row`` says."""
    w = model.n_numbers
    read, log_qc = model.infer(observed)
    component = _categories(log_qc, generator)
    component, order = component.sort(stable=True)
    mine = row[order]
    found = _propose(model, read[mine], component, generator)
    missing = read[mine, :w].isnan()
    log_weight = found.log_ratio + model.log_pc()[component] - log_qc[mine, component]
    log_weight = log_weight + torch.where(missing, found.log_numbers, 0.0).sum(-1)
    log_weight = log_weight + model.likelihood.log_prob(observed[mine], found.params)
    back = order.argsort()
    return found.params[back], log_weight[back]


def _of_categories(
    model: ConditionalPriorVAE,
    observed: Float[Tensor, "n f"],
    row: Tensor,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "m p"], Float[Tensor, " m"]]:
    features, log_qc = model.infer(observed)
    component = _categories(log_qc, generator)
    c = one_hot(component, model.n_components).to(log_qc.dtype)
    gate = log_qc[row].exp() if model.gate == "probabilities" else c
    q = model.encode(features[row], gate)
    z = q.sample(normal_like(q.mean, generator))
    params = model.decode(z, c)
    pick = component.unsqueeze(1)
    log_pz = component_log_prob(z, model.mixture()).gather(1, pick).squeeze(1)
    log_weight = log_pz - q.log_prob(z) + model.log_pc()[component]
    log_weight = log_weight - log_qc[row].gather(1, pick).squeeze(1)
    return params, log_weight + model.likelihood.log_prob(observed[row], params)


def _categories(log_qc: Float[Tensor, "n k"], generator: torch.Generator) -> Tensor:
    """A category of q(c|x) for every proposal, those of a row side by side."""
    drawn = torch.multinomial(log_qc.exp(), PROPOSALS, replacement=True, generator=generator)
    return drawn.flatten()


class _Proposed(NamedTuple):
    """Latent values of the model `residual`, what the decoder makes of them, and their weights.

    Arguments:
        latent: as `decode` takes them
        params: as the likelihood reads them (m, p)
        log_ratio: log p(z|c) / q(z|x, c), less log q of the numbers that were missing; (m)
        log_numbers: log p(y|z,c) of every number, those that were missing too; (m, w)
    """

    latent: tuple[Tensor, Tensor]
    params: Float[Tensor, "m p"]
    log_ratio: Float[Tensor, " m"]
    log_numbers: Float[Tensor, "m w"]


def _propose(
    model: ResidualCPVAE,
    read: Float[Tensor, "m i"],
    component: Int[Tensor, " m"],
    generator: torch.Generator,
) -> _Proposed:
    """Draws z from q(z | x, c), numbers that are missing by q(y_missing | y, c).

    Arguments:
        model: which one
        read: rows as the networks read them, NaN for a missing number
        component: c of each row, in ascending order
        generator: of the draws
    """
    m, w = len(read), model.n_numbers
    noise = torch.randn(m, model.normal_dim, generator=generator, device=read.device)
    for_z, for_missing = noise.tensor_split([model.latent_dim], 1)
    filled, log_q = model.complete(read, component, for_missing)
    counts = component.bincount(minlength=model.n_components).tolist()
    row = torch.arange(m, device=read.device)
    pairs = Pairs(row, component, torch.ones_like(filled[:, 0]), counts)
    posterior = model.encode(filled, pairs)
    u = posterior.sample(for_z)
    latent = model.place(u, pairs), one_hot(component, model.n_components).to(u.dtype)
    params = model.decode(*latent)
    log_numbers = gaussian_log_prob(filled[:, :w], params[:, :w], params[:, w : 2 * w])
    log_ratio = -0.5 * (u**2 - for_z**2 - posterior.logvar).sum(-1) - log_q
    return _Proposed(latent, params, log_ratio, log_numbers)
