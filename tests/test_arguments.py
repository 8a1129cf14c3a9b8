"""What users hand to the estimator beside the data, and what a refusal leaves as it was."""

import json

import numpy as np
import pytest
import torch

import cpvae
from cpvae import CPVAE
from cpvae.checkpoint import RunFolder
from cpvae.models.precision import single_precision
from cpvae.streams import seed_of, whole_number

pytestmark = pytest.mark.usefixtures("without_shape_checks")

QUICK = {"n_components": 2, "model": "cpvae", "max_epochs": 1, "accelerator": "cpu"}
X = np.random.default_rng(0).normal(size=(60, 3))


@pytest.fixture(scope="module")
def fitted():
    return CPVAE(**QUICK).fit(X)


@pytest.mark.parametrize(
    "given",
    [
        {"recipe": {"learning_rate": np.float32(1e-3), "noise_scale": np.float16(0.5)}},
        {"recipe": {"batch_size": np.int16(20), "kl_z_start": torch.tensor(2.0)}},
        {"hidden": np.array([8, 4])},
        {"hidden": (np.int64(8), 4)},
        {"hidden": torch.tensor([8, 4])},
        {"invariance": "masking", "recipe": {"invariance_weight": np.float32(2)}},
    ],
)
def test_settings_of_other_packages_are_saved_as_plain_ones(tmp_path, given):
    model = CPVAE(**QUICK, **given).fit(X)
    model.save(tmp_path / "run")
    assert CPVAE.load(tmp_path / "run").recipe_ == model.recipe_
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    if "hidden" in given:
        assert stored["model"]["hidden"] == [8, 4]


def test_seeds_and_numbers_of_any_type(fitted):
    drawn = fitted.sample(4, random_state=3)[0]
    for seed in (np.int64(3), np.uint8(3), 3.0):
        np.testing.assert_array_equal(fitted.sample(4, random_state=seed)[0], drawn)
    for make in (np.random.RandomState, np.random.default_rng):
        one, same = make(0), make(0)
        np.testing.assert_array_equal(
            fitted.sample(4, random_state=one)[0], fitted.sample(4, random_state=same)[0]
        )
        assert not np.array_equal(fitted.sample(4, random_state=one)[0], drawn)
    assert fitted.sample(np.int32(4), component=1.0)[1].tolist() == [1] * 4
    assert fitted.sample(4.0, component=np.int64(0))[1].tolist() == [0] * 4
    for given, said in [
        ({"component": 0.5}, "component=0.5: use a whole number from 0"),
        ({"component": True}, "component=True: use"),
        ({"component": np.nan}, "component=nan"),
        ({"n_samples": 0}, "n_samples=0: use a whole number from 1"),
        ({"random_state": -1}, "random_state=-1: use a whole number from 0"),
        ({"random_state": "seven"}, "random_state='seven'"),
    ]:
        with pytest.raises(ValueError, match=said):
            fitted.sample(**{"n_samples": 2, **given})
    model = CPVAE(**QUICK, random_state=np.random.default_rng(5)).fit(X)
    assert model.recipe_.seed == seed_of(np.random.default_rng(5))
    assert seed_of(None) != seed_of(None)
    assert whole_number("k", np.float32(7), at_least=0) == 7


@pytest.mark.parametrize("model", ["cpvae", "residual"])
def test_a_default_of_double_precision_changes_nothing(tmp_path, model):
    quick = CPVAE(**{**QUICK, "model": model})
    usual = quick.fit(X)
    found = usual.predict_proba(X), usual.sample(5, random_state=0)[0], usual.score(X)
    usual.save(tmp_path / "run")
    torch.set_default_dtype(torch.float64)
    try:
        for again in (
            usual,
            CPVAE(**{**QUICK, "model": model}).fit(X),
            CPVAE.load(tmp_path / "run"),
        ):
            np.testing.assert_array_equal(again.predict_proba(X), found[0])
            np.testing.assert_array_equal(again.sample(5, random_state=0)[0], found[1])
            assert again.score(X) == found[2]
            assert "elbo_exact_nats" in again.evaluate(X, n_samples=2)
        quick.partial_fit(X)
        if model == "cpvae":
            quick.compact(X)
        assert next(cpvae.build(shape=[3]).parameters()).dtype == torch.float32
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_default_is_put_back_by_the_last_that_leaves():
    torch.set_default_dtype(torch.float64)
    try:
        first, second = single_precision(), single_precision()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert torch.get_default_dtype() == torch.float32
        second.__exit__(None, None, None)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_fit_that_is_refused_leaves_the_model_of_before(tmp_path):
    import pandas

    frame = pandas.DataFrame(X, columns=list("abc"))
    model = CPVAE(**QUICK).fit(frame)
    found = model.predict_proba(frame)
    constant = pandas.DataFrame(np.ones((30, 2)), columns=["u", "v"])
    for refused in (model.fit, model.set_params(warm_start=True).fit, model.partial_fit):
        with pytest.raises(ValueError, match="constant|feature names should match"):
            refused(constant)
        np.testing.assert_array_equal(model.predict_proba(frame), found)
        assert list(model.feature_names_in_) == ["a", "b", "c"]
        assert model.n_features_in_ == 3
    new = CPVAE(**QUICK)
    with pytest.raises(ValueError, match="constant"):
        new.fit(constant)
    assert not hasattr(new, "n_features_in_")
    model.save(tmp_path / "run")
    assert RunFolder(tmp_path / "run").read_schema().columns == ("a", "b", "c")
