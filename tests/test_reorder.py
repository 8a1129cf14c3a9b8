"""Components in another order are the same components."""

import numpy as np
import torch

from cpvae.clustering.gaussians import Gaussians
from cpvae.models.build import build
from cpvae.models.inference import cluster_probs, exact_terms
from cpvae.models.reorder import FIRST, reorder
from cpvae.training.loop import fit
from cpvae.training.recipe import Recipe


def test_a_model_in_another_order_is_the_same_model(any_model, observed):
    order = list(reversed(range(any_model.n_components)))
    before, noise = any_model.state_dict(), torch.Generator().manual_seed(0)
    before = {name: value.clone() for name, value in before.items()}
    any_model.aggregated.copy_(torch.rand(any_model.n_components))
    shares = any_model.aggregated.clone()
    with torch.no_grad():
        log_qc = any_model.log_qc(observed)
        bound = exact_terms(any_model, observed, noise).elbo()
        latent, _ = any_model.code(observed)
        mean = any_model.decode(*latent)
    mean_z, logvar_z = (each.detach().clone() for each in any_model.mixture()[1:3])
    reorder(any_model, order)
    noise.manual_seed(0)
    torch.testing.assert_close(any_model.log_qc(observed), log_qc[:, order])
    torch.testing.assert_close(exact_terms(any_model, observed, noise).elbo(), bound)
    torch.testing.assert_close(any_model.aggregated, shares[order])
    torch.testing.assert_close(any_model.mixture().mean, mean_z[order])
    torch.testing.assert_close(any_model.mixture().logvar, logvar_z[order])
    with torch.no_grad():
        latent, _ = any_model.code(observed)
        torch.testing.assert_close(any_model.decode(*latent), mean)
    reorder(any_model, order)  # back
    any_model.aggregated.copy_(before["aggregated"])
    for name, value in any_model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_so_is_one_that_starts_as_a_mixture(generator):
    rng = np.random.default_rng(0)
    kinds = ("number", "number", "binary", "categorical")
    of = {"kinds": kinds, "n_levels": (0, 0, 0, 3), "loc": (0.0,) * 4, "scale": (1.0,) * 4}
    of["limits"] = [[0.0, None, None], [0.0, None, None], None, None]
    model = build("residual", shape=(4,), likelihood="mixed", n_components=4, latent_dim=3, **of)
    root = rng.normal(size=(4, 2, 2))
    chances = np.log(rng.dirichlet(np.ones(5), 4))
    start = Gaussians(
        np.log(rng.dirichlet(np.ones(4))),
        rng.normal(size=(4, 2)),
        root @ root.transpose(0, 2, 1) + np.eye(2),
        chances,
    )
    model.start_from(start)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.eval()
    x = model.sample(50, from_="uniform")[0]
    x[:10, 0] = torch.nan
    observed, normal = model.likelihood.observe(x), torch.randn(50, model.normal_dim)
    log_qc, bound = model.log_qc(observed), model.exact_terms(observed, normal).elbo()
    order = [2, 0, 3, 1]
    reorder(model, order)
    torch.testing.assert_close(model.log_qc(observed), log_qc[:, order])
    torch.testing.assert_close(model.exact_terms(observed, normal).elbo(), bound)


def test_every_tensor_with_as_many_rows_as_components_is_known(configurations):
    """So that a new one does not keep its order."""
    residual = {"model": "residual", "shape": (6,), "likelihood": "gaussian", "latent_dim": 6}
    several = [each for each in configurations if each.get("n_components") != 1]
    for config in (*several, residual):
        small = {"latent_dim": 3, "hidden": (16, 16), **config}
        for name, value in build(**small, n_components=7).state_dict().items():
            if value.ndim and value.shape[0] == 7:
                assert name in FIRST, name


def test_a_new_fit_has_its_largest_component_first(blobs):
    x = torch.from_numpy(blobs[0])
    uneven = torch.cat([x[blobs[1] == 2], x[blobs[1] == 0][:60], x[blobs[1] == 1][:20]])
    units = {"loc": uneven.mean(0).tolist(), "scale": uneven.std(0).tolist()}
    model = build(
        shape=(4,), likelihood="gaussian", n_components=3, latent_dim=2, hidden=(16, 16), **units
    )
    recipe = Recipe(max_epochs=6, pretraining_epochs=2, anneal_epochs=4, batch_size=32)
    fit(model, uneven, uneven[::5], recipe)
    assert (model.aggregated.diff() <= 0).all()
    torch.testing.assert_close(cluster_probs(model, uneven).mean(0), model.aggregated)
