"""What is optimised: the weighted bound, the optional invariance term, and the initial clusters."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cpvae.models.base import Model, Noise, Terms
from cpvae.models.functional import conditional_entropy, marginal_entropy
from cpvae.training.batches import Batch
from cpvae.training.recipe import LossWeights

MEMORY = 0.95  # what a step keeps of the running mean of q(c|x)


class Means(NamedTuple):
    """Means over the examples of an epoch, in nats: a float a model, (r) each."""

    loss: Tensor
    log_px: Tensor
    kl_z: Tensor
    kl_c: Tensor
    invariance: Tensor


class Objective(nn.Module):
    """What a step minimises, as a module, so that its parameters can be handed in as a stack."""

    def __init__(self, model: Model, expectation: str):
        super().__init__()
        self.model, self.expectation = model, expectation
        self.mean_of_all: Callable[[Tensor], Tensor] = lambda mean: mean  # see `Engine`

    def forward(
        self,
        batch: Batch,
        usage: Float[Tensor, " k"],
        weights: LossWeights,
        temperature: float | Tensor,
    ) -> tuple[Tensor, dict[str, Tensor], Float[Tensor, " k"]]:
        """The loss, what to keep of it by its name in `Means`, and the running mean of q(c|x)."""
        noise = Noise(batch.normal, batch.gumbel)
        terms = self.model.terms(batch.observed, noise, temperature, self.expectation)
        objective = loss(terms, weights)
        if batch.initial is not None:
            component, merged = range_cross_entropy(terms.log_qc, batch.initial).unbind(-1)
            objective = objective + weights.merged_cluster * merged
            objective = objective + weights.component * (component - merged)
        kept = {name: getattr(terms, name).detach() for name in ("log_px", "kl_z", "kl_c")}
        if batch.changed is None:
            return objective, {"loss": objective.detach(), **kept}, usage
        differ = invariance(terms.log_qc, self.model.log_qc(batch.changed))
        mean = terms.log_qc.detach().exp().mean(0)
        usage = MEMORY * usage + (1 - MEMORY) * self.mean_of_all(mean)
        objective = objective + weights.invariance * differ
        objective = objective - weights.marginal_entropy * marginal_entropy(terms.log_qc, usage)
        objective = objective + weights.conditional_entropy * conditional_entropy(terms.log_qc)
        kept = {"loss": objective.detach(), **kept, "invariance": differ.detach()}
        return objective, kept, usage


def loss(terms: Terms, weights: LossWeights) -> Float[Tensor, ""]:
    """Negative weighted bound in nats (eq. 7); the only mean over examples."""
    return -(terms.log_px - weights.kl_z * terms.kl_z - weights.kl_c * terms.kl_c).mean()


def invariance(
    log_qc: Float[Tensor, "b k"], log_qc_changed: Float[Tensor, "b k"]
) -> Float[Tensor, ""]:
    """KL(q(c|x) || q(c|T(x))) in nats, averaged: how far the category moves when x is changed."""
    return (log_qc.exp() * (log_qc - log_qc_changed)).sum(-1).mean()


def range_cross_entropy(
    log_qc: Float[Tensor, "b k"], ranges: Int[Tensor, "b m 2"]
) -> Float[Tensor, " m"]:
    """Mean -log q(c in a range | x) in nats; a range goes from its first to its last category."""
    category = torch.arange(log_qc.shape[-1], device=log_qc.device)
    outside = (category < ranges[..., :1]) | (category > ranges[..., 1:])
    return -log_qc.unsqueeze(-2).masked_fill(outside, -math.inf).logsumexp(-1).mean(-2)
