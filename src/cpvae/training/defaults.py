"""What is chosen where the user says nothing: from the data's shape, size and range alone."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from cpvae.choices import RENAMED, SYSTEMS, choose
from cpvae.data.kinds import Kinds
from cpvae.data.schema import Schema
from cpvae.models.build import MODELS, SETTINGS
from cpvae.models.priors import StandardNormal
from cpvae.training.device import choose_device, has_bfloat16
from cpvae.training.initialise import needs_mixture
from cpvae.training.recipe import MOST_ENUMERATED, Recipe, typed_settings

# settings that only a model with c has
OF_C = ("expectation", "kl_c_start", "pretraining_epochs", "invariance_weight")
INVARIANCE = 2.0  # weight of the term, where an augmentation is given
MARGINAL_ENTROPY = 8.0  # where components are of one size; less lets two merge and a third split
ENOUGH_FOR_BFLOAT16 = 100_000  # weights of the first layer from which products in bfloat16 pay
LARGE_BATCH = 1_000  # a step of it takes no longer than one of 100 where networks are small
MOST_COLUMNS = 100  # of a table that starts as a mixture: covariances have the square of them
ROWS_A_COLUMN = 5  # at least, for the same
MORE_DIMENSIONS = 8  # of z at most, for the columns that are no numbers
RESIDUAL_STEPS = 500  # at most, of a model that starts as a mixture and has all rows in a batch
OF_RESIDUAL = ("max_epochs", "batch_size", "learning_rate", "patience", "seed")
STEPS = 10_000  # optimisation steps that a run gets by default, between 100 and 1000 epochs


def sort_settings(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the model builder (`SETTINGS`), and those of the `Recipe`; None is left out.

    The seed is one of both.

    Raises:
        ValueError: a name that neither has, with what it is called now or what there is.
    """
    of_recipe = [field.name for field in dataclasses.fields(Recipe)]
    for name in given:
        if name not in (*of_recipe, *SETTINGS):
            hint = f"choose from {', '.join(sorted({*of_recipe, *SETTINGS}))}"
            if name in RENAMED:
                hint = f"it is called {RENAMED[name]} now"
            raise ValueError(f"There is no setting {name!r}: {hint}.")
    given = _plain(given)
    of_model = {name: value for name, value in given.items() if name in SETTINGS}
    return of_model, typed_settings(given)


def describe_data(
    x: np.ndarray,
    schema: Schema,
    kinds: Kinds | None = None,
    likelihood: str | None = None,
    model: str = "cpvae",
) -> tuple[str, Schema]:
    """The likelihood for training examples ``x`` (n, ...), and their schema with all it needs.

    Images in [0, 1] get a Bernoulli likelihood, and so do tables of zeros and ones, and those in
    [0, 1] that look like pixels, with many columns or with constant ones; other data get a Gaussian
    one on features standardised one by one for a table and channel by channel for images.
    A table with columns of text, for whose columns kinds are given, or whose model is ``residual``
    gets a mixed one, and so does a table of zeros and ones with missing values (NaN).

    Raises:
        ValueError: data outside [0, 1] or missing under a Bernoulli likelihood, constant columns
            under the others, or a kind that does not fit its column.
    """
    if schema.levels or kinds or schema.gaps:
        if likelihood not in (None, "mixed"):
            named = "columns of text" if schema.levels else "kinds of columns"
            named = "missing='model'" if schema.gaps else named
            raise ValueError(
                f"likelihood={likelihood!r} does not go with {named}: use 'mixed', which "
                f"is the default for them, or leave them out."
            )
        likelihood = "mixed"
    if model == "residual" and x.ndim == 2:
        likelihood = likelihood or "mixed"
    low, high = np.nanmin(x), np.nanmax(x)
    in_unit_interval = bool(low >= 0 and high <= 1)
    missing = schema.missing or bool(np.isnan(x).any())
    if likelihood is None and in_unit_interval:
        likelihood = _of_shares(x, missing)
    likelihood = likelihood or "gaussian"
    if likelihood == "bernoulli" and not in_unit_interval:
        raise ValueError(
            f"A Bernoulli likelihood needs data in [0, 1], and this data goes from {low:g} to "
            f"{high:g}: rescale it, or use the Gaussian likelihood."
        )
    if likelihood == "bernoulli" and missing:
        raise ValueError(
            "A Bernoulli likelihood takes no missing values: fill them in, or use the Gaussian "
            "likelihood."
        )
    if likelihood not in ("gaussian", "mixed"):  # `build` refuses what is unknown
        return likelihood, dataclasses.replace(schema, kinds=(), loc=(), scale=())
    return likelihood, schema.with_kinds_and_units(x, likelihood, kinds, model == "residual")


def _of_shares(x: np.ndarray, missing: bool) -> str:
    """The likelihood for examples ``x`` (n, ...) in [0, 1]."""
    if x.ndim == 2 and (np.isnan(x) | np.isin(x, (0, 1))).all():
        return "mixed" if missing else "bernoulli"
    pixels = x.ndim > 2 or x.shape[1] > MOST_COLUMNS or (x.max(0) == x.min(0)).any()
    return "bernoulli" if pixels and not missing else "gaussian"


def choose_model(
    x: np.ndarray, schema: Schema, given: Mapping[str, Any], kinds: Kinds | None = None
) -> str:
    """The model for training examples ``x`` (n, ...) where the user names none.

    ``residual`` for a table with columns of numbers, with enough rows for their covariances, where
    no setting is given that it has no use for; else ``cpvae``.
    """
    settings = {name for name, value in given.items() if value is not None}
    known = settings <= {*OF_RESIDUAL, "n_components", "hidden", "likelihood", "network"}
    usual = given.get("likelihood") in (None, "gaussian", "mixed")
    usual = usual and given.get("network") in (None, "mlp")
    if not (known and usual and x.ndim == 2):
        return "cpvae"
    of_each = schema.column_kinds(x, kinds, as_numbers=True)
    n_numbers = sum(kind not in ("binary", "categorical") for kind in of_each)
    enough = n_numbers <= MOST_COLUMNS and len(x) >= ROWS_A_COLUMN * n_numbers
    return "residual" if n_numbers and enough else "cpvae"


def model_config(
    x: np.ndarray, schema: Schema | None = None, kinds: Kinds | None = None, **given: Any
) -> dict[str, Any]:
    """Keywords of `models.build` for training examples ``x`` (n, ...); ``given`` values win.

    The p(c) of a CP-VAE is learned, because the paper's 1/K is for components of one size.

    Arguments:
        x: training examples (n, ...)
        schema: of the data; that of an array by default
        kinds: of columns, by name, or one for all, where `kinds.column_kinds` is not to choose
        **given: keywords of `models.build`

    Raises:
        ValueError: more components than examples, fewer than one, a size that is no whole number,
            or what `describe_data` refuses. What `build` refuses is refused there.
    """
    schema = schema or Schema(x.shape[1:])
    given = _plain(given)
    _check_sizes(given, len(x))
    given.setdefault("model", choose_model(x, schema, given, kinds))
    model = given["model"]
    likelihood, schema = describe_data(x, schema, kinds, given.get("likelihood"), model)
    return configured(len(x), schema, {**given, "likelihood": likelihood})


def configured(n: int, schema: Schema, given: dict[str, Any]) -> dict[str, Any]:
    """Keywords of `models.build` for ``n`` examples of a planned schema, see `model_config`."""
    model = given.get("model", "cpvae")
    choose("model", model, SYSTEMS)
    one = MODELS[model].prior is StandardNormal
    n_features = math.prod(schema.shape)
    width = 300 if n * n_features >= 1_000_000 else 100
    config: dict[str, Any] = {
        "model": model,
        "n_components": 1 if one else 10,
        "latent_dim": min(40, max(2, n_features // 2)),
        "hidden": [width, width],
    }
    if "mixing_weights" in MODELS[model].settings:
        config["mixing_weights"] = "learned"
    if given.get("likelihood") != "bernoulli":  # whose values lie in [0, 1]
        config["soft_bounds"] = True
    if model == "residual":
        others = [kind for kind in schema.kinds if kind in ("binary", "categorical")]
        config["latent_dim"] = n_features - len(others) + min(MORE_DIMENSIONS, len(others))
    config |= schema.features() | given
    _check_sizes(config, n)
    return config


def recipe(
    n_examples: int, config: dict[str, Any], accelerator: str = "auto", **given: Any
) -> Recipe:
    """A `Recipe` for a `model_config` and a training set of this size; ``given`` values win.

    The run has about `STEPS` steps, anneals over its first three eighths, averages weights over a
    twentieth of it, and stops early when a fifth goes by without a better validation bound. The
    first three twentieths are pretraining; then q(c|x) of a CP-VAE learns communities of
    neighbours. For a table that `needs_mixture` pretraining is one epoch, the weight of KL(z) falls
    to 1, so that it is cheaper to put information into c, and the temperature stays at 1: gradients
    at a lower one are noisier, and with few rows a category may be lost. After three fifths of the
    run the expectation over c is exact there, so that an example is in one category where it can
    be. For other data whose p(c) is 1/K, which says that components are of one size, an invariance
    term is joined by a reward for that. For models without c the weight of KL(z) rises to 1. On a
    processor that has instructions for it, products of a large network on data in [0, 1] are taken
    in bfloat16.

    Raises:
        ValueError: a value out of range, see `Recipe`, or a setting about c for a model without.
    """
    given = _plain(given)
    _check_whole(given, ("max_epochs", "batch_size", "anneal_epochs", "pretraining_epochs"))
    model = config["model"]
    if model == "residual":
        return _recipe_of_residual(n_examples, given)
    has_categories = MODELS[model].model.has_categories
    for name in () if has_categories else OF_C:
        if given.get(name):
            raise ValueError(f"{name} is about q(c|x), and the model {model!r} has none.")
    batch_size = given.get("batch_size", min(100, max(10, n_examples // 10)))
    steps = max(1, math.ceil(n_examples / max(1, batch_size)))
    epochs = given.get("max_epochs", min(1000, max(100, STEPS // steps)))
    mixture = needs_mixture(n_examples, config["shape"], config.get("kinds", ()))
    one = config["n_components"] == 1
    anneal_epochs = given.get("anneal_epochs", max(1, 3 * epochs // 8))
    pretraining = min(1 if mixture else 3 * epochs // 20, anneal_epochs // 2)
    pretraining = given.get("pretraining_epochs", 0 if one else pretraining)
    exact = mixture and not one and has_categories and "expectation" not in given
    exact = exact and config["n_components"] <= MOST_ENUMERATED
    even = config.get("mixing_weights") != "learned" and not mixture
    rewarded = even and given.get("invariance_weight")
    kl_z_start = 1.0 if pretraining and not mixture else Recipe.kl_z_start
    if not has_categories:
        pretraining, kl_z_start = 0, 0.0
    defaults = {
        "batch_size": batch_size,
        "max_epochs": epochs,
        "anneal_epochs": anneal_epochs,
        "pretraining_epochs": pretraining,
        "averaging": max(2, epochs // 20),
        "patience": max(10, epochs // 5),
        "exact_after": 3 * epochs // 5 if exact else 0,
        "kl_z_start": kl_z_start,
        "temperature_end": 1.0 if mixture else Recipe.temperature_end,
        "marginal_entropy": MARGINAL_ENTROPY if rewarded else 0.0,
        "precision": _precision(config, accelerator),
    }
    return Recipe(**(defaults | given))


def _recipe_of_residual(n_examples: int, given: dict[str, Any]) -> Recipe:
    """A few large batches: the model starts where others end."""
    batch_size = given.get("batch_size", min(LARGE_BATCH, n_examples))
    steps = max(1, n_examples // max(1, batch_size))
    several = steps > 1  # batches: their noise needs smaller steps, and so more of them
    most = 2 * RESIDUAL_STEPS if several else RESIDUAL_STEPS
    epochs = given.get("max_epochs", math.ceil(most / steps))
    defaults: dict[str, Any] = {
        "batch_size": batch_size,
        "max_epochs": epochs,
        "expectation": "exact",
        "anneal_epochs": 0,
        "learning_rate": 1e-3 if several else 2e-3,
        "patience": max(1, epochs // 4),
    }
    for field in dataclasses.fields(Recipe):
        name, usual = field.name, defaults.get(field.name, field.default)
        if name not in OF_RESIDUAL and given.get(name, usual) != usual:
            raise ValueError(
                f"{name} has no use for the model 'residual', which starts as a mixture: give "
                f"{', '.join(OF_RESIDUAL)}, or take the model 'cpvae'."
            )
    return Recipe(**(defaults | given))


def _precision(config: dict[str, Any], accelerator: str) -> str:
    large = math.prod(config["shape"]) * config["hidden"][0] >= ENOUGH_FOR_BFLOAT16
    on_cpu = choose_device(accelerator).type == "cpu"
    pays = large and has_bfloat16() and on_cpu and config["likelihood"] == "bernoulli"
    return "bfloat16" if pays else "float32"


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that were given, with numbers and arrays of numpy as Python's."""
    return {key: _plain_value(value) for key, value in given.items() if value is not None}


def _plain_value(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain_value(part) for part in value]
    return value.tolist() if hasattr(value, "tolist") else value  # of numpy, of torch


def _check_sizes(given: Mapping[str, Any], n: int) -> None:
    """Refuses sizes of the model that are no sizes, or do not fit ``n`` training examples."""
    _check_whole(given, ("n_components", "latent_dim"))
    k = given.get("n_components", 1)
    if not 1 <= k <= n:
        raise ValueError(
            f"n_components={k} does not fit {n} training examples: use a number from 1 to {n}, "
            f"and better far fewer components than examples."
        )
    for name in ("latent_dim", "noise_scale"):
        if given.get(name, 1) <= 0:
            raise ValueError(f"{name}={given[name]}: use a number above 0.")
    if not isinstance(given.get("hidden", []), Sequence):
        raise ValueError(f"hidden={given['hidden']}: use a list of widths, one a layer.")


def _check_whole(given: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in names:
        value = given.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError(f"{name}={value!r}: use a whole number.")
