"""What is optimised: the weighted bound, its schedules, and the optional invariance term.

Schedules are pure functions of the epoch; nothing of them lives on a model.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cpvae.models import Terms


class Weights(NamedTuple):
    """Weights of the two KL terms in training; at 1 the objective is the bound."""

    kl_z: float = 1.0
    kl_c: float = 1.0


def ramp(epoch: int, start: float, end: float, epochs: int) -> float:
    """Straight line from ``start`` at epoch 0 to ``end`` at epoch ``epochs``, constant after."""
    if epochs == 0:
        return end
    return start + (end - start) * min(1.0, epoch / epochs)


def loss(terms: Terms, weights: Weights) -> Float[Tensor, ""]:
    """Negative weighted bound in nats (eq. 7); the only mean over examples."""
    return -(terms.log_px - weights.kl_z * terms.kl_z - weights.kl_c * terms.kl_c).mean()


def invariance(
    log_qc: Float[Tensor, "b k"], log_qc_moved: Float[Tensor, "b k"]
) -> Float[Tensor, ""]:
    """KL(q(c|x) || q(c|T(x))) in nats, averaged: how far the category moves when x is moved."""
    return (log_qc.exp() * (log_qc - log_qc_moved)).sum(-1).mean()


def mutual_information(log_qc: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
    """I(c; x) in nats over the batch: entropy of the mean q(c|x) less the mean entropy."""
    mean = log_qc.exp().mean(0)
    smallest = torch.finfo(mean.dtype).tiny
    marginal = -(mean * mean.clamp_min(smallest).log()).sum()
    return marginal + (log_qc.exp() * log_qc).sum(-1).mean()
