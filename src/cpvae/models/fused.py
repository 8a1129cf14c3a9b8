"""The few functions that training spends its time in, with gradients written out.

Each gives the values of its plain form and takes fewer passes over memory and fewer calls; a step
is made of some hundred small operations, and on a small network they cost as much as the matrix
products. All work under `torch.func.vmap`, which trains restarts together, and a compiler is given
the plain forms, which it fuses by itself.
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
    if torch.compiler.is_compiling():
        return (x * logits - F.softplus(logits)).sum(-1)
    return _BernoulliLogProb.apply(x, logits)


class _BernoulliLogProb(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, logits: Tensor) -> Tensor:
        return torch.addcmul(F.softplus(logits), x, logits, value=-1).sum(-1).neg_()

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
        return _DiagonalKL.forward(mean, logvar, mu, prior_logvar)[0]
    return _DiagonalKL.apply(mean, logvar, mu, prior_logvar)[0]


class _DiagonalKL(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        mean: Tensor, logvar: Tensor, mu: Tensor, prior_logvar: Tensor
    ) -> tuple[Tensor, ...]:
        centre = mu.mean(0)
        mean, mu = mean - centre, mu - centre
        precision, var = torch.exp(-prior_logvar), torch.exp(logvar)
        weighted = mu * precision
        second = torch.addcmul(var, mean, mean)
        constant = torch.addcmul(prior_logvar - 1, mu, weighted).sum(-1)
        square = torch.addmm(constant, second, precision.T)
        square = torch.addmm(square, mean, weighted.T, alpha=-2)
        kl = (square - logvar.sum(-1, keepdim=True)) * 0.5
        return kl, mean, var, second, mu, precision, weighted

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, var, second, mu, precision, weighted = ctx.saved_tensors
        total = grad.sum(0).unsqueeze(-1)  # (k, 1)
        pulled = grad @ precision
        first = grad.T @ mean
        to_mean = torch.addmm(mean * pulled, grad, weighted, alpha=-1)
        to_logvar = torch.sub(var * pulled, grad.sum(-1, keepdim=True)) * 0.5
        apart = mu * total - first
        to_mu = precision * apart
        spread = torch.addcmul(grad.T @ second, mu, apart - first)
        to_prior_logvar = torch.addcmul(total, precision, spread, value=-1) * 0.5
        return to_mean, to_logvar, to_mu, to_prior_logvar
