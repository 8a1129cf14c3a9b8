"""Restarts: each is the run of its seed alone, and the best bound is kept."""

import dataclasses

import pytest
import torch

from cpvae.checkpoint import RunFolder
from cpvae.models.base import build
from cpvae.training.fit import _train_apart, _train_stack, fit_best
from cpvae.training.loop import Diverged, fit
from cpvae.training.recipe import Recipe

CONFIG = {"shape": [12], "n_components": 3, "latent_dim": 2, "hidden": [8, 8]}
RECIPE = Recipe(max_epochs=4, batch_size=20, anneal_epochs=2, seed=5, learning_rate=0.01)


@pytest.fixture
def data(generator):
    x = torch.rand(150, 12, generator=generator)
    return x[:100], x[100:]


def alone(data, seed):
    model = build(**CONFIG, seed=seed)
    recipe = dataclasses.replace(RECIPE, seed=seed)
    return model, fit(model, *data, recipe, accelerator="cpu")


def bounds(history):
    return [record["valid_elbo_nats"] for record in history]


def test_the_best_of_the_restarts_is_kept_and_each_is_its_seed_alone(data, tmp_path):
    folder, told = RunFolder(tmp_path / "run"), []
    folder.write_info({"model": CONFIG})
    model, history, outcomes = fit_best(
        CONFIG, RECIPE, 3, *data, None, folder, lambda r, record: told.append((r, record)), "cpu"
    )
    runs = {seed: alone(data, seed) for seed in (5, 6, 7)}
    assert [o["seed"] for o in outcomes] == [5, 6, 7]
    for outcome in outcomes:
        expected = bounds(runs[outcome["seed"]][1])
        assert outcome["best_valid_elbo_nats"] == max(expected)
        assert outcome["epochs"] == 4
        restart = RunFolder(folder.path / "restarts" / f"seed-{outcome['seed']}")
        assert bounds(restart.read_history()) == expected
    best = max(runs, key=lambda seed: max(bounds(runs[seed][1])))
    assert bounds(history) == bounds(runs[best][1]) == bounds(folder.read_history())
    for key, value in runs[best][0].state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
        assert torch.equal(folder.read_model().state_dict()[key], value), key
    assert sorted((r, record["epoch"]) for r, record in told) == [
        (r, epoch) for r in range(3) for epoch in (1, 2, 3, 4)
    ]


def test_restarts_that_are_there_are_not_run_again_and_more_join_them(data, tmp_path):
    folder = RunFolder(tmp_path / "run")
    fit_best(CONFIG, RECIPE, 2, *data, folder=folder, accelerator="cpu")
    before = folder.path.joinpath("restarts/seed-6/history.jsonl").read_bytes()
    _, _, outcomes = fit_best(CONFIG, RECIPE, 3, *data, folder=folder, accelerator="cpu")
    assert folder.path.joinpath("restarts/seed-6/history.jsonl").read_bytes() == before
    assert [o["seed"] for o in outcomes] == [5, 6, 7]
    folder.clear()
    assert not list(folder.path.glob("restarts/*"))


def test_a_stack_gives_the_same_runs_as_a_process_each(data, tmp_path):
    recipes = [dataclasses.replace(RECIPE, seed=seed) for seed in (5, 6)]
    folders = [RunFolder(tmp_path / f"seed-{seed}") for seed in (5, 6)]
    for folder in folders:
        folder.path.mkdir()
    _train_stack(CONFIG, recipes, folders, tmp_path, *data, None, None, "cpu")
    for seed, folder in zip((5, 6), folders, strict=True):
        model, history = alone(data, seed)
        assert bounds(folder.read_history()) == pytest.approx(bounds(history), abs=1e-4)
        torch.testing.assert_close(folder.read_weights(), model.state_dict(), rtol=1e-3, atol=1e-4)


def test_a_set_begun_on_one_kind_of_device_does_not_start_anew_on_another(data, tmp_path):
    home = RunFolder(tmp_path / "run" / "restarts")
    home.write_training({}, {})
    with pytest.raises(ValueError, match="were begun on cuda"):
        fit_best(CONFIG, RECIPE, 2, *data, folder=RunFolder(tmp_path / "run"), accelerator="cpu")


def test_restarts_that_all_diverge_say_so(data, tmp_path):
    wild = dataclasses.replace(RECIPE, learning_rate=1e30)
    with pytest.raises(Diverged, match="All 2 restarts diverged"):
        fit_best(CONFIG, wild, 2, *data, accelerator="cpu")
    recipes, folders = [RECIPE, wild], [RunFolder(tmp_path / name) for name in ("a", "b")]
    for folder in folders:
        folder.path.mkdir()
    _train_apart(CONFIG, recipes, folders, True, *data, None, None, "cpu")  # one of two: fine
    assert len(folders[0].read_history()) == 4
