import math

import pytest
import torch

from cpvae.models.base import Terms
from cpvae.models.functional import conditional_entropy, marginal_entropy, mutual_information
from cpvae.training.objective import invariance, loss, range_cross_entropy
from cpvae.training.recipe import LossWeights


def test_loss_is_the_negative_bound_at_weights_of_one():
    terms = Terms(*torch.randn(3, 8), torch.zeros(8, 2))
    torch.testing.assert_close(loss(terms, LossWeights()), -terms.elbo().mean())
    weighted = loss(terms, LossWeights(kl_z=3.0, kl_c=0.5))
    torch.testing.assert_close(weighted, -(terms.log_px - 3 * terms.kl_z - 0.5 * terms.kl_c).mean())


def test_invariance_is_the_kl_and_zero_where_nothing_moves():
    log_q, log_p = torch.log_softmax(torch.randn(2, 8, 5), -1)
    expected = torch.nn.functional.kl_div(log_p, log_q, log_target=True, reduction="batchmean")
    torch.testing.assert_close(invariance(log_q, log_p), expected)
    assert invariance(log_q, log_q).item() == 0


def test_mutual_information_lies_between_nothing_and_log_k():
    sure = torch.log_softmax(1000 * torch.eye(4), -1)
    assert mutual_information(sure).item() == pytest.approx(math.log(4))
    assert conditional_entropy(sure).item() == pytest.approx(0, abs=1e-6)
    assert mutual_information(sure[:1].repeat(4, 1)).item() == pytest.approx(0, abs=1e-6)
    assert mutual_information(torch.full((4, 4), -math.log(4))).item() == pytest.approx(0, abs=1e-6)


def test_marginal_entropy_has_the_gradient_of_the_entropy_of_the_running_mean():
    logits = torch.randn(6, 4, requires_grad=True)
    before = torch.tensor([0.4, 0.3, 0.2, 0.1])
    mean = torch.log_softmax(logits, -1).exp().mean(0)
    running = 0.9 * before + 0.1 * mean
    entropy = -(running * running.log()).sum()
    (expected,) = torch.autograd.grad(entropy, logits, retain_graph=True)
    log_qc = torch.log_softmax(logits, -1)
    (gradient,) = torch.autograd.grad(marginal_entropy(log_qc, running.detach()), logits)
    torch.testing.assert_close(0.1 * gradient, expected)


def test_cross_entropy_to_a_range_is_that_of_its_categories_together(generator):
    log_qc = torch.randn(3, 4, generator=generator).log_softmax(1).requires_grad_()
    ranges = torch.tensor([[[1, 1]], [[0, 2]], [[0, 3]]])
    (found,) = range_cross_entropy(log_qc, ranges)
    expected = -(log_qc[0, 1] + log_qc[1, :3].exp().sum().log()) / 3
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found, log_qc)
    assert torch.isfinite(gradient).all()
    assert (gradient[0, [0, 2, 3]] == 0).all()
