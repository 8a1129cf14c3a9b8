"""The few functions that training spends its time in, with gradients written out.

Each gives the values of its plain form and takes fewer passes over memory and fewer calls; a step
is made of some hundred small operations, and on a small network they cost as much as the matrix
products. All work under `torch.func.vmap`, which trains restarts together.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F


def bernoulli_log_prob(
    x: Float[Tensor, "*#b f"], logits: Float[Tensor, "*#b f"]
) -> Float[Tensor, "*b"]:
    """Log-probability in nats of ``x`` in [0, 1] under Bernoulli features, summed over f.

    The plain form is ``(x * logits - softplus(logits)).sum(-1)``. There is no gradient to ``x``.
    """
    if torch.compiler.is_compiling():  # a compiler fuses the plain form by itself
        return (x * logits - F.softplus(logits)).sum(-1)
    return _BernoulliLogProb.apply(x, logits)


class _BernoulliLogProb(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, logits: Tensor) -> Tensor:
        return torch.linalg.vecdot(x, logits) - F.softplus(logits).sum(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        x, logits = ctx.saved_tensors
        return None, (x - torch.sigmoid(logits)) * grad.unsqueeze(-1)


def straight_through(logits: Float[Tensor, "*b k"]) -> Float[Tensor, "*b k"]:
    """One-hot of the greatest logit, with the gradient of the softmax of the logits."""
    if torch.compiler.is_compiling():
        soft = torch.softmax(logits, -1)
        category = torch.arange(logits.shape[-1], device=logits.device)
        one_hot = (category == logits.argmax(-1, keepdim=True)).to(soft.dtype)
        return one_hot + soft - soft.detach()
    return _StraightThrough.apply(logits)


class _StraightThrough(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor) -> Tensor:
        category = torch.arange(logits.shape[-1], device=logits.device)
        return (category == logits.argmax(-1, keepdim=True)).to(logits.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (logits,) = ctx.saved_tensors
        soft = torch.softmax(logits, -1)
        weighted = grad * soft
        return weighted - soft * weighted.sum(-1, keepdim=True)


def diagonal_kl(
    mean: Float[Tensor, "b d"],
    logvar: Float[Tensor, "b d"],
    mu: Float[Tensor, "k d"],
    prior_logvar: Float[Tensor, "k d"],
) -> Float[Tensor, "b k"]:
    r"""KL in nats of every N(mean, exp logvar) from every N(mu, exp prior_logvar) (eq. 8, B2).

    Two matrix products for all pairs, see `functional`. The origin is moved to the middle of the
    ``mu`` first, because in single precision the terms cancel badly when they lie far from zero.
    """
    if torch.compiler.is_compiling():
        return _DiagonalKL.forward(mean, logvar, mu, prior_logvar)
    return _DiagonalKL.apply(mean, logvar, mu, prior_logvar)


class _DiagonalKL(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(mean: Tensor, logvar: Tensor, mu: Tensor, prior_logvar: Tensor) -> Tensor:
        centre = mu.mean(0)
        mean, mu = mean - centre, mu - centre
        precision = torch.exp(-prior_logvar)
        weighted = mu * precision
        second = torch.addcmul(torch.exp(logvar), mean, mean)
        constant = torch.addcmul(prior_logvar, mu, weighted).sum(-1) - mean.shape[1]
        square = torch.addmm(constant, second, precision.T)
        square = torch.addmm(square, mean, weighted.T, alpha=-2)
        return 0.5 * (square - logvar.sum(-1, keepdim=True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, logvar, mu, prior_logvar = ctx.saved_tensors
        centre = mu.mean(0)
        mean, mu = mean - centre, mu - centre
        precision, var = torch.exp(-prior_logvar), torch.exp(logvar)
        total = grad.sum(0).unsqueeze(-1)  # (k, 1)
        pulled = grad @ precision
        first = grad.T @ mean
        second = grad.T @ torch.addcmul(var, mean, mean)
        to_mean = mean * pulled - grad @ (mu * precision)
        to_logvar = 0.5 * (var * pulled - grad.sum(-1, keepdim=True))
        to_mu = precision * (mu * total - first)
        spread = second - 2 * mu * first + mu * mu * total
        to_prior_logvar = 0.5 * (total - precision * spread)
        return to_mean, to_logvar, to_mu, to_prior_logvar
