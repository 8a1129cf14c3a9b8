"""`CPVAE`: the model, its training and its generation behind scikit-learn's interface."""

import copy
import dataclasses
import importlib
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    DensityMixin,
    TransformerMixin,
)
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import validate_data

from cpvae.checkpoint import RunFolder, describe
from cpvae.data.augment import Augment, named
from cpvae.data.checks import check, check_like
from cpvae.data.files import as_examples, from_table
from cpvae.data.levels import Levels, decode
from cpvae.data.objects import as_arrow
from cpvae.data.source import Selection
from cpvae.evaluation.metrics import cluster_probs, elbo_of_each, evaluate
from cpvae.extras import need
from cpvae.models.base import Model, build
from cpvae.models.compact import TOLERANCE, compact
from cpvae.training import defaults
from cpvae.training.fit import fit_best
from cpvae.training.initialise import starts_at_pieces
from cpvae.training.loop import Record, fit_together, one_pass, overfitted, still_rising
from cpvae.training.recipe import Recipe


class CPVAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, BaseEstimator):
    """Learns a mixture from data and generates from any one of its components (CP-VAE).

    Arguments left at None are chosen from the data, see `defaults`.

    Arguments:
        n_components: number of categories K, 10 by default; 1 for the models ``vae`` and ``hvae``
        model: ``cpvae``, or one of those it is compared with: ``vae``, ``mog`` (mixture of
            Gaussians), ``vamp`` (VampPrior), ``hvae`` (two layers), ``hvamp``. Their categories are
            the responsibilities of their prior's components
        latent_dim: dimensions of the continuous latent z
        hidden: widths of the hidden layers
        network: ``mlp``, or ``conv`` for images
        likelihood: ``bernoulli`` for data in [0, 1], ``gaussian``, or ``mixed`` for columns of
            several kinds, which is the default where a frame has columns of text
        kinds: of columns, by name or number, or one for all of them, where
            `defaults.column_kinds` is not to choose: ``gaussian``, ``binary``, ``count`` or
            ``categorical``
        noise_scale: fixed standard deviation of a Gaussian likelihood; None learns it
        covariance: ``diag`` (default) or ``full`` covariance of p(z | c)
        gate: what q(z | x, .) reads, ``probabilities`` (default) or ``category``
        weights: p(c), ``learned`` (default) or ``uniform``, the paper's 1/K, which says that
            categories are of one size
        pseudo_inputs: of a VampPrior, started at ``data`` (default) or ``random``
        estimator: of the expectation over c, ``straight_through``, ``relaxed`` or ``exact``; by
            default the first, and where categories start as pieces the last after 3/5 of all
        max_epochs: passes over the data at most
        batch_size: examples a step
        learning_rate: of Adam
        start_epochs: epochs before categories start: as communities of neighbours, after 3/20 of
            all, or as pieces of a table under 1000 rows or 8 columns, or with text or booleans
            beside numbers, after one
        precision: of products in training, ``float32``, or ``bfloat16`` for data in [0, 1]; by
            default the latter where the processor has instructions for it and the network is large
        invariance: a change of x that must leave its category as it is: ``affine`` for images,
            ``masking`` for tables, or a `cpvae.data.augment.Augment`; None leaves the term out
        invariance_weight: weight of that term, see `Recipe`
        validation_fraction: share of the data held out for early stopping
        warm_start: whether another `fit` goes on from the weights of the one before, without
            annealing
        n_init: fits from that many seeds, ``random_state`` and those after it, and keeps the best
            by the validation bound; a process a core, or all at once on a CUDA device
        random_state: seed of everything, or a `numpy.random.RandomState`, or None, to draw one from
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``
        verbose: whether to print a line an epoch

    Attributes:
        model_: the fitted `torch.nn.Module`
        restarts_: for each seed its epochs and its best validation bound
        history_: one record an epoch, see `train.fit`
        recipe_: the `Recipe` that was used
        aggregated_: share of each component in the training data, (k) (eq. 14)
        n_features_in_: features of one example

    Example:
        >>> from sklearn.datasets import load_digits
        >>> from cpvae import CPVAE
        >>> X = load_digits().images / 16
        >>> model = CPVAE(n_components=10, max_epochs=2, random_state=0).fit(X)
        >>> X_new, component = model.sample(5, component=3)
        >>> X_new.shape, component.tolist()
        ((5, 8, 8), [3, 3, 3, 3, 3])
    """

    history_: list[Record]
    _optimiser: dict[str, torch.Tensor] | None

    def __init__(
        self,
        n_components: int | None = None,
        *,
        model: str = "cpvae",
        latent_dim: int | None = None,
        hidden: Sequence[int] | None = None,
        network: str = "mlp",
        likelihood: str | None = None,
        kinds: Mapping[Any, str] | str | None = None,
        noise_scale: float | None = None,
        covariance: str | None = None,
        gate: str | None = None,
        weights: str | None = None,
        pseudo_inputs: str | None = None,
        estimator: str | None = None,
        max_epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        start_epochs: int | None = None,
        precision: str | None = None,
        invariance: str | Augment | None = None,
        invariance_weight: float = 2.0,
        validation_fraction: float = 0.1,
        warm_start: bool = False,
        n_init: int = 1,
        random_state: int | np.random.RandomState | None = 0,
        accelerator: str = "auto",
        verbose: bool = False,
    ):
        self.n_components = n_components
        self.model = model
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.network = network
        self.likelihood = likelihood
        self.kinds = kinds
        self.noise_scale = noise_scale
        self.covariance = covariance
        self.gate = gate
        self.weights = weights
        self.pseudo_inputs = pseudo_inputs
        self.estimator = estimator
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.start_epochs = start_epochs
        self.precision = precision
        self.invariance = invariance
        self.invariance_weight = invariance_weight
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.n_init = n_init
        self.random_state = random_state
        self.accelerator = accelerator
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: Any = None) -> "CPVAE":
        """Fits to examples (n, f), (n, height, width) or (n, channels, height, width).

        A frame may have columns of text, which are categories, and of booleans. Values of a table
        may be missing (NaN): the others are learned from. ``y`` is ignored: labels have no way into
        the fit. Where examples are learned by heart before components are formed, see
        `train.overfitted`, and ``max_epochs`` is None, it begins again in fewer epochs.

        Warns:
            ConvergenceWarning: the bound on held-out data was still rising at the last epoch, or
                was best before the annealing had ended.

        Raises:
            ValueError: data that cannot be learned from, or a setting out of range.
        """
        warm = self.warm_start and hasattr(self, "model_")
        x, shape, columns = self._read(X, reset=not warm)
        check(x, columns)
        if self.n_init < 1:
            raise ValueError(f"n_init={self.n_init}: use a whole number from 1 up.")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction={self.validation_fraction}: use a number between 0 and 1."
            )
        seed = self._seed()
        order = np.random.default_rng(seed).permutation(len(x))
        held = max(1, round(self.validation_fraction * len(x)))
        train, valid = x[order[held:]], x[order[:held]]
        missing = bool(np.isnan(x).any())
        config, recipe = self._plan(train, columns, missing, seed)
        data = torch.from_numpy(train), torch.from_numpy(valid)
        move = named(self.invariance, config["shape"])
        tell = _print_epoch if self.verbose else None
        if warm:
            model, config = self.model_, self._same(config)
            recipe = dataclasses.replace(recipe, anneal_epochs=0, start_epochs=0)
            (history,) = fit_together(
                [model], *data, [recipe], move, on_epoch=tell, accelerator=self.accelerator
            )
        else:
            fit = partial(
                fit_best,
                config,
                n_restarts=self.n_init,
                x_train=data[0],
                x_valid=data[1],
                augment=move,
                on_epoch=tell,
                accelerator=self.accelerator,
            )
            model, history, self.restarts_ = fit(recipe)
            early = overfitted(history, recipe)
            if early and self.max_epochs is None:
                recipe = recipe.shortened(early)
                if self.verbose:
                    print(f"Examples are learned by heart after epoch {early}: begins again.")
                model, history, self.restarts_ = fit(recipe)
        self.history_, self._optimiser = history, None
        self._take(model, config, recipe, shape)
        self._warn()
        return self

    def partial_fit(self, X: ArrayLike, y: Any = None) -> "CPVAE":
        """One pass of training over ``X``, for data that comes in parts; after `fit` it goes on.

        The first part decides what is decided from the data, such as the standardisation, and where
        categories start as pieces of a table: make it a fair sample. Each pass is an epoch of the
        annealing, nothing is held out, and ``aggregated_`` is a running mean over the parts.

        Raises:
            ValueError: data that cannot be learned from, or a setting out of range.
        """
        first = not hasattr(self, "model_")
        x, shape, columns = self._read(X, reset=first)
        if first:
            check(x, columns)
            config, recipe = self._plan(x, columns, False, self._seed(), in_parts=True)
            self.history_, self._optimiser = [], None
            self._take(build(**config), config, recipe, shape)
        else:
            self._check_like(x)
        examples = torch.from_numpy(np.ascontiguousarray(x))
        record, self._optimiser = one_pass(
            self.model_,
            examples,
            self.recipe_,
            len(self.history_),
            getattr(self, "_optimiser", None),
            named(self.invariance, self.config_["shape"]),
            self.accelerator,
        )
        self.history_.append(record)
        device = self.model_.aggregated.device
        shares = cluster_probs(self.model_, examples.to(device)).mean(0)
        self.model_.aggregated.lerp_(shares, max(0.1, 1 / len(self.history_)))
        self.aggregated_ = self.model_.aggregated.cpu().numpy().copy()
        return self

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31))

    def _plan(
        self,
        x: np.ndarray,
        columns: Sequence[str] | None,
        missing: bool,
        seed: int,
        in_parts: bool = False,
    ) -> tuple[dict[str, Any], Recipe]:
        """What is built and how it is trained, from training data and settings."""
        config = defaults.model_config(
            x,
            columns,
            missing,
            self.levels_,
            self.kinds,
            model=self.model,
            n_components=self.n_components,
            latent_dim=self.latent_dim,
            hidden=self.hidden,
            network=self.network,
            likelihood=self.likelihood,
            noise_scale=self.noise_scale,
            covariance=self.covariance,
            gate=self.gate,
            weights=self.weights,
            pseudo_inputs=self.pseudo_inputs,
            seed=seed,
        )
        start_epochs = self.start_epochs
        if in_parts and not starts_at_pieces(len(x), config["shape"], config.get("kinds", ())):
            start_epochs = 0  # parts that are still to come have no place among communities
        recipe = defaults.recipe(
            len(x),
            config,
            self.accelerator,
            estimator=self.estimator,
            max_epochs=self.max_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            precision=self.precision,
            start_epochs=start_epochs,
            invariance=self.invariance_weight if self.invariance else 0.0,
            seed=seed,
        )
        return config, recipe

    def _same(self, config: dict[str, Any]) -> dict[str, Any]:
        """The configuration of the model that a warm start goes on with."""
        of_data = ("loc", "scale", "seed", "kinds", "n_levels")
        for key, value in config.items():
            if key not in of_data and self.config_.get(key) != value:
                raise ValueError(
                    f"warm_start goes on with a model that has {key}={self.config_.get(key)}, and "
                    f"this asks for {value}: leave the setting, or set warm_start=False."
                )
        return self.config_

    def _warn(self) -> None:
        recipe, told = self.recipe_, []
        if rise := still_rising(self.history_, recipe):
            told.append(
                f"The bound still rose by {rise:.2f} nats in the last tenth of {recipe.max_epochs} "
                f"epochs: give max_epochs={2 * recipe.max_epochs}, or fit again with "
                f"warm_start=True."
            )
        if early := overfitted(self.history_, recipe):
            told.append(
                f"The bound was best in epoch {early}, before the annealing had ended (after epoch "
                f"{recipe.anneal_epochs}): the model learned its examples by heart before its "
                f"components were formed. Give max_epochs={early}, or more data."
            )
        for each in told:
            warnings.warn(each, ConvergenceWarning, stacklevel=3)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The most probable component of each example, (n) ints."""
        return self.predict_proba(X).argmax(axis=1)

    def fit_predict(self, X: ArrayLike, y: Any = None) -> np.ndarray:
        """`fit`, then `predict` on the same data."""
        return self.fit(X).predict(X)

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """q(c|x) of each example, (n, k); for models without c the prior's responsibilities."""
        return self._in_parts(X, "cluster_probs")

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Posterior mean of z of each example, (n, d); of a two-layer model that of z2."""
        return self._in_parts(X, "embed")

    def reconstruct(self, X: ArrayLike) -> Any:
        """Each example as the model sees it, in the shape of ``X``; a frame if `fit` took text."""
        made = self._in_parts(X, "reconstruct")
        return self._frame(made) if self.levels_ else made.reshape(np.shape(X))

    def impute(self, X: ArrayLike) -> Any:
        """``X`` with its missing values (NaN) replaced by those of `reconstruct`."""
        if not self.levels_:
            array = np.asarray(X)
            return np.where(np.isnan(array), self.reconstruct(X), array)
        x, made = self._examples(X).cpu().numpy(), self.reconstruct(X)
        frame: Any = X if hasattr(X, "columns") else self._frame(x)
        gone = np.isnan(x)
        if hasattr(frame, "mask"):  # of pandas; cells that are there stay, to the last bit
            return frame.mask(gone, type(frame)(made.to_dict("list"), index=frame.index))
        kept = (
            frame[name].zip_with(type(frame[name])(~gone[:, i]), made[name].cast(frame[name].dtype))
            for i, name in enumerate(frame.columns)
        )
        return frame.with_columns(kept)

    def score_samples(self, X: ArrayLike) -> np.ndarray:
        """The one-hot bound on log p(x) of each example, (n) nats; a lower bound (eq. 7).

        Noise comes from the example itself and the seed, so the score of an example does not depend
        on those beside it.
        """
        return elbo_of_each(*self._as_precise_as(X), self.recipe_.seed).cpu().numpy()

    def score(self, X: ArrayLike, y: Any = None) -> float:
        """Mean of `score_samples` in nats per example; greater is better."""
        return float(self.score_samples(X).mean())

    def evaluate(
        self, X: ArrayLike, y: ArrayLike | None = None, n_samples: int = 500
    ) -> dict[str, float | int]:
        """All figures, see `evaluate.evaluate`; labels ``y`` add the clustering scores."""
        return evaluate(self.model_, self._examples(X), y, n_samples, seed=self.recipe_.seed)

    def sample(
        self,
        n_samples: int = 1,
        component: int | None = None,
        from_: str | None = None,
        random_state: int | None = None,
        mean: bool | None = None,
    ) -> tuple[Any, np.ndarray]:
        """Generates examples and says which component each came from.

        Arguments:
            n_samples: how many
            component: draw all of them from this one
            from_: else draw components from the ``aggregated`` posterior (default for CP-VAE) or
                each as often as another, ``uniform`` (the prior of the others, and their default)
            random_state: seed; the estimator's own by default
            mean: give E[x | z, c] instead of a draw. By default means for a Bernoulli likelihood
                (grey images) and draws for a Gaussian one

        Returns:
            Examples in the shape that `fit` took, and components (n). If `fit` took columns of
            text or booleans the examples are a frame, of polars if `fit` took one of polars, else
            of pandas.

        Raises:
            ValueError: no such component.
        """
        self._check_fitted()
        seed = self.recipe_.seed if random_state is None else random_state
        generator = torch.Generator(self.model_.aggregated.device).manual_seed(seed)
        if mean is None:
            mean = self.config_["likelihood"] == "bernoulli"
        x, drawn = self.model_.sample(n_samples, component, from_, generator, mean)
        examples = x.cpu().numpy()
        if self.levels_:
            return self._frame(examples), drawn.cpu().numpy()
        return examples.reshape(n_samples, *self.example_shape_), drawn.cpu().numpy()

    def compact(self, X: ArrayLike, tolerance: float = TOLERANCE, whole: bool = False) -> "CPVAE":
        """Drops components that are not used and merges those that say the same, see `compact`.

        Arguments:
            X: examples that decide, best some that were not fitted
            tolerance: take the fewest components whose bound on ``X`` is this close to the best
            whole: whether to merge too, whatever the bound, what hangs together among neighbours in
                ``X`` as halves of one kind do, see `communities.whole`

        Returns:
            The estimator itself, with its model replaced; ``groups_`` has the former components of
            each new one.

        Raises:
            ValueError: another model than CP-VAE.
        """
        x = self._examples(X)
        seed = self.recipe_.seed
        found = compact(self.model_, self.config_, x, tolerance, seed, x if whole else None)
        self.groups_ = found.groups
        self._take(found.model, found.config, self.recipe_, self.example_shape_)
        return self

    def save(self, path: str | Path) -> None:
        """Writes a run folder that `load` and the command line read.

        Raises:
            ValueError: the folder holds another run.
        """
        self._check_fitted()
        folder = RunFolder(path)
        if folder.exists():
            raise ValueError(f"{path} already holds a run: choose another folder.")
        info = describe(self.config_, self.recipe_)
        table = {"columns": self._columns(), "levels": self.levels_}
        folder.write_info(
            {**info, "status": "finished", "example_shape": self.example_shape_, "table": table}
        )
        folder.write_history(self.history_)
        folder.write_model(self.model_.state_dict())

    @classmethod
    def load(cls, path: str | Path) -> "CPVAE":
        """Reads a run folder, from `save` or from the command line.

        Raises:
            ValueError: not a run folder, damaged, or of a newer format.
        """
        folder = RunFolder(path)
        info = folder.read_info()
        model, config, recipe = folder.read_model(), info["model"], Recipe(**info["recipe"])
        # of the first the function itself is not stored, the second is set below
        known = set(cls._get_param_names()) - {"invariance", "kinds"}
        if config["model"] != "cpvae":
            known -= set(defaults.OF_C)
        settings = {k: v for k, v in {**config, **info["recipe"]}.items() if k in known}
        estimator = cls(**settings, random_state=recipe.seed)
        table = info.get("table") or info.get("data") or {}
        if config["likelihood"] == "mixed":  # its columns have names, and some have levels
            estimator.kinds = dict(zip(table["columns"], config["kinds"], strict=True))
            estimator.feature_names_in_ = np.array(table["columns"], dtype=object)
        estimator.levels_ = table.get("levels")
        estimator.history_ = folder.read_history()
        shape = tuple(info.get("example_shape") or config["shape"])
        estimator._take(model, config, recipe, shape)
        return estimator

    def _take(
        self, model: Model, config: dict[str, Any], recipe: Recipe, shape: Sequence[int]
    ) -> None:
        self.model_, self.config_, self.recipe_ = model, config, recipe
        self.example_shape_ = tuple(shape)
        self.aggregated_ = model.aggregated.cpu().numpy()
        self.n_features_in_ = int(np.prod(config["shape"]))
        self._n_features_out = config["latent_dim"]  # scikit-learn names the codes by it

    def _check_fitted(self) -> None:
        if not hasattr(self, "model_"):
            raise NotFittedError("This CPVAE is not fitted yet: call fit first, or CPVAE.load.")

    def _read(
        self, X: ArrayLike, reset: bool
    ) -> tuple[np.ndarray, tuple[int, ...], list[str] | None]:
        """Examples in single precision, the shape of one of ``X``, and names of its columns."""
        if reset:
            self.levels_ = None
            self._package = "polars" if type(X).__module__.startswith("polars") else "pandas"
        categorical = [str(k) for k, v in dict(self._kinds()).items() if v == "categorical"]
        table = as_arrow(X)
        if table is None and not self.levels_ and not (reset and categorical):
            array = self._validated(X, reset)
            return (
                as_examples(array, "X"),
                array.shape[1:],
                self._columns() if array.ndim == 2 else None,
            )
        validate_data(self, X, reset=reset, skip_check_array=True)
        if table is None:
            import pyarrow

            table = pyarrow.table(dict(zip(self._columns(), np.asarray(X).T, strict=True)))
        named = self._columns() if hasattr(self, "feature_names_in_") else None
        levels = None if reset else (self.levels_ or Levels())
        what = Selection(columns=named, levels=levels, categorical=categorical)
        source = from_table(Path(type(X).__name__), table, what)
        if reset:
            self.levels_ = source.levels
        return source.x, source.x.shape[1:], self._columns()

    def _kinds(self) -> Mapping[Any, str]:
        return self.kinds if isinstance(self.kinds, Mapping) else {}

    def _columns(self) -> list[str]:
        named = getattr(self, "feature_names_in_", range(self.n_features_in_))
        return [str(name) for name in named]

    def _frame(self, x: np.ndarray) -> Any:
        """A table as a frame of the package that `fit` was given one of, categories as text."""
        table = decode(x, self._columns(), self.levels_ or {}, self.config_.get("kinds"))
        package = getattr(self, "_package", "pandas")
        need(package, "data")
        return importlib.import_module(package).DataFrame(table)

    def _validated(self, X: ArrayLike, reset: bool) -> np.ndarray:
        """scikit-learn's checks of ``X``; those of this project follow."""
        kinds: dict[str, Any] = {"dtype": "numeric", "ensure_all_finite": False}
        if reset:
            kinds["ensure_min_samples"] = 2
        n_axes = X.ndim if hasattr(X, "ndim") else np.asarray(X).ndim
        if n_axes > 2:  # the axes of images are no samples and features
            return check_array(X, allow_nd=True, **kinds)
        try:
            return validate_data(self, X, reset=reset, **kinds)
        except ValueError as error:
            if n_axes != 2 or np.asarray(X).dtype.kind not in "OUS":
                raise
            raise ValueError(
                f"X does not hold numbers alone ({error}): give a frame of pandas or polars, whose "
                f"columns of text become categories."
            ) from error

    def _examples(self, X: ArrayLike) -> torch.Tensor:
        self._check_fitted()
        x = self._read(X, reset=False)[0]
        self._check_like(x)
        return torch.from_numpy(np.ascontiguousarray(x)).to(self.model_.aggregated.device)

    def _check_like(self, x: np.ndarray) -> None:
        """Refuses what the fitted model cannot take."""
        missing = self.model_.likelihood.takes_missing and x.ndim == 2
        kinds = self.config_.get("kinds")
        check_like(x, self.config_["shape"], self._columns() if kinds else None, missing, kinds)

    def _as_precise_as(self, X: ArrayLike) -> tuple[Model, torch.Tensor]:
        """The model and examples, in double precision on the processor if ``X`` is an array of it.

        In single precision the place of an example among others may show in its last digits.
        """
        x = self._examples(X)
        if getattr(X, "dtype", None) != np.float64:
            return self.model_, x
        return copy.deepcopy(self.model_).cpu().double(), x.cpu().double()

    def _in_parts(self, X: ArrayLike, method: str) -> np.ndarray:
        model, x = self._as_precise_as(X)
        parts = [getattr(model, method)(part) for part in x.split(model.rows_at_once())]
        return torch.cat(parts).cpu().numpy()


def _print_epoch(place: int, record: Record) -> None:
    print(
        f"restart {place}  epoch {record['epoch']:4d}  {record['seconds']:7.1f} s  "
        f"bound {record['valid_elbo_nats']:.2f} nats  "
        f"components used {record['components_used']}"
    )
