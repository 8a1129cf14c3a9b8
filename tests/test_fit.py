"""Restarts: each is the run of its seed alone, and the best bound is kept."""

import dataclasses
import math

import pytest
import torch

from cpvae.checkpoint import RunFolder, describe
from cpvae.data import Schema
from cpvae.models.build import build
from cpvae.training.diagnosis import Diverged
from cpvae.training.loop import TrainingData, fit, fit_together
from cpvae.training.recipe import Recipe
from cpvae.training.restarts import fit_restarts

CONFIG = {"shape": [12], "n_components": 3, "latent_dim": 2, "hidden": [8, 8]}
RECIPE = Recipe(max_epochs=4, batch_size=20, anneal_epochs=2, seed=5, learning_rate=0.01)


@pytest.fixture
def data(generator):
    x = torch.rand(150, 12, generator=generator)
    return TrainingData(x[:100], x[100:])


def alone(data, seed):
    model = build(**CONFIG, seed=seed)
    recipe = dataclasses.replace(RECIPE, seed=seed)
    return model, fit(model, data.train, data.valid, recipe, accelerator="cpu")


def bounds(history):
    return [record["valid_elbo_nats"] for record in history]


def test_the_best_of_the_restarts_is_kept_and_each_is_its_seed_alone(data, tmp_path):
    folder, seen = RunFolder(tmp_path / "run"), []
    folder.write_info(describe(Schema((12,)), CONFIG, RECIPE))
    model, history, outcomes = fit_restarts(
        CONFIG, RECIPE, 3, data, folder, lambda r, record: seen.append((r, record)), "cpu"
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
    assert sorted((r, record["epoch"]) for r, record in seen) == [
        (r, epoch) for r in range(3) for epoch in (1, 2, 3, 4)
    ]


def test_restarts_that_are_there_are_not_run_again_and_more_join_them(data, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.write_info(describe(Schema(tuple(CONFIG["shape"])), CONFIG, RECIPE))
    fit_restarts(CONFIG, RECIPE, 2, data, folder=folder, accelerator="cpu")
    before = folder.path.joinpath("restarts/seed-6/history.jsonl").read_bytes()
    _, _, outcomes = fit_restarts(CONFIG, RECIPE, 3, data, folder=folder, accelerator="cpu")
    assert folder.path.joinpath("restarts/seed-6/history.jsonl").read_bytes() == before
    assert [o["seed"] for o in outcomes] == [5, 6, 7]
    folder.clear()
    assert not list(folder.path.glob("restarts/*"))


def test_a_stack_gives_the_same_runs_as_a_process_each(data, tmp_path):
    recipes = [dataclasses.replace(RECIPE, seed=seed) for seed in (5, 6)]
    stack = [build(**CONFIG, seed=seed) for seed in (5, 6)]
    histories = fit_together(stack, data, recipes, accelerator="cpu")
    for seed, together, told in zip((5, 6), stack, histories, strict=True):
        model, history = alone(data, seed)
        assert bounds(told) == pytest.approx(bounds(history), abs=1e-4)
        torch.testing.assert_close(together.state_dict(), model.state_dict(), rtol=1e-3, atol=1e-4)


def test_a_set_begun_on_one_kind_of_device_does_not_start_anew_on_another(data, tmp_path):
    home = RunFolder(tmp_path / "run" / "restarts")
    home.write_training({}, {})
    with pytest.raises(ValueError, match="were begun on cuda"):
        fit_restarts(CONFIG, RECIPE, 2, data, folder=RunFolder(tmp_path / "run"), accelerator="cpu")


def test_restarts_that_all_diverge_say_so(data, tmp_path):
    wild = dataclasses.replace(RECIPE, learning_rate=1e30)
    with pytest.raises(Diverged, match="All 2 restarts diverged"):
        fit_restarts(CONFIG, wild, 2, data, accelerator="cpu")


def test_one_model_that_diverges_leaves_the_others(data):
    recipes = [dataclasses.replace(RECIPE, seed=seed) for seed in (5, 6)]
    stack = [build(**CONFIG, seed=seed) for seed in (5, 6)]

    def poison(place, record):
        if (place, record["epoch"]) == (0, 2):
            with torch.no_grad():
                stack[0].prior.mean.fill_(math.nan)

    first, second = fit_together(stack, data, recipes, on_epoch=poison, accelerator="cpu")
    assert len(first) == 2
    assert bounds(second) == pytest.approx(bounds(alone(data, 6)[1]), abs=1e-4)
    for model in stack:  # the best weights are numbers
        assert all(value.isfinite().all() for value in model.state_dict().values())
