import math
import os
import sys
from pathlib import Path

import jaxtyping
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits

from cpvae import data
from cpvae.cli import main as cli
from cpvae.models.build import build

SLOW = [
    line
    for line in (Path(__file__).parent / "slow.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]


def pytest_collection_modifyitems(items):
    """Marks the slow tests."""
    for item in items:
        if item.nodeid.removeprefix("tests/").startswith(tuple(SLOW)):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def _no_cache(tmp_path_factory, monkeypatch):
    """Nothing is read from or written to the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def without_shape_checks():
    """Runs a test as users run it. Checks of shapes at every call make a fit a third slower, and
    are on in the tests of the functions themselves."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def cpvae(monkeypatch, capsys):
    """Runs the command line: exit code, standard output, standard error."""

    def run(*arguments):

        monkeypatch.setattr(sys, "argv", ["cpvae", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        out, err = capsys.readouterr()
        return exit_.value.code, out, err

    return run


@pytest.fixture(scope="session")
def uneven():
    """Makes rows of three uneven kinds: two numbers, one with gaps, a count, and text."""

    def make(n: int, seed: int = 0) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        kind = rng.choice(3, n, p=[0.5, 0.3, 0.2])
        b = np.where(rng.random(n) < 0.1, np.nan, rng.normal(-3 * kind, 1).round(2))
        text = np.where(rng.random(n) < 0.8, kind, rng.integers(0, 3, n))
        columns = {"a": rng.normal(4 * kind, 1), "b": b, "n": rng.poisson(3 + 5 * kind)}
        words = np.array(["x", "NA", "z"])
        return pd.DataFrame({**columns, "w": words[text], "kind": [f"k{i}" for i in kind]})

    return make


@pytest.fixture
def real():
    """Loads a real data set where CPVAE_DATA has its file; skips the test elsewhere."""

    def load(name: str, file: str):
        folder = os.environ.get("CPVAE_DATA")
        if not folder or not (Path(folder) / file).is_file():
            pytest.skip(f"no {file} in the folder CPVAE_DATA: tests on real {name} are skipped")
        return data.load(name)

    return load


@pytest.fixture
def without_pictures(monkeypatch):
    """`cpvae fit` draws no figures, which take longer than a short fit."""
    monkeypatch.setattr(
        "cpvae.cli.run.write_figures",
        lambda folder, _: {"components": folder.path / "figures" / "components.png"},
    )


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Three well separated blobs in four dimensions with unequal units, and who is in which."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=600)
    centres = np.array([[0, 0, 0, 0], [6, 6, 0, 0], [0, 6, 6, 6]])
    x = (centres[labels] + 0.5 * rng.standard_normal((600, 4))) * [1, 10, 100, 0.1] + 5
    return x.astype(np.float32), labels


@pytest.fixture(scope="session")
def segmented():
    """Makes a frame of n rows of three components of unequal size, and says who is in which."""

    def make(n: int) -> tuple[pd.DataFrame, np.ndarray]:
        rng = np.random.default_rng(0)
        component = rng.choice(3, n, p=[0.6, 0.3, 0.1])
        plans = np.array(
            [["free", "free", "pro"], ["pro", "basic", "free"], ["team", "pro", "team"]]
        )
        frame = pd.DataFrame(
            {
                "spend": np.exp(rng.normal(np.array([1.0, 3.0, 5.0])[component], 0.5)).round(2),
                "noise": rng.normal(size=n),
                "plan": plans[component, rng.integers(3, size=n)],
                "vip": rng.random(n) < np.array([0.02, 0.1, 0.9])[component],
                "code": (rng.random(n) < 0.5).astype(float),
                "age": rng.integers(18, 80, n).astype(float),
                "same": np.ones(n),
            }
        )
        frame.loc[rng.random(n) < np.array([0.0, 0.5, 0.0])[component], "age"] = np.nan
        frame.loc[0, "plan"] = "once"
        frame.loc[1, "plan"] = None
        return frame, component

    return make


@pytest.fixture(scope="session")
def few_and_wide() -> np.ndarray:
    """Random features of sixty digits: many columns and few rows, so that a fit overfits."""
    weights = np.random.default_rng(0).normal(size=(64, 60)) / 8
    return np.cos(load_digits().data[:60] @ weights)


MIXED = {
    "shape": (6,),
    "likelihood": "mixed",
    "kinds": ("count", "gaussian", "categorical", "binary", "gaussian", "categorical"),
    "n_levels": (0, 0, 3, 0, 0, 2),
    "loc": (0.5, -1.0, 0.0, 0.0, 1.0, 0.0),
    "scale": (0.5, 2.0, 1.0, 1.0, 0.5, 1.0),
}
UNITS = dict.fromkeys(("loc", "scale"), MIXED["scale"])  # the data's own, not the networks'
LEARNED = {"mixing_weights": "learned"}  # and uneven, see `small`: an even p(c) hides what drops it
CONFIGS = [
    {"shape": (6,), "likelihood": "bernoulli", **LEARNED},
    {"shape": (6,), "likelihood": "gaussian", "covariance": "full", **UNITS, **LEARNED},
    {"shape": (6,), "likelihood": "bernoulli", "gate": "category", **LEARNED},
    {"shape": (6,), "likelihood": "bernoulli", "mixing_weights": "uniform"},
    {"shape": (6,), "likelihood": "gaussian", "gate": "category", "covariance": "full", **LEARNED},
    {"shape": (1, 5, 6), "likelihood": "bernoulli", "network": "conv", **LEARNED},
    {
        "shape": (3, 8, 8),
        "likelihood": "gaussian",
        "network": "conv",
        "noise_scale": 0.3,
        **LEARNED,
    },
    {**MIXED, **LEARNED},
]


# every model of `build.MODELS` beside CP-VAE, `test_models` checks that
OTHERS = [
    {"model": "vae", "shape": (6,), "likelihood": "bernoulli", "n_components": 1},
    {"model": "mog", "shape": (6,), "likelihood": "gaussian", "covariance": "full"},
    {"model": "vamp", "shape": (6,), "likelihood": "bernoulli"},
    {"model": "vamp", "shape": (6,), "likelihood": "gaussian", **UNITS},
    {
        "model": "hvae",
        "shape": (1, 5, 6),
        "likelihood": "bernoulli",
        "network": "conv",
        "n_components": 1,
    },
    {"model": "hvamp", "shape": (6,), "likelihood": "bernoulli"},
    {"model": "vamp", **MIXED},
    {"model": "hvae", **MIXED, "n_components": 1},
]


def name_of(config: dict) -> str:
    of_columns = ("kinds", "n_levels", "loc", "scale")
    named = {key: v for key, v in config.items() if key not in of_columns}
    return "-".join(str(v) for v in named.values())


def small(config: dict):
    """A small model, moved away from its start: nothing is zero, a learned p(c) is uneven."""
    model = build(**{"n_components": 4, "latent_dim": 3, "hidden": (16, 16), "seed": 1, **config})
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        if isinstance(getattr(model.prior, "logits", None), torch.nn.Parameter):
            model.prior.logits.add_(torch.linspace(1.0, -1.0, model.n_components))
    return model.eval()


@pytest.fixture
def configurations():
    """All configurations that `any_model` has in turn."""
    return CONFIGS + OTHERS


@pytest.fixture(params=CONFIGS + OTHERS, ids=name_of)
def any_model(request):
    """One model of every kind."""
    return small(request.param)


@pytest.fixture(params=CONFIGS, ids=name_of)
def cpvae_config(request):
    """The configuration of one CP-VAE of every kind."""
    return request.param


@pytest.fixture
def any_cpvae(cpvae_config):
    """One CP-VAE of every kind."""
    return small(cpvae_config)


@pytest.fixture
def build_small():
    """Builds a small model of a configuration, moved away from its start."""
    return small


def eight(model, generator):
    """Eight examples as a model sees them, drawn so that they fit the kind of their column."""
    n_params = math.prod(model.likelihood.params_shape(model.shape))
    params = torch.randn(8, n_params, generator=generator)
    with torch.no_grad():
        x = model.likelihood.sample(params, generator)
    return model.likelihood.observe(x, generator)


@pytest.fixture
def observed(any_model, generator):
    return eight(any_model, generator)


@pytest.fixture
def observed_cpvae(any_cpvae, generator):
    return eight(any_cpvae, generator)
