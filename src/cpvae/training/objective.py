"""What is optimised: the weighted bound, its schedules, and the optional invariance term.

Schedules are pure functions of the epoch; nothing of them lives on a model.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpvae.models.base import Terms


class Weights(NamedTuple):
    """Weights in training; at their defaults the objective is the bound.

    ``kl_z`` and ``kl_c`` weigh the two KL terms, ``invariance`` the KL between the categories of an
    example and of the same example moved, ``balance`` the entropy of the mean q(c|x), which is
    rewarded, ``certainty`` the mean entropy of q(c|x), which is charged, ``start`` the surprise of
    q(c|x) at the group of categories that an example may start in, and ``piece`` how much larger
    that of its piece is.
    """

    kl_z: float | Tensor = 1.0
    kl_c: float | Tensor = 1.0
    invariance: float | Tensor = 0.0
    balance: float | Tensor = 0.0
    certainty: float | Tensor = 0.0
    start: float | Tensor = 0.0
    piece: float | Tensor = 0.0


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


def evenness(log_qc: Float[Tensor, "b k"], usage: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """Cross entropy in nats of the batch's mean q(c|x) to ``usage``, a running mean over batches.

    Its gradient is that of the entropy of the running mean. The entropy of the batch's own mean
    would ask every batch to hold all categories evenly, which batches of even data do not.
    """
    return -(log_qc.exp().mean(0) * usage.clamp_min(torch.finfo(usage.dtype).tiny).log()).sum()


def conditional_entropy(log_qc: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
    """Mean H(q(c|x)) in nats: 0 where every example is sure of its category."""
    return -(log_qc.exp() * log_qc).sum(-1).mean()


def surprise(log_qc: Float[Tensor, "b k"], between: Int[Tensor, "b m 2"]) -> Float[Tensor, " m"]:
    """Mean -log q in nats of categories together, from the first to the last of a ``between``."""
    category = torch.arange(log_qc.shape[-1], device=log_qc.device)
    outside = (category < between[..., :1]) | (category > between[..., 1:])
    return -log_qc.unsqueeze(-2).masked_fill(outside, -math.inf).logsumexp(-1).mean(-2)


def mutual_information(log_qc: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """I(c; x) in nats over the examples given: entropy of the mean less the mean entropy."""
    mean = log_qc.exp().mean(0)
    return evenness(log_qc, mean) - conditional_entropy(log_qc)
