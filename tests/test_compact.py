"""Categories that say nothing are merged or dropped, and what is left is the same model."""

import math

import numpy as np
import pytest
import torch

from cpvae import CPVAE
from cpvae.evaluation.metrics import cluster_scores
from cpvae.models.build import build
from cpvae.models.compact import TOLERANCE, compact, look
from cpvae.models.inference import exact_terms
from cpvae.training import defaults
from cpvae.training.loop import fit

BASE = {"n_components": 3, "latent_dim": 3, "hidden": (16, 16)}


@pytest.fixture
def doubled(cpvae_config, build_small):
    """A model of three categories, the same with two copies of each, and data drawn from it."""
    return double(cpvae_config, build_small)


def double(config, build_small):
    few = build_small({**config, **BASE})
    few.aggregated.copy_(few.prior.logits.softmax(0))
    config = {**BASE, **config, "n_components": 6}
    many = build(**config)
    state = {}
    for key, tensor in few.state_dict().items():
        if tensor.shape == many.state_dict()[key].shape:
            state[key] = tensor
        elif key.startswith(("posterior.", "decoder.")):
            state[key] = torch.cat([tensor[:, :-3], tensor[:, -3:].repeat(1, 2)], 1)
        elif key.startswith("posterior_gate"):
            state[key] = tensor.repeat(1, 2)
        else:
            state[key] = tensor.repeat(2, *[1] * (tensor.ndim - 1))
    many.load_state_dict(state)
    x = few.sample(300, generator=torch.Generator().manual_seed(3))[0]
    return few, many.eval(), config, x


def elbo(model, x):
    generator = torch.Generator().manual_seed(0)
    observed = model.likelihood.observe(x.flatten(1), generator)
    return exact_terms(model, observed, generator).elbo()


def merge(model, groups, x):
    seen = look(model, x, 0)
    return model.merged(groups, seen.features, seen.log_qc)


def test_merging_copies_gives_the_model_that_was_copied(doubled):
    few, many, config, x = doubled
    torch.testing.assert_close(elbo(many, x), elbo(few, x), atol=1e-4, rtol=1e-5)
    merged = merge(many, [[0, 3], [1, 4], [2, 5]], x)
    again = build(**{**config, "n_components": 3, "mixing_weights": "learned"})
    again.load_state_dict(merged.state_dict())  # it is one that can be built
    torch.testing.assert_close(elbo(again.eval(), x), elbo(merged, x), rtol=0, atol=0)
    torch.testing.assert_close(elbo(merged, x), elbo(few, x), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(merged.cluster_probs(x), few.cluster_probs(x), atol=1e-5, rtol=1e-4)
    normalised = [
        m._replace(logits=m.logits.log_softmax(0)) for m in (merged.mixture(), few.mixture())
    ]
    for mine, theirs in zip(*normalised, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_a_merged_category_has_the_joint_probability_of_its_members(doubled):
    _, many, config, x = doubled
    many.aggregated.copy_(torch.tensor([0.3, 0.2, 0.05, 0.25, 0.15, 0.05]))
    merged = merge(many, [[0, 3, 1, 4], [2, 5]], x)
    torch.testing.assert_close(merged.prior.logits.softmax(0), torch.tensor([0.9, 0.1]))
    torch.testing.assert_close(merged.aggregated, torch.tensor([0.9, 0.1]))


def test_calling_an_example_by_its_copy_costs_nothing(doubled):
    _, many, _, x = doubled
    costs = look(many, x, 0).costs
    torch.testing.assert_close(costs.diagonal(3), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(costs[:3, :3], costs[3:, 3:], atol=1e-4, rtol=1e-4)


def test_the_bound_given_each_category_adds_up_to_the_bound(any_cpvae, observed_cpvae, generator):
    model, x = any_cpvae, observed_cpvae
    normal = torch.randn(8, model.latent_dim, generator=generator)
    terms = model.exact_terms(x, normal)
    given = (terms.log_qc.exp() * model.given_each(x, normal)).sum(1)
    torch.testing.assert_close(given - terms.kl_c, terms.elbo(), atol=1e-4, rtol=1e-5)


def test_six_categories_of_three_blobs_become_three(blobs):
    x, labels = (torch.from_numpy(part) for part in blobs)
    config = defaults.model_config(x.numpy()[:500], model="cpvae", n_components=6)
    model = build(**config)
    fit(model, x[:500], x[500:], defaults.recipe(500, config, max_epochs=60), accelerator="cpu")
    found = compact(model, config, x[500:])
    assert found.model.n_components == 3
    assert found.config == {**config, "n_components": 3, "mixing_weights": "learned"}
    assert found.elbo_after_nats >= found.elbo_before_nats - TOLERANCE
    assigned = found.model.cluster_probs(x).argmax(1)
    pairs = {(int(a), int(b)) for a, b in zip(assigned, labels, strict=True)}
    assert len(pairs) == 3


def test_a_dead_category_is_dropped_and_its_name_is_no_longer_paid_for(build_small):
    config = {"shape": (6,), "likelihood": "bernoulli", "seed": 2}
    _, many, config, x = double(config, build_small)
    with torch.no_grad():
        many.classifier.bias[3:] = -300
    found = compact(many, config, x, tolerance=0.0)
    assert max(k for group in found.groups for k in group) < 3
    assert found.elbo_after_nats >= found.elbo_before_nats + math.log(2) - 1e-3
    assert found.elbo_after_nats == max(bound for _, bound in found.curve)


def test_a_cluster_that_is_worth_several_categories_becomes_one():
    rng = np.random.default_rng(0)
    kind = rng.choice(3, 1500, p=[0.8, 0.1, 0.1])
    shape = rng.normal(size=(3, 8, 8)) / 8**0.5
    x = rng.uniform(-3, 3, size=(3, 8))[kind]
    x += np.einsum("nij,nj->ni", shape[kind], rng.normal(size=(1500, 8)))
    model = CPVAE(8, max_epochs=60, random_state=0).fit(x)
    data = torch.from_numpy(x).float()
    by_bound = compact(model.model_, model.config_, data, tolerance=0.02)
    found = compact(model.model_, model.config_, data, tolerance=0.02, connected_in=data)
    assert found.model.n_components == 3 < by_bound.model.n_components
    assert found.elbo_after_nats < by_bound.elbo_after_nats
    assert (
        cluster_scores(kind, model.compact(x, 0.02, merge_connected=True).predict(x))["accuracy"]
        > 0.95
    )
    merged = sorted(sorted(group) for group in found.groups)
    assert all(any(set(g) <= set(group) for group in merged) for g in by_bound.groups)
    assert model.groups_ == found.groups


def test_other_models_are_refused():
    vae = build("vae", shape=(6,))
    with pytest.raises(ValueError, match="Only the model"):
        compact(vae, {}, torch.rand(5, 6))
