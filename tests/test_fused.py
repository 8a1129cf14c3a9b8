"""Each fused function against its plain form, values and gradients, alone and under vmap."""

import pytest
import torch
from torch.nn import functional as F

from cpvae.models import fused


def bernoulli_plain(x, logits):
    return (x * logits - F.softplus(logits)).sum(-1)


def kl_plain(mean, logvar, mu, prior_logvar):
    mean, logvar = mean.unsqueeze(-2), logvar.unsqueeze(-2)
    square = (logvar.exp() + (mean - mu) ** 2) / prior_logvar.exp()
    return 0.5 * (square - 1 + prior_logvar - logvar).sum(-1)


def straight_through_plain(logits):
    soft = torch.softmax(logits, -1)
    return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(soft.dtype) + soft - soft.detach()


def normal(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator, dtype=torch.double) for s in shapes]


x, logits = normal((8, 6), (8, 6))
CASES = [
    (
        lambda p: fused.bernoulli_log_prob((x > 0).double(), p),
        lambda p: bernoulli_plain((x > 0).double(), p),
        [3 * logits],
    ),
    (fused.straight_through, straight_through_plain, normal((8, 5))),
    (fused.diagonal_kl, kl_plain, normal((8, 3), (8, 3), (4, 3), (4, 3))),
    (fused.diagonal_kl, kl_plain, [t + 3 for t in normal((8, 3), (8, 3), (1, 3), (1, 3))]),
]


@pytest.mark.parametrize(("function", "plain", "inputs"), CASES)
def test_values_and_gradients_are_those_of_the_plain_form(function, plain, inputs):
    inputs = [t.clone().requires_grad_() for t in inputs]
    out, expected = function(*inputs), plain(*inputs)
    torch.testing.assert_close(out, expected)
    (weights,) = normal(out.shape)
    gradients = torch.autograd.grad((weights * out).sum(), inputs)
    expected_gradients = torch.autograd.grad((weights * expected).sum(), inputs)
    torch.testing.assert_close(gradients, expected_gradients)


@pytest.mark.parametrize(("function", "plain", "inputs"), CASES)
def test_mapped_over_models_it_is_the_same(function, plain, inputs):
    stacks = [torch.stack([t, 0.5 * t, -t]).requires_grad_() for t in inputs]
    out = torch.func.vmap(function)(*stacks)
    expected = torch.stack([plain(*(s[r] for s in stacks)) for r in range(3)])
    torch.testing.assert_close(out, expected)
    gradients = torch.autograd.grad((out**2).sum(), stacks)
    torch.testing.assert_close(gradients, torch.autograd.grad((expected**2).sum(), stacks))


def test_kl_keeps_its_precision_far_from_the_origin():
    mean, logvar, mu, prior_logvar = (t.float() for t in normal((8, 3), (8, 3), (4, 3), (4, 3)))
    near = fused.diagonal_kl(mean, logvar, mu, prior_logvar)
    far = fused.diagonal_kl(mean + 1000, logvar, mu + 1000, prior_logvar)
    torch.testing.assert_close(far, near, rtol=1e-3, atol=1e-3)
