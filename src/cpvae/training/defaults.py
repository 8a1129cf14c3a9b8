"""What is chosen where the user says nothing: from the data's shape, size and range alone."""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from cpvae.data.checks import check_kinds, check_varies, column_names
from cpvae.data.levels import BOOLEAN, Levels
from cpvae.models.base import MODELS
from cpvae.models.likelihoods import KINDS
from cpvae.models.priors import StandardNormal
from cpvae.training.device import choose_device, has_bfloat16
from cpvae.training.initialise import starts_at_pieces
from cpvae.training.loop import ENUMERATED
from cpvae.training.recipe import Recipe

Kinds = str | Mapping[Any, str]
# settings that only a model with c has
OF_C = ("estimator", "kl_c_start", "start_epochs", "invariance")
LARGE = 100_000  # weights of the first layer from which products in bfloat16 pay
BALANCE = 8.0  # where categories are even; less lets two merge and a third split, for good
STEPS = 10_000  # optimisation steps that a run gets by default, between 100 and 1000 epochs


def model_config(
    x: np.ndarray,
    columns: Sequence[str] | None = None,
    missing: bool = False,
    levels: Levels | None = None,
    kind_of: Kinds | None = None,
    **given: Any,
) -> dict[str, Any]:
    """Keywords of `models.build` for training examples ``x`` (n, ...); ``given`` values win.

    Data in [0, 1] gets a Bernoulli likelihood, other data and data with missing values (NaN) a
    Gaussian one on features standardised one by one for a table and channel by channel for images.
    A table with columns of text, or for whose columns kinds are given, gets a mixed one. The p(c)
    of a CP-VAE is learned, because the paper's 1/K asks for categories of one size.

    Arguments:
        x: training examples (n, ...)
        columns: names of the columns of a table
        missing: whether values are missing elsewhere in the data, if not in ``x``
        levels: the categories of columns of text, by name, see `data.levels`
        kind_of: kinds of columns, by name, or one for all, where `column_kinds` is not to choose
        **given: keywords of `models.build`

    Raises:
        ValueError: more components than examples, fewer than one, constant columns under a
            Gaussian likelihood, data outside [0, 1] or missing under a Bernoulli likelihood, or a
            kind that does not fit its column. What `build` refuses is refused there.
    """
    given = _plain(given)
    if levels or kind_of:
        given.setdefault("likelihood", "mixed")
        if given["likelihood"] != "mixed":
            named = "columns of text" if levels else "kinds of columns"
            raise ValueError(
                f"likelihood={given['likelihood']!r} does not go with {named}: use 'mixed', which "
                f"is the default for them, or leave them out."
            )
    n, shape = len(x), x.shape[1:]
    model = given.get("model", "cpvae")
    one = model in MODELS and MODELS[model].prior is StandardNormal
    _check_whole(given, ("n_components", "latent_dim"))
    k = given.get("n_components", 1 if one else 10)
    if not 1 <= k <= n:
        raise ValueError(
            f"n_components={k} does not fit {n} training examples: use a number from 1 to {n}, "
            f"and better far fewer components than examples."
        )
    for name in ("latent_dim", *(["noise_scale"] if "noise_scale" in given else [])):
        if given.get(name, 1) <= 0:
            raise ValueError(f"{name}={given[name]}: use a number above 0.")
    low, high = np.nanmin(x), np.nanmax(x)
    missing = missing or bool(np.isnan(x).any())
    in_unit_interval = bool(low >= 0 and high <= 1)
    probabilities = in_unit_interval and not missing
    likelihood = given.get("likelihood", "bernoulli" if probabilities else "gaussian")
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
    if isinstance(given.get("hidden"), int):
        raise ValueError(f"hidden={given['hidden']}: use a list of widths, one a layer.")
    n_features = math.prod(shape)
    width = 300 if n * n_features >= 1_000_000 else 100
    config: dict[str, Any] = {
        "model": model,
        "shape": list(shape),
        "likelihood": likelihood,
        "n_components": k,
        "latent_dim": min(40, max(2, n_features // 2)),
        "hidden": [width, width],
    }
    if model == "cpvae":
        config["weights"] = "learned"
    if likelihood == "gaussian":
        loc, scale = _standardisation(x, columns)
        config |= {"loc": loc.tolist(), "scale": scale.tolist()}
    if likelihood == "mixed":
        config |= _mixed(x, columns, levels or {}, kind_of or {})
    return config | given


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that were given, with whole numbers of numpy as Python's."""
    return {
        key: int(value) if isinstance(value, np.integer) else value
        for key, value in given.items()
        if value is not None
    }


def _check_whole(given: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in names:
        value = given.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError(f"{name}={value!r}: use a whole number.")


def column_kinds(
    x: np.ndarray,
    columns: Sequence[str] | None = None,
    levels: Levels | None = None,
    given: Kinds | None = None,
) -> list[str]:
    """The kind of each column of a table (n, f), see `likelihoods.KINDS`; ``given`` ones win.

    A column of text is ``categorical``, one of booleans or of zeros and ones ``binary``, one of
    whole numbers that begins at 0 a ``count``, and any other ``gaussian``.

    Raises:
        ValueError: a kind for a column that is not there, or one that does not fit its column.
    """
    names = column_names(columns, x.shape[1])
    levels, given = levels or {}, given or {}
    if isinstance(given, str):
        given = dict.fromkeys(names, given)
    if not isinstance(given, Mapping):
        raise ValueError(
            f"kinds={given!r}: use a dict from names of columns to kinds, or one kind for all."
        )
    given = {str(name): kind for name, kind in given.items()}
    for name, kind in given.items():
        if name not in names:
            raise ValueError(f"There is no column {name!r}: there are {', '.join(names)}.")
        if kind not in KINDS:
            raise ValueError(
                f"kind {kind!r} of column {name!r} is unknown: choose from {', '.join(KINDS)}."
            )
    kinds = []
    for name, column in zip(names, x.T, strict=True):
        values = column[~np.isnan(column)]
        whole = len(values) > 0 and bool((values == np.rint(values)).all() and values.min() == 0)
        binary = whole and values.max() <= 1
        fitting = "binary" if binary else "count" if whole else "gaussian"
        boolean = levels.get(name) == BOOLEAN
        if name in levels:
            fitting = "binary" if boolean else "categorical"
        kind = given.get(name, fitting)
        if (kind == "categorical") != (name in levels) and not (boolean and kind == "binary"):
            told = "was read as text" if name in levels else "was not read as text"
            raise ValueError(f"Column {name!r} cannot be {kind}: it {told}.")
        kinds.append(kind)
    check_kinds(x, kinds, names)
    return kinds


def _mixed(
    x: np.ndarray, columns: Sequence[str] | None, levels: Levels, given: Kinds
) -> dict[str, Any]:
    """What a `MixedLikelihood` is built from."""
    if x.ndim != 2:
        raise ValueError("likelihood='mixed' is for tables, and the data are images.")
    kinds = column_kinds(x, columns, levels, given)
    names = column_names(columns, x.shape[1])
    scaled = np.array(x, dtype=np.float64)
    for i, kind in enumerate(kinds):
        if kind == "count":
            scaled[:, i] = np.log1p(scaled[:, i])
    loc, scale = _standardisation(scaled, names)
    free = np.isin(kinds, ("gaussian", "count"))
    return {
        "kinds": kinds,
        "n_levels": [
            len(levels[name]) if kind == "categorical" else 0
            for name, kind in zip(names, kinds, strict=True)
        ],
        "loc": np.where(free, loc, 0.0).tolist(),
        "scale": np.where(free, scale, 1.0).tolist(),
    }


def recipe(
    n_examples: int, config: dict[str, Any], accelerator: str = "auto", **given: Any
) -> Recipe:
    """A `Recipe` for a `model_config` and a training set of this size; ``given`` values win.

    The run has about `STEPS` steps, anneals over its first three eighths, averages weights over a
    twentieth of it, and stops early when a fifth goes by without a better validation bound. The
    categories of a CP-VAE start after its first three twentieths, as communities of neighbours. Of
    a table that `starts_at_pieces` they start after an epoch, the weight of KL(z) falls to 1, so
    that c carries what it can, and the temperature stays at 1: gradients at a lower one are louder,
    and few rows can let a category go by them. After three fifths of the run the expectation over c
    is exact there, so that an example is in one category where it can be. Of other data whose p(c)
    is 1/K, which says that categories are even, an invariance term is joined by a reward for that.
    For models without c the weight of KL(z) rises to 1. On a processor that has instructions for
    it, products of a large network on data in [0, 1] are taken in bfloat16.

    Raises:
        ValueError: a value out of range, see `Recipe`, or a setting about c for a model without.
    """
    given = _plain(given)
    _check_whole(given, ("max_epochs", "batch_size", "anneal_epochs", "start_epochs"))
    model = config["model"]
    for name in OF_C if model != "cpvae" else ():
        if given.get(name):
            raise ValueError(f"{name} is about q(c|x), and the model {model!r} has none.")
    batch_size = given.get("batch_size", min(100, max(10, n_examples // 10)))
    steps = max(1, math.ceil(n_examples / max(1, batch_size)))
    epochs = given.get("max_epochs", min(1000, max(100, STEPS // steps)))
    of_pieces = starts_at_pieces(n_examples, config["shape"], config.get("kinds", ()))
    alone = config["n_components"] == 1
    anneal_epochs = given.get("anneal_epochs", max(1, 3 * epochs // 8))
    early = min(1 if of_pieces else 3 * epochs // 20, anneal_epochs // 2)
    start_epochs = given.get("start_epochs", 0 if alone else early)
    exact = of_pieces and not alone and model == "cpvae" and "estimator" not in given
    exact = exact and config["n_components"] <= ENUMERATED
    evened = given.get("invariance") and config.get("weights") != "learned" and not of_pieces
    kl_z_start = 1.0 if start_epochs and not of_pieces else Recipe.kl_z_start
    if model != "cpvae":
        start_epochs, kl_z_start = 0, 0.0
    defaults = {
        "batch_size": batch_size,
        "max_epochs": epochs,
        "anneal_epochs": anneal_epochs,
        "start_epochs": start_epochs,
        "averaging": max(2, epochs // 20),
        "patience": max(10, epochs // 5),
        "exact_after": 3 * epochs // 5 if exact else 0,
        "kl_z_start": kl_z_start,
        "temperature_end": 1.0 if of_pieces else Recipe.temperature_end,
        "balance": BALANCE if evened else 0.0,
        "precision": _precision(config, accelerator),
    }
    return Recipe(**(defaults | given))


def _precision(config: dict[str, Any], accelerator: str) -> str:
    pays = math.prod(config["shape"]) * config["hidden"][0] >= LARGE and has_bfloat16()
    on_cpu = choose_device(accelerator).type == "cpu"
    low = pays and on_cpu and config["likelihood"] == "bernoulli"
    return "bfloat16" if low else "float32"


def _standardisation(x: np.ndarray, columns: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    """Origin and unit of every feature, flat."""
    if x.ndim == 2:
        check_varies(x, columns)
        loc = np.asarray(np.nanmean(x, 0, dtype=np.float64))
        scale = np.asarray(np.nanstd(x, 0, dtype=np.float64))
    else:
        axes = (0, 2, 3)
        loc = np.broadcast_to(x.mean(axes, keepdims=True, dtype=np.float64)[0], x.shape[1:]).ravel()
        scale = np.broadcast_to(
            x.std(axes, keepdims=True, dtype=np.float64)[0], x.shape[1:]
        ).ravel()
    tiny = scale <= 1e-6 * np.abs(loc)  # below what single precision can tell from a constant
    if (scale <= 0).any() or tiny.any():
        index = np.flatnonzero((scale <= 0) | tiny)[:8]
        names = ", ".join(column_names(columns, len(scale))[i] for i in index)
        raise ValueError(
            f"Feature {names} varies too little around its mean for single precision: subtract "
            f"its mean, or drop it."
        )
    return loc, scale
