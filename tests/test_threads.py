"""Fits in threads are those of their seed, and leave nothing changed."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from cpvae import CPVAE
from cpvae.models.build import build
from cpvae.training import kernels
from cpvae.training.settings import torch_settings


def weights(model):
    return [value.detach().numpy().tobytes() for value in model.state_dict().values()]


@pytest.mark.usefixtures("without_shape_checks")
def test_starting_weights_are_of_the_seed_alone_and_no_global_generator_is_touched(configurations):
    before = torch.get_rng_state()
    sizes = {"n_components": 4, "latent_dim": 3, "hidden": (8, 8)}
    for config in configurations:
        first = weights(build(**{**sizes, **config}, seed=3))
        torch.rand(1)  # as another thread may
        after = torch.get_rng_state()
        assert weights(build(**{**sizes, **config}, seed=3)) == first
        assert weights(build(**{**sizes, **config}, seed=4)) != first
        assert torch.equal(torch.get_rng_state(), after)
    torch.set_rng_state(before)


def test_starting_weights_are_those_that_torch_draws_with_that_seed():
    """So that runs of a seed are what they were when layers drew from the global generator."""
    from cpvae.streams import stream

    model = build(shape=(4,), n_components=2, latent_dim=3, seed=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(5, "weights"))
        assert torch.equal(model.prior.mean, 0.05 * torch.randn(2, 3))


@pytest.mark.parametrize("how", ["plain", "recorded", "residual"])
@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.filterwarnings("ignore")  # filters are of all threads
def test_fits_of_one_seed_in_threads_are_one(how, monkeypatch):
    if how == "recorded":
        monkeypatch.setattr(kernels, "ENOUGH_TO_RECORD", 0)
    x = np.random.default_rng(0).normal(size=(60, 2))
    model = "residual" if how == "residual" else "cpvae"

    def fitted(_):
        fit = CPVAE(2, model=model, hidden=[8], max_epochs=3, accelerator="cpu").fit(x)
        return weights(fit.model_)

    alone = fitted(0)
    with ThreadPoolExecutor(2) as pool:
        assert all(beside == alone for beside in pool.map(fitted, range(2)))


def test_settings_of_torch_are_those_before_the_first_fit_after_the_last():
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(2)
    inside, done = threading.Barrier(2), threading.Event()

    def first():
        with torch_settings(torch.device("cuda"), small=True):
            inside.wait()
            inside.wait()  # the second has begun
        assert torch.get_num_threads() == 2
        done.set()

    def second():
        inside.wait()
        with torch_settings(torch.device("cuda"), small=True):
            inside.wait()
            assert done.wait(10)  # the first has ended
            assert torch.get_float32_matmul_precision() == "high"
            assert torch.get_num_threads() == 1
        return torch.get_num_threads()

    try:
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(first), pool.submit(second)]
            assert futures[1].result() == 2
            futures[0].result()
        assert torch.get_float32_matmul_precision() == precision
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
