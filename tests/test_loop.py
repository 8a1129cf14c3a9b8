import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from cpvae.checkpoint import MODEL, RunFolder, best_of, describe
from cpvae.data import Schema
from cpvae.data.augment import Augment
from cpvae.evaluation.metrics import cluster_scores
from cpvae.models.build import build
from cpvae.models.inference import exact_terms
from cpvae.training import defaults, loop, state
from cpvae.training.diagnosis import Diverged, overfitted, still_rising
from cpvae.training.loop import fit, validate, validation_data
from cpvae.training.recipe import Recipe

CONFIG = {"shape": [12], "n_components": 3, "latent_dim": 2, "hidden": [8, 8]}
SCHEMA = Schema((12,))
RECIPE = Recipe(max_epochs=6, batch_size=20, anneal_epochs=3, seed=3, averaging=3)


@pytest.fixture
def data(generator):
    centres = torch.rand(3, 12, generator=generator).round()
    x = centres[torch.randint(3, (150,), generator=generator)] * 0.9 + 0.05
    return x[:100], x[100:]


def fitted(data, recipe=RECIPE, folder=None, on_epoch=None, augment=None):
    model = build(**CONFIG)
    history = fit(model, *data, recipe, augment, folder, on_epoch, accelerator="cpu")
    return model, history


def without_time(history):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


@pytest.mark.parametrize("expectation", ["relaxed", "straight_through", "exact"])
def test_two_equal_runs_are_equal_bit_for_bit(data, expectation):
    recipe = dataclasses.replace(RECIPE, expectation=expectation, invariance_weight=2.0)

    jitter = Augment(12, lambda x, u: (x + 0.2 * u - 0.1).clamp(0, 1))
    (one, first), (two, second) = (fitted(data, recipe, augment=jitter) for _ in range(2))
    assert without_time(first) == without_time(second)
    for key, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[key]), key
    _, third = fitted(data, dataclasses.replace(recipe, seed=4), augment=jitter)
    assert third[0]["train_loss_nats"] != first[0]["train_loss_nats"]  # from the same weights


class Killed(Exception):
    pass


@pytest.mark.parametrize("pretraining_epochs", [0, 2])
@pytest.mark.parametrize("saves", ["each epoch", "only the first epoch"])
@pytest.mark.parametrize("at", [1, 2, 4])
def test_killed_and_resumed_is_equal_bit_for_bit(
    data, tmp_path, monkeypatch, at, saves, pretraining_epochs
):
    monkeypatch.setattr(state, "SAVE_EVERY", 0 if saves == "each epoch" else 1e9)
    recipe = dataclasses.replace(RECIPE, pretraining_epochs=pretraining_epochs, exact_after=4)
    (whole, history) = fitted(data, recipe)

    def kill(record):
        if record["epoch"] == at:
            raise Killed

    folder = RunFolder(tmp_path / "run")
    folder.write_info(describe(SCHEMA, CONFIG, RECIPE))
    with pytest.raises(Killed):
        fitted(data, recipe, folder=folder, on_epoch=kill)
    with open(folder.path / "history.jsonl", "a") as file:
        file.write('{"epoch": 99, "sec')  # a line that was being written
    resumed, history_resumed = fitted(data, recipe, folder=folder)
    assert without_time(history_resumed) == without_time(history)
    assert without_time(folder.read_history()) == without_time(history)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
        assert torch.equal(value, folder.read_model().state_dict()[key]), key


def test_resuming_a_finished_run_changes_nothing_and_more_epochs_go_on(data, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.write_info(describe(SCHEMA, CONFIG, RECIPE))
    fitted(data, folder=folder)
    before = (folder.path / MODEL).read_bytes()
    _, history = fitted(data, folder=folder)
    assert len(history) == 6
    assert (folder.path / MODEL).read_bytes() == before
    longer = dataclasses.replace(RECIPE, max_epochs=9)
    _, extended = fitted(data, longer, folder)
    _, whole = fitted(data, longer)
    assert without_time(extended) == without_time(whole)


def test_history_has_the_fields_that_it_promises(data):
    _, history = fitted(data)
    assert [r["epoch"] for r in history] == [1, 2, 3, 4, 5, 6]
    for record in history:
        json.dumps(record, allow_nan=False)
        assert {"seconds", "train_loss_nats", "train_elbo_straight_through_nats"} <= set(record)
        assert {"valid_elbo_nats", "valid_kl_z_nats", "valid_kl_c_nats"} <= set(record)
        assert 0 <= record["components_used"] <= 3
    assert [r["weight_kl_z"] for r in history[:4]] == pytest.approx([6, 13 / 3, 8 / 3, 1])
    assert history[-1]["valid_elbo_nats"] > history[0]["valid_elbo_nats"]


def test_best_weights_are_kept_by_the_validation_bound(data):
    records = []
    model, history = fitted(
        data, dataclasses.replace(RECIPE, learning_rate=0.3), on_epoch=records.append
    )
    best = max(r["valid_elbo_nats"] for r in history)
    valid = validation_data(model, data[1], RECIPE.seed)
    assert validate(model, valid, RECIPE.seed)["valid_elbo_nats"] == best
    assert records == history


def test_categories_are_initialised_after_pretraining_and_the_best_weights_are_from_then_on(
    generator,
):
    kind = torch.arange(300) % 3
    centres = torch.rand(3, 12, generator=generator).round()
    x = centres[kind] * 0.8 + 0.2 * torch.rand(300, 12, generator=generator)
    data = x[:200], x[200:]
    recipe = dataclasses.replace(RECIPE, max_epochs=80, anneal_epochs=60, pretraining_epochs=30)
    recipe = dataclasses.replace(recipe, kl_z_start=1.0, learning_rate=0.02)
    model, history = fitted(data, recipe)
    information = [record["valid_mutual_information_c_nats"] for record in history]
    assert max(information[:30]) < 0.01  # c is not used
    assert information[49] > 0.9  # of log 3 = 1.1
    best = best_of(history, 30)
    assert best["epoch"] > 30
    valid = validation_data(model, data[1], recipe.seed)
    assert validate(model, valid, recipe.seed)["valid_elbo_nats"] == best["valid_elbo_nats"]
    groups = model.cluster_probs(x).argmax(1).numpy()
    assert cluster_scores(kind.numpy(), groups)["accuracy"] == 1


def test_initial_clusters_are_communities_where_there_are_enough_rows():
    config = {"model": "cpvae", "n_components": 10, "shape": (784,), "hidden": [300]}
    config["likelihood"] = "bernoulli"
    assert defaults.recipe(50_000, config, "cpu").pretraining_epochs == 15
    assert defaults.recipe(50_000, config, "cpu", anneal_epochs=6).pretraining_epochs == 3
    assert defaults.recipe(50_000, config, "cpu", invariance_weight=2.0).pretraining_epochs == 15
    assert defaults.recipe(50_000, config, "cpu").kl_z_start == 1
    assert defaults.recipe(500, {**config, "shape": (1, 28, 28)}, "cpu").kl_z_start == 1
    assert defaults.recipe(50_000, {**config, "n_components": 1}, "cpu").pretraining_epochs == 0


def test_in_small_and_mixed_tables_kl_z_weighs_more_and_pretraining_is_one_epoch():
    config = {"model": "cpvae", "n_components": 3, "shape": (8,), "hidden": [100]}
    config["likelihood"] = "gaussian"
    mixed = ["gaussian"] * 7 + ["binary"]
    for n_examples, shape, kinds in [(500, (8,), ()), (50_000, (7,), ()), (50_000, (8,), mixed)]:
        for settings in ({}, {"invariance_weight": 2.0}):
            changes = {"shape": shape, "kinds": kinds}
            recipe = defaults.recipe(n_examples, {**config, **changes}, "cpu", **settings)
            assert (recipe.pretraining_epochs, recipe.kl_z_start) == (1, 6)
            assert recipe.temperature_end == recipe.temperature_start


def test_in_small_tables_the_expectation_over_c_ends_exact():
    config = {"model": "cpvae", "n_components": 3, "shape": (8,), "hidden": [100]}
    config["likelihood"] = "gaussian"
    recipe = defaults.recipe(500, config, "cpu", max_epochs=100)
    assert (recipe.expectation, recipe.exact_after) == ("straight_through", 60)
    for n_examples, changes, settings in [
        (5000, {}, {}),
        (500, {"model": "vae"}, {}),
        (500, {"n_components": 1}, {}),
        (500, {"n_components": 101}, {}),
        (500, {}, {"expectation": "straight_through"}),
        (5000, {"kinds": ["binary", "categorical"] * 4}, {}),
        (5000, {"kinds": ["count"] * 8}, {}),
    ]:
        assert (
            defaults.recipe(n_examples, {**config, **changes}, "cpu", **settings).exact_after == 0
        )


def test_the_expectation_changes_when_it_should_and_patience_counts_from_there(data):
    recipe = dataclasses.replace(RECIPE, patience=2, exact_after=4)
    _, history = fitted(data, recipe)
    for record in history:
        name = "exact" if record["epoch"] > 4 else "straight_through"
        assert f"train_elbo_{name}_nats" in record
    assert [recipe.has_lost_patience(epoch, 1) for epoch in (5, 6)] == [False, True]


def test_schedules_are_pure_functions_of_the_epoch():
    recipe = Recipe(
        anneal_epochs=10,
        pretraining_epochs=2,
        kl_z_start=6.0,
        kl_c_start=0.5,
        temperature_start=1.0,
        temperature_end=0.5,
        invariance_weight=2.0,
        exact_after=8,
    )
    weights = [recipe.at(epoch).weights for epoch in (0, 2, 5, 7, 10, 50)]
    assert [w.kl_z for w in weights] == [6, 5, 3.5, 2.5, 1, 1]
    assert [w.kl_c for w in weights] == pytest.approx([100, 0.6, 0.75, 0.85, 1, 1])
    assert [w.merged_cluster for w in weights] == pytest.approx([0, 8, 5, 3, 0, 0])
    assert [w.component for w in weights] == pytest.approx([0, 6, 0, 0, 0, 0])
    assert [w.conditional_entropy for w in weights] == pytest.approx([1, 1.4, 2, 2.4, 3, 3])
    assert {w.invariance for w in weights} == {2.0}
    assert [recipe.at(e).temperature for e in (0, 5, 10)] == [1, 0.75, 0.5]
    assert [recipe.at(e).expectation for e in (7, 8)] == ["straight_through", "exact"]
    still = Recipe(anneal_epochs=0, kl_z_start=6.0)
    assert still.at(0).weights.kl_z == 1
    assert still.at(0).weights.merged_cluster == 0


def test_a_recipe_whose_pretraining_is_too_long_is_refused():
    with pytest.raises(ValueError, match="pretraining_epochs=6 leaves nothing of anneal_epochs=6"):
        Recipe(pretraining_epochs=6, anneal_epochs=6)


def test_validation_of_many_categories_samples_one_of_them(data, monkeypatch):
    """And the record of an epoch is one of the same bound, so that it may choose the weights."""
    model, _ = fitted(data)
    valid = validation_data(model, data[1], RECIPE.seed).repeat(50, 1)
    enumerated = validate(model, valid, RECIPE.seed)
    monkeypatch.setattr(loop, "MOST_ENUMERATED", 2)
    sampled = validate(model, valid, RECIPE.seed)
    assert sampled.keys() == enumerated.keys()
    assert sampled["valid_elbo_nats"] != enumerated["valid_elbo_nats"]
    assert sampled["valid_elbo_nats"] == pytest.approx(enumerated["valid_elbo_nats"], abs=0.05)


def test_early_stopping_waits_for_the_annealing_and_then_for_patience(data):
    recipe = Recipe(max_epochs=500, batch_size=20, anneal_epochs=10, patience=3, learning_rate=0.05)
    _, history = fitted(data, recipe)
    bounds = [r["valid_elbo_nats"] for r in history]
    best = int(np.argmax(bounds)) + 1
    assert len(history) < 500
    assert len(history) == max(best, 10) + 3


def test_aggregated_posterior_is_that_of_the_training_data(data):
    model, _ = fitted(data)
    torch.testing.assert_close(model.aggregated, model.cluster_probs(data[0]).mean(0))


def test_prior_moves_in_training(data):
    start, (model, _) = build(**CONFIG), fitted(data)
    for name in ("mean", "logvar"):
        assert not torch.allclose(getattr(start.prior, name), getattr(model.prior, name), atol=1e-3)


def test_weights_are_averaged_for_validation_and_training_does_not_see_it(data):
    """Against the average taken by hand over the weights that training goes through."""
    config = {**CONFIG, "seed": 1}
    plain = dataclasses.replace(RECIPE, max_epochs=4, averaging=1, patience=9)
    passed = []

    def watch(model):
        def on_epoch(record):
            passed.append({k: p.detach().clone() for k, p in model.named_parameters()})

        return on_epoch

    model = build(**config)
    fit(model, *data, plain, on_epoch=watch(model), accelerator="cpu")
    alone, passed = passed, []
    model = build(**config)
    averaged = dataclasses.replace(plain, averaging=2)
    history = fit(model, *data, averaged, on_epoch=watch(model), accelerator="cpu")
    for one, other in zip(alone, passed, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    average = dict(alone[0])
    for epoch, weights in enumerate(alone, 1):
        share = 1 / min(epoch, 2)
        average = {k: (1 - share) * average[k] + share * weights[k] for k in weights}
        if epoch == max(history, key=lambda r: r["valid_elbo_nats"])["epoch"]:
            best = average
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), best[key])


def test_a_loss_that_is_not_finite_ends_the_run_with_the_last_good_weights(data, tmp_path):
    folder, recipe = RunFolder(tmp_path / "run"), dataclasses.replace(RECIPE, averaging=1)
    folder.write_info(describe(SCHEMA, CONFIG, recipe))
    model = build(**CONFIG)
    good = []

    def poison(record):
        good.append({k: v.clone() for k, v in model.state_dict().items()})
        if record["epoch"] == 2:
            with torch.no_grad():
                model.prior.mean.fill_(math.nan)

    with pytest.raises(Diverged, match="epoch 3.*learning rate"):
        fit(model, *data, recipe, folder=folder, on_epoch=poison, accelerator="cpu")
    for key, value in folder.read_model().state_dict().items():
        assert value.isfinite().all()
        assert torch.equal(value, model.state_dict()[key])
        assert torch.equal(value, good[1][key])
    assert len(folder.read_history()) == 2


def test_three_blobs_are_recovered(blobs):
    x, labels = blobs
    config = defaults.model_config(x[:500], model="cpvae", n_components=3)
    model = build(**config)
    recipe = defaults.recipe(500, config, max_epochs=60)
    fit(model, torch.from_numpy(x[:500]), torch.from_numpy(x[500:]), recipe, accelerator="cpu")
    assigned = model.cluster_probs(torch.from_numpy(x)).argmax(1).numpy()
    assert cluster_scores(labels, assigned)["accuracy"] > 0.97
    made, _ = model.sample(2000, component=int(assigned[0]))
    mine = x[assigned == assigned[0]]
    unit = x.std(0)
    np.testing.assert_allclose(made.numpy().mean(0) / unit, mine.mean(0) / unit, atol=0.25)


def test_products_are_in_bfloat16_by_default_only_where_that_pays(monkeypatch):
    def chosen(here, shape=(784,), width=300, likelihood="bernoulli", **given):
        monkeypatch.setattr(defaults, "has_bfloat16", lambda: here)
        config = {"model": "cpvae", "n_components": 10, "shape": shape, "likelihood": likelihood}
        config["hidden"] = [width]
        return defaults.recipe(50_000, config, "cpu", **given).precision

    assert chosen(True) == "bfloat16"
    assert chosen(False) == "float32"
    assert chosen(True, shape=(64,), width=100) == "float32"
    assert chosen(True, likelihood="gaussian") == "float32"
    assert chosen(True, precision="float32") == "float32"


def test_real_mnist_is_learned(real):
    splits = real("mnist", "mnist.npz")
    train_part, valid = splits.train.tensor()[:10_000], splits.valid.tensor()[:2000]
    model = build(**defaults.model_config(splits.train.x[:10_000]))
    recipe = Recipe(max_epochs=4, kl_z_start=1.0, anneal_epochs=1)
    history = fit(model, train_part, valid, recipe, accelerator="cpu")
    assert history[-1]["valid_elbo_nats"] > -150  # independent pixels give about -206


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"kl_z_start": -1.0},
        {"expectation": "reinforce"},
        {"precision": "float16"},
        {"temperature_end": 0.0},
    ],
)
def test_recipe_refuses(wrong):
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=name):
        Recipe(**wrong)


def test_a_shortened_recipe_is_what_the_defaults_are_for_so_many_epochs():
    config = {"model": "cpvae", "n_components": 3, "hidden": [100]}
    for shape in ((64,), (4,)):  # communities, a mixture
        config |= {"shape": shape, "likelihood": "gaussian"}
        usual = defaults.recipe(3000, config, "cpu")
        assert usual.shortened(100) == defaults.recipe(3000, config, "cpu", max_epochs=100)
    least = Recipe(max_epochs=50, pretraining_epochs=3, anneal_epochs=20, patience=30).shortened(1)
    assert (least.pretraining_epochs, least.anneal_epochs, least.patience) == (1, 2, 10)
    assert least.exact_after == 0
    close = Recipe(max_epochs=8, pretraining_epochs=3, anneal_epochs=4).shortened(4)
    assert (close.pretraining_epochs, close.anneal_epochs) == (1, 2)


def test_even_components_are_rewarded_only_where_p_c_is_uniform():
    config = {"model": "cpvae", "n_components": 10, "shape": (784,), "hidden": [300]}
    config["likelihood"] = "bernoulli"
    learned, even = ({**config, "mixing_weights": weights} for weights in ("learned", "uniform"))
    assert defaults.recipe(50_000, learned, "cpu", invariance_weight=2.0).marginal_entropy == 0
    assert defaults.recipe(50_000, even, "cpu", invariance_weight=2.0).marginal_entropy > 0
    assert defaults.recipe(500, even, "cpu", invariance_weight=2.0).marginal_entropy == 0
    assert defaults.recipe(50_000, even, "cpu").marginal_entropy == 0
    rows = np.random.default_rng(0).normal(size=(1_000, 8))
    assert defaults.model_config(rows, model="cpvae")["mixing_weights"] == "learned"
    assert defaults.model_config(rows[:500], model="cpvae")["mixing_weights"] == "learned"


def test_invariance_needs_an_augmentation(data):
    with pytest.raises(ValueError, match="needs an augmentation"):
        fitted(data, Recipe(invariance_weight=1.0))


def test_bfloat16_is_for_training_alone(data, monkeypatch):
    monkeypatch.setattr(loop, "has_bfloat16", lambda: True)
    low = dataclasses.replace(RECIPE, precision="bfloat16")
    model, history = fitted(data, low)
    _, plain = fitted(data)
    bounds, expected = ([r["valid_elbo_nats"] for r in h] for h in (history, plain))
    assert bounds != expected
    np.testing.assert_allclose(bounds, expected, atol=0.02)
    again = build(**CONFIG).eval()
    again.load_state_dict(model.state_dict())
    first, second = (exact_terms(m, data[1], torch.Generator()).elbo() for m in (model, again))
    assert torch.equal(first, second)


def test_bfloat16_says_where_it_does_not_fit(data, monkeypatch):
    low = dataclasses.replace(RECIPE, precision="bfloat16", max_epochs=1)
    gaussian = build(**CONFIG, likelihood="gaussian")
    with pytest.raises(ValueError, match="use float32"):
        fit(gaussian, *data, low, accelerator="cpu")
    monkeypatch.setattr(loop, "has_bfloat16", lambda: False)
    with pytest.warns(UserWarning, match="no instructions for bfloat16"):
        fitted(data, low)


def test_a_bound_that_still_rises_is_one_of_the_last_tenth_of_a_whole_run():
    def rise(bounds: list[float], max_epochs: int) -> float:
        history = [{"valid_elbo_nats": bound} for bound in bounds]
        return still_rising(history, Recipe(max_epochs=max_epochs))

    line = [-100.0 + i for i in range(100)]
    assert rise(line, 100) == 10
    assert rise(line, 200) == 0  # stopped by itself
    assert rise([*line[:90], *10 * [line[89] + 0.1]], 100) == 0  # hardly anything
    assert rise([*line[:90], *10 * [line[40]]], 100) == 0  # the best lies before
    assert rise([-3.0], 1) == 0


def test_overfitting_is_a_best_bound_before_the_annealing_has_ended():
    def early(bounds: list[float], **given: int) -> int:
        history = [{"epoch": i, "valid_elbo_nats": b} for i, b in enumerate(bounds, 1)]
        settings = {"max_epochs": 10, "anneal_epochs": 4, "pretraining_epochs": 1} | given
        return overfitted(history, Recipe(**settings))

    falls = [-1.0, -5.0, -3.0, -4.0, -6.0, -7.0]
    assert early(falls) == 3  # the first epoch is pretraining
    assert early(falls[:4]) == 0  # it may rise yet
    assert early([*falls, -2.0]) == 0
    assert early(falls, pretraining_epochs=0) == 0  # no initial clusters
    assert early([]) == 0
