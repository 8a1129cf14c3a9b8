import dataclasses
import doctest
import os
import re
import subprocess
import sys

import numpy as np
import pandas
import polars
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cpvae import CPVAE, data
from cpvae.checkpoint import RunFolder
from cpvae.choices import SYSTEMS
from cpvae.evaluation.metrics import cluster_scores
from cpvae.models.inference import elbo_of_each
from cpvae.training import defaults

QUICK = {"n_components": 3, "model": "cpvae", "max_epochs": 3, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def fitted():
    x = np.random.default_rng(0).normal(size=(200, 5)) * 7 + 3
    return CPVAE(**QUICK).fit(x), x.astype(np.float32)


def test_shapes_and_meanings(fitted):
    model, x = fitted
    assert model.predict(x).shape == (200,)
    np.testing.assert_allclose(model.predict_proba(x).sum(1), 1, rtol=1e-5)
    assert model.transform(x).shape == (200, 2)
    assert model.reconstruct(x).shape == x.shape
    assert model.score_samples(x).shape == (200,)
    assert model.score(x) == pytest.approx(model.score_samples(x).mean())
    assert model.aggregated_.sum() == pytest.approx(1, rel=1e-5)
    assert model.n_features_in_ == 5
    assert len(model.history_) == 3
    assert {"elbo_exact_nats", "accuracy"} <= set(model.evaluate(x, model.predict(x), n_samples=5))


def test_samples_are_in_the_datas_units_and_say_where_they_come_from(fitted):
    model, x = fitted
    made, component = model.sample(4000, component=1)
    assert component.tolist() == [1] * 4000
    assert made.shape == (4000, 5)
    np.testing.assert_allclose(made.mean(0), x.mean(0), atol=2)
    np.testing.assert_allclose(made.std(0), x.std(0), rtol=0.5)
    other, _ = model.sample(4000, component=1)
    assert not np.array_equal(made, other)
    states = [model.sample(9, component=1, random_state=1)[0] for _ in range(2)]
    np.testing.assert_array_equal(*states)
    assert model.sample(10, component=1, mean=True)[0].std() < made.std()


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name not in ("cpvae", "residual")])
def test_the_systems_it_is_compared_with(blobs, tmp_path, name):
    x, _ = blobs
    k = None if name in ("vae", "hvae") else 3
    model = CPVAE(k, model=name, max_epochs=2, accelerator="cpu").fit(x)
    made, component = model.sample(30, component=model.model_.n_components - 1)
    assert made.shape == (30, 4)
    assert model.predict_proba(x).shape == (600, k or 1)
    model.save(tmp_path / "run")
    loaded = CPVAE.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.transform(x), model.transform(x))
    assert loaded.model == name
    assert loaded.set_params(max_epochs=1).fit(x).model_.n_components == (k or 1)
    with pytest.raises(ValueError, match="has none"):
        CPVAE(model=name, recipe={"expectation": "exact"}).fit(x)


def test_save_and_load(fitted, tmp_path):
    model, x = fitted
    model.save(tmp_path / "run")
    loaded = CPVAE.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.predict_proba(x), model.predict_proba(x))
    np.testing.assert_array_equal(*(each.sample(5, random_state=0)[0] for each in (loaded, model)))
    assert loaded.history_ == model.history_
    assert loaded.recipe_ == model.recipe_
    assert loaded.get_params()["n_components"] == 3
    with pytest.raises(ValueError, match="already holds a run"):
        model.save(tmp_path / "run")
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "run.json",
        "history.jsonl",
        "model.safetensors",
    }
    assert RunFolder(tmp_path / "run").read_info()["status"] == "finished"


def test_images_keep_their_shape():
    images = np.random.default_rng(0).random((60, 6, 5))
    model = CPVAE(**QUICK, network="conv", invariance="affine", hidden=[8, 8]).fit(images)
    made, _ = model.sample(7)
    assert made.shape == (7, 6, 5)
    assert 0 <= made.min() <= made.max() <= 1
    assert set(np.unique(model.sample(7, mean=False)[0])) <= {0, 1}
    assert model.reconstruct(images).shape == images.shape


def test_equal_seeds_give_equal_models_and_labels_have_no_way_in(fitted):
    model, x = fitted
    again = clone(model).fit(x, y=np.arange(200))
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
    other = clone(model).set_params(random_state=1).fit(x)
    assert not np.array_equal(other.predict_proba(x), model.predict_proba(x))


def test_the_best_of_several_starts_is_kept(fitted):
    _, x = fitted
    model = CPVAE(**QUICK, n_init=2).fit(x)
    starts = [CPVAE(**QUICK, random_state=seed).fit(x) for seed in (0, 1)]
    ours = [r["best_valid_elbo_nats"] for r in model.restarts_]
    assert [r["seed"] for r in model.restarts_] == [0, 1]
    best = max(r["valid_elbo_nats"] for r in model.history_)
    assert best == max(ours)
    assert ours[0] == starts[0].restarts_[0]["best_valid_elbo_nats"]


def test_refusals(fitted, tmp_path):
    model, x = fitted
    with pytest.raises(NotFittedError, match="call fit first"):
        CPVAE().predict(x)
    with pytest.raises(ValueError, match="has 4 features, but CPVAE is expecting 5"):
        model.predict(x[:, :4])
    with pytest.raises(ValueError, match="from 0 to 2"):
        model.sample(1, component=3)
    with pytest.raises(ValueError, match="infinite"):
        model.predict(np.full((2, 5), np.inf))
    for wrong, message in [
        ({"n_components": 0}, "n_components=0"),
        ({"n_init": 0}, "n_init=0"),
        ({"n_components": 181}, "from 1 to 180"),
        ({"likelihood": "bernoulli"}, r"needs data in \[0, 1\]"),
        ({"likelihood": "poisson"}, "'poisson' is unknown"),
        ({"network": "conv"}, "needs images"),
        ({"network": "transformer"}, "choose from mlp, conv"),
        ({"mixing_weights": "equal"}, "choose from learned, uniform"),
        ({"recipe": {"covariance": "tied"}}, "choose from diag, full"),
        ({"recipe": {"gate": "open"}}, "choose from probabilities, category"),
        ({"recipe": {"expectation": "reinforce"}}, "choose from relaxed"),
        ({"recipe": {"noise_scale": -1.0}}, "above 0"),
        ({"recipe": {"learning_rate": "fast"}}, "learning_rate='fast': use a number"),
        ({"recipe": {"batch_size": 2.5}}, "batch_size=2.5: use a whole number"),
        ({"recipe": {"estimator": "exact"}}, "it is called expectation now"),
        ({"recipe": {"speed": 3}}, "no setting 'speed': choose from anneal_epochs, "),
        ({"latent_dim": 0}, "above 0"),
        ({"invariance": "affine"}, "leave the invariance term off"),
        ({"validation_fraction": 1.0}, "between 0 and 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            CPVAE(**{**QUICK, **wrong}).fit(x)
    for wrong, message in [
        ({"latent_dim": 2.5}, "latent_dim=2.5: use a whole number"),
        ({"n_components": "3"}, "n_components='3': use a whole number"),
        ({"hidden": 30}, "hidden=30: use a list of widths"),
    ]:
        with pytest.raises(ValueError, match=message):
            defaults.model_config(x, **wrong)
    with pytest.raises(ValueError, match="max_epochs='9': use a whole number"):
        defaults.recipe(180, model.config_, max_epochs="9")
    constant = x.copy()
    constant[:, 3] = 1
    with pytest.raises(ValueError, match="Column 3 is constant"):
        CPVAE(**QUICK).fit(constant)
    for text in (np.array([["a", "b"]] * 10), np.array([["a", 1.0]] * 10, dtype=object)):
        with pytest.raises(ValueError, match="not hold numbers alone .* text become categories"):
            CPVAE(**QUICK).fit(text)
    with pytest.raises(ValueError, match="not a run folder"):
        CPVAE.load(tmp_path)


def checks():
    """scikit-learn's own, in a process of their own: one of them needs a setting of scipy."""
    script = """if True:
        import warnings
        from sklearn.utils.estimator_checks import check_estimator
        from cpvae import CPVAE
        warnings.simplefilter("ignore")
        quick = CPVAE(n_components=2, max_epochs=2, accelerator="cpu")
        why = "which rows make a minibatch or are held out differs where a row is there twice"
        apart = {"check_sample_weight_equivalence_on_dense_data": why}
        told = check_estimator(quick, on_skip=None, on_fail=None, expected_failed_checks=apart)
        for check in told:
            print(check["check_name"], check["status"], repr(check["exception"]))
    """
    environment = os.environ | {"SCIPY_ARRAY_API": "1", "OMP_NUM_THREADS": "1"}
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=300
    )
    assert told.returncode == 0, told.stderr
    return told.stdout.splitlines()


def test_scikit_learns_contract_is_kept_whole():
    told = checks()
    assert len(told) > 40
    assert [line for line in told if line.split()[1] not in ("passed", "xfail")] == []
    failed = [line.split()[0] for line in told if line.split()[1] == "xfail"]
    assert failed == ["check_sample_weight_equivalence_on_dense_data"]


def test_an_examples_score_is_its_own_and_a_bound(fitted):
    model, x = fitted
    alone = [model.score_samples(x[i : i + 1])[0] for i in range(5)]
    np.testing.assert_allclose(model.score_samples(x)[:5], alone, rtol=1e-4)
    many = np.mean([clone_scores(model, x, seed) for seed in range(20)], axis=0)
    assert model.score(x) == pytest.approx(many.mean(), abs=0.1)
    assert many.mean() < model.evaluate(x, n_samples=200)["log_likelihood_nats"]


def clone_scores(model, x, seed):
    x = torch.from_numpy(x)
    return elbo_of_each(model.model_, x, seed).numpy()


def test_frames_keep_their_names(fitted):
    _, x = fitted
    frame = pandas.DataFrame(x, columns=list("abcde"))
    model = CPVAE(**QUICK).fit(frame).set_output(transform="pandas")
    assert list(model.feature_names_in_) == list("abcde")
    codes = model.transform(frame)
    assert list(codes.columns) == ["cpvae0", "cpvae1"]
    np.testing.assert_array_equal(model.predict(frame), CPVAE(**QUICK).fit(x).predict(x))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[list("edcba")])


def test_pipelines_and_searches(fitted):
    _, x = fitted
    pipeline = make_pipeline(StandardScaler(), CPVAE(**QUICK))
    search = GridSearchCV(pipeline, {"cpvae__n_components": [2, 4]}, cv=2).fit(x)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    best = search.best_estimator_
    made, component = best[-1].sample(6, component=1)
    assert best[0].inverse_transform(made).shape == (6, 5)
    assert set(component) == {1}


def test_a_random_state_may_be_a_generator(fitted):
    _, x = fitted
    models = [CPVAE(**QUICK, random_state=np.random.RandomState(7)).fit(x) for _ in range(2)]
    np.testing.assert_array_equal(*(model.predict_proba(x) for model in models))
    assert models[0].recipe_.seed == models[1].recipe_.seed != 0


def test_compact_keeps_the_components_that_the_data_has(blobs):
    x, labels = blobs
    model = CPVAE(n_components=6, model="cpvae", max_epochs=60).fit(x).compact(x)
    assert model.predict_proba(x).shape == (600, 3)
    assert len(set(zip(model.predict(x).tolist(), labels.tolist(), strict=True))) == 3
    assert sorted(k for group in model.groups_ for k in group) == list(range(6))
    assert set(model.sample(50)[1].tolist()) == {0, 1, 2}


def test_learned_weights_are_the_shares_of_the_categories(blobs):
    x, labels = blobs
    uneven = x[(labels == 0) | ((labels == 1) & (np.arange(len(x)) % 6 == 0))]
    model = CPVAE(2, mixing_weights="learned", max_epochs=150, random_state=0).fit(uneven)
    p_c = model.model_.prior.logits.softmax(0).detach().numpy()
    np.testing.assert_allclose(p_c, model.aggregated_, atol=0.03)
    assert max(p_c) > 0.75
    assert model.evaluate(uneven, n_samples=5)["aggregated_kl_c_nats"] < 0.01


def test_missing_values_are_learned_around_and_filled_in(blobs):
    x, labels = blobs
    rng = np.random.default_rng(1)
    gone = (rng.random(x.shape) < 0.2) & (np.arange(4) != rng.integers(4, size=(len(x), 1)))
    holes = np.where(gone, np.nan, x)
    model = CPVAE(n_components=3, max_epochs=70, random_state=0).fit(holes)
    assert cluster_scores(labels, model.predict(holes))["accuracy"] > 0.9
    filled = model.impute(holes)
    np.testing.assert_array_equal(filled[~gone], x[~gone])
    error = ((filled - x) / x.std(0))[gone]
    by_mean = ((np.nanmean(holes, 0) - x) / x.std(0))[gone]
    assert (error**2).mean() < 0.5 * (by_mean**2).mean()
    assert np.isfinite(model.score_samples(holes)).all()
    with pytest.raises(ValueError, match="takes no missing values"):
        CPVAE(likelihood="bernoulli").fit(np.where(gone, np.nan, rng.random(x.shape)))


def test_polars_frames_go_in_and_come_back(blobs):
    frame = polars.DataFrame(blobs[0], schema=["a", "b", "c", "d"])
    holes = frame.with_columns(polars.when(polars.col("a") > 10).then(polars.col("a")).alias("a"))
    model = CPVAE(n_components=3, max_epochs=2, random_state=0).fit(holes)
    assert model.feature_names_in_.tolist() == ["a", "b", "c", "d"]
    assert np.isfinite(model.impute(holes)).all()
    codes = model.set_output(transform="polars").transform(holes)
    assert isinstance(codes, polars.DataFrame)
    assert codes.shape == (len(frame), 4)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(holes.select("b", "a", "c", "d"))


@pytest.fixture
def people():
    """Two groups that differ in every column, and who is in which."""
    rng = np.random.default_rng(0)
    group = rng.integers(2, size=400)
    other = rng.random((3, 400)) < 0.1
    frame = pandas.DataFrame(
        {
            "height": 160 + 25 * group + rng.normal(0, 4, 400),
            "visits": rng.poisson(np.where(group, 1, 12)),
            "pet": np.where(group ^ other[0], "dog", "cat"),
            "member": group ^ other[1] == 1,
            "floor": 3 + (group ^ other[2]),
        }
    )
    return frame, group


def test_frames_of_several_kinds_of_columns(people, tmp_path):
    frame, group = people
    model = CPVAE(2, max_epochs=40, kinds={"floor": "categorical"}, random_state=0).fit(frame)
    assert model.config_["likelihood"] == "mixed"
    assert model.config_["kinds"] == ["number", "number", "categorical", "binary", "categorical"]
    assert model.schema_.levels == {
        "pet": ["cat", "dog"],
        "member": ["false", "true"],
        "floor": ["3", "4"],
    }
    assert list(model.feature_names_in_) == list(frame)
    found = model.predict(frame)
    assert max((found == group).mean(), (found != group).mean()) > 0.97
    dogs = int(np.bincount(found[frame["pet"] == "dog"]).argmax())
    new, component = model.sample(300, component=dogs)
    assert list(new) == list(frame)
    assert set(component) == {dogs}
    assert (new["pet"] == "dog").mean() > 0.7
    assert (new["visits"] == new["visits"].round()).all()
    assert new["member"].dtype == bool
    assert new["height"].mean() == pytest.approx(185, abs=5)
    holes = frame.copy()
    holes.loc[holes.index % 3 == 0, "pet"] = None
    holes.loc[holes.index % 3 == 1, "height"] = np.nan
    filled = model.impute(holes)
    assert not filled.isna().any().any()
    assert (filled["height"] == frame["height"])[holes.index % 3 != 1].all()  # to the last bit
    assert list(model.impute(holes[5:]).index) == list(holes.index[5:])
    there = holes.index % 3 != 0
    assert (filled["pet"] == frame["pet"])[there].all()
    assert (filled["pet"] == frame["pet"])[~there].mean() > 0.8
    assert np.abs(filled["height"] - frame["height"])[holes.index % 3 == 1].mean() < 6
    assert list(model.reconstruct(frame)) == list(frame)
    assert new["visits"].dtype == np.int64
    model.save(tmp_path / "run")
    again = CPVAE.load(tmp_path / "run")
    np.testing.assert_array_equal(again.predict_proba(frame), model.predict_proba(frame))
    pandas.testing.assert_frame_equal(
        *(each.sample(5, random_state=0)[0] for each in (again, model))
    )
    assert (
        clone(again).set_params(max_epochs=2).fit(frame).config_["kinds"] == model.config_["kinds"]
    )
    with pytest.warns(UserWarning, match=f"{len(frame)} cells with a level .* 'cow' in column pet"):
        unknown = model.predict_proba(frame.assign(pet="cow"))
    np.testing.assert_array_equal(unknown, model.predict_proba(frame.assign(pet=None)))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[list(frame)[::-1]])
    few = CPVAE(2, max_epochs=2, kinds={"visits": "count"}).fit(frame)
    with pytest.raises(ValueError, match="'visits' cannot be count, which needs whole numbers"):
        few.score(frame.assign(visits=-1))
    with (
        pytest.warns(UserWarning, match="'cow' in column pet"),
        pytest.raises(ValueError, match="Column pet has no values"),
    ):
        model.set_params(warm_start=True).fit(frame.assign(pet="cow"))


def test_booleans_are_their_own_kind_and_come_back_as_such(people):
    frame = people[0][["height", "member"]]
    model = CPVAE(2, max_epochs=2, kinds={"member": "binary"}, random_state=0).fit(frame)
    assert model.config_["kinds"] == ["number", "binary"]
    assert CPVAE(2, max_epochs=2).fit(frame).config_["kinds"] == ["number", "binary"]
    holes = frame.astype({"member": object}).mask(frame.index.to_series() % 4 == 0, None)
    filled = model.impute(holes)
    assert filled["member"].map(type).eq(bool).all()
    assert (filled["member"] == frame["member"])[holes["member"].notna()].all()
    assert (model.reconstruct(frame)["member"].dtype, model.sample(9)[0]["member"].dtype) == (
        bool,
        bool,
    )


def test_columns_of_numbers_stay_numbers(people):
    frame = people[0][["height", "floor"]]
    model = CPVAE(2, max_epochs=2, kinds={"floor": "number"}).fit(frame)
    found = model.predict(frame)
    with pytest.raises(
        ValueError, match="column floor holds .low. in row 1, and the model was fitted"
    ):
        model.predict(frame.assign(floor=["low", "high"] * 200))
    flagged = frame.assign(floor=frame["floor"] == 3)
    np.testing.assert_array_equal(model.predict(flagged), model.predict(flagged.astype(float)))
    np.testing.assert_array_equal(model.predict(frame), found)
    assert model.sample(2)[0].shape == (2, 2)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ([b"1", b"2"] * 200, "column c holds binary, neither numbers, text, dates nor times"),
        (["a", 1] * 200, "Column c holds values of the types int, str: make it all text or all n"),
        (["1,5", "2,5"] * 200, "column c is text such as '1,5': write numbers with a decimal"),
        (["a"] * 400, "Column c is constant and carries no information: drop it.$"),
    ],
)
def test_columns_that_are_no_data_are_named(people, column, said):
    with pytest.raises(ValueError, match=said):
        CPVAE(2, max_epochs=2).fit(people[0][["height"]].assign(c=column))


def test_polars_frames_of_several_kinds_come_back_as_polars(people):
    frame = polars.from_pandas(people[0])
    model = CPVAE(2, max_epochs=2, random_state=0).fit(frame)
    new, _ = model.sample(5)
    assert isinstance(new, polars.DataFrame)
    assert new.columns == frame.columns
    assert new["visits"].dtype == polars.Int64
    assert set(new["pet"]) <= {"cat", "dog"}
    hole = pandas.Series(range(400)).mod(3).eq(0).to_numpy()
    holes = frame.with_columns(
        polars.when(hole).then(None).otherwise(polars.col(name)).alias(name)
        for name in ("height", "visits", "pet", "member")
    )
    filled = model.impute(holes)
    assert filled.schema == frame.schema
    assert filled.null_count().sum_horizontal().item() == 0
    assert filled.filter(~hole).equals(frame.filter(~hole))  # to the last bit


def test_kinds_of_arrays_are_chosen_and_checked(people):
    x = people[0][["height", "visits", "member"]].to_numpy(dtype=float)
    model = CPVAE(2, max_epochs=2, kinds={1: "count"}).fit(x)
    assert model.config_["kinds"] == ["number", "count", "binary"]
    assert model.sample(3)[0].shape == (3, 3)
    whole = CPVAE(2, max_epochs=2, kinds="gaussian").fit(x)
    assert whole.config_["kinds"] == ["gaussian"] * 3
    text = CPVAE(2, max_epochs=2, kinds={2: "categorical"}).fit(x)
    assert text.schema_.levels == {"2": ["0", "1"]}
    np.testing.assert_array_equal(text.predict(x[:5]), text.predict(x)[:5])
    for kinds, said in (
        ({"size": "count"}, "no column 'size': there are 0, 1, 2"),
        ({0: "colour"}, "kind 'colour' of column '0' is unknown: choose from number, gaussian, b"),
        ({0: "count"}, "Column '0' cannot be count, which needs whole numbers from 0 up"),
        ({1: "binary"}, "Column '1' cannot be binary, which needs zeros and ones"),
    ):
        with pytest.raises(ValueError, match=said):
            CPVAE(2, kinds=kinds).fit(x)
    with pytest.raises(ValueError, match="likelihood='gaussian' does not go with columns of text"):
        CPVAE(2, likelihood="gaussian").fit(people[0])


def test_data_in_parts_is_learned_pass_by_pass(blobs):
    x, labels = blobs
    model = CPVAE(3, max_epochs=40, random_state=0)
    rng = np.random.default_rng(0)
    for _ in range(40):
        model.partial_fit(x[rng.permutation(len(x))[: rng.integers(200, 300)]])
    assert [r["epoch"] for r in model.history_] == list(range(1, 41))
    assert model.history_[-1]["train_loss_nats"] < model.history_[5]["train_loss_nats"]
    assert cluster_scores(labels, model.predict(x))["accuracy"] > 0.99
    shares = np.bincount(model.predict(x), minlength=3) / len(x)
    np.testing.assert_allclose(np.sort(model.aggregated_), np.sort(shares), atol=0.05)
    same = [CPVAE(3, max_epochs=40).partial_fit(x).partial_fit(x[::-1]) for _ in range(2)]
    assert same[0].score(x) == same[1].score(x)  # nothing is drawn that the seed does not say
    with pytest.raises(ValueError, match="4 features"):
        model.partial_fit(x[:, :3])
    fitted = CPVAE(3, model="cpvae", max_epochs=5, random_state=0).fit(x)
    assert len(fitted.partial_fit(x).history_) == 6
    assert len(fitted.partial_fit(x[:1]).history_) == 7


def test_a_warm_start_goes_on_and_a_cold_one_does_not(blobs):
    x, _ = blobs
    model = CPVAE(3, model="cpvae", max_epochs=5, warm_start=True).fit(x)
    first = model.score(x)
    start = [p.detach().clone() for p in model.model_.parameters()]
    model.set_params(recipe={"learning_rate": 1e-9}, max_epochs=1).fit(x)
    for before, now in zip(start, model.model_.parameters(), strict=True):
        torch.testing.assert_close(before, now, atol=1e-6, rtol=1e-5)
    model.set_params(recipe=None, max_epochs=30).fit(x)
    assert model.score(x) > first + 0.1
    with pytest.raises(ValueError, match="has n_components=3, and this asks for 4"):
        model.set_params(n_components=4).fit(x)
    cold = model.set_params(n_components=3, warm_start=False, max_epochs=5).fit(x)
    assert cold.score(x) == first


def test_a_fit_that_ends_too_early_says_so(blobs):
    with pytest.warns(ConvergenceWarning, match="still rose by .* give max_epochs=6"):
        CPVAE(3, model="cpvae", max_epochs=3).fit(blobs[0])


EAGER = {"learning_rate": 0.005, "batch_size": 24}


def test_a_fit_that_overfits_before_its_components_are_formed_says_so(few_and_wide):
    with pytest.warns(ConvergenceWarning, match="before the annealing .* Give max_epochs="):
        model = CPVAE(3, max_epochs=100, recipe=EAGER).fit(few_and_wide)
    assert model.recipe_.max_epochs == 100  # as asked


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_fit_that_overfits_begins_again_in_fewer_epochs(few_and_wide, monkeypatch, capsys):
    monkeypatch.setattr("cpvae.training.defaults.STEPS", 0)  # a hundred epochs
    model = CPVAE(3, verbose=True, recipe=EAGER).fit(few_and_wide)
    told = capsys.readouterr().out
    assert told.count("it is fitted again in that many epochs") == 1  # once
    epochs = int(re.search(r"overfitted after epoch (\d+)", told)[1])
    assert len(model.history_) <= epochs < 37  # of the annealing
    assert model.recipe_.max_epochs == epochs
    recipe = dataclasses.asdict(model.recipe_)
    same = CPVAE(3, recipe={k: v for k, v in recipe.items() if k != "seed"}).fit(few_and_wide)
    assert same.recipe_ == model.recipe_
    np.testing.assert_array_equal(
        same.predict_proba(few_and_wide), model.predict_proba(few_and_wide)
    )


def test_whole_numbers_of_numpy_are_settings_as_good(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 3))
    settings = {"n_components": np.int64(2), "max_epochs": np.int32(3)}
    model = CPVAE(random_state=0).set_params(**settings).fit(x)
    model.save(tmp_path / "run")
    assert np.array_equal(CPVAE.load(tmp_path / "run").predict(x), model.predict(x))


def test_a_refit_of_a_loaded_estimator_is_a_fit_with_the_same_arguments(fitted, tmp_path):
    _, x = fitted
    first = CPVAE(**QUICK, recipe={"learning_rate": 3e-3, "covariance": "full"}).fit(x)
    first.save(tmp_path / "run")
    loaded = CPVAE.load(tmp_path / "run")
    assert loaded.recipe == {"learning_rate": 3e-3, "covariance": "full"}
    again = clone(loaded).fit(x)
    assert again.recipe_ == first.recipe_
    np.testing.assert_array_equal(again.predict_proba(x), first.predict_proba(x))


def test_arguments_that_went_are_named_with_their_place():
    for name, message in [
        ("weights", "it is mixing_weights now"),
        ("estimator", "give recipe={'expectation': ...}"),
        ("learning_rate", "give recipe={'learning_rate': ...}"),
    ]:
        with pytest.raises(TypeError, match=message):
            CPVAE(**{name: 1})


def test_what_the_command_line_would_fit_to_gives_the_same_model(blobs, tmp_path):
    """`load` gives the parts that `cpvae fit` uses; the test part stays out."""
    np.save(tmp_path / "x.npy", blobs[0])
    splits = data.load(tmp_path / "x.npy", seed=3)
    model = CPVAE(**QUICK, random_state=3).fit(splits)
    assert model.predict(splits.test.x).shape == (60,)
    rest = np.concatenate([splits.train.x, splits.valid.x])
    assert not np.array_equal(
        CPVAE(**QUICK, random_state=3).fit(rest).transform(rest), model.transform(rest)
    )


def test_the_doctest_of_the_estimator_runs():
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    (example,) = finder.find(CPVAE, "CPVAE")
    assert len(example.examples) >= 4
    result = runner.run(example)
    assert (result.failed, result.attempted) == (0, len(example.examples))
