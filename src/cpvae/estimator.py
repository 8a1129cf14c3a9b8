"""`CPVAE`: the model, its training and its generation behind scikit-learn's interface."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, DensityMixin, TransformerMixin
from sklearn.base import ClassNamePrefixFeaturesOutMixin as NamedFeaturesMixin
from sklearn.exceptions import ConvergenceWarning

from cpvae.checkpoint import RunFolder, describe
from cpvae.choices import refusing_old_names
from cpvae.data.augment import Augment
from cpvae.data.checks import check
from cpvae.data.encoding import with_declared
from cpvae.data.schema import Kinds, Schema
from cpvae.data.shards import is_large
from cpvae.data.source import load
from cpvae.data.splits import Source, Splits, split
from cpvae.drawing import DrawingMixin
from cpvae.evaluation import densities
from cpvae.evaluation.metrics import evaluate
from cpvae.models.base import Model
from cpvae.models.build import SETTINGS, build
from cpvae.models.compact import TOLERANCE, compact
from cpvae.models.inference import cluster_probs, elbo_of_each
from cpvae.models.precision import single_precision
from cpvae.names import merged_names, numbers, read_names, write_names
from cpvae.report.progress import printed
from cpvae.rollback import or_as_before
from cpvae.rows import OfRows
from cpvae.segments import SegmentsMixin
from cpvae.staging import staged
from cpvae.streams import seed_of
from cpvae.training.diagnosis import Record
from cpvae.training.fit import Plan, continue_fit, fit_one_more, fit_plan, plan
from cpvae.training.recipe import Recipe
from cpvae.training.rows import sample_of

# arguments that are settings of the model or of the recipe; all others of those go into ``recipe``
FRONT = (
    *("n_components", "model", "latent_dim", "hidden", "network"),
    *("likelihood", "mixing_weights", "max_epochs"),
)
EXPERT = (*SETTINGS, *(field.name for field in dataclasses.fields(Recipe)))


class CPVAE(
    NamedFeaturesMixin, DrawingMixin, SegmentsMixin, TransformerMixin, DensityMixin, BaseEstimator
):
    """Learns a mixture from data and generates from any one of its components (CP-VAE).

    Arguments left at None are chosen from the data, see `training.defaults`.

    Arguments:
        n_components: number of components K, 10 by default; 1 for the models ``vae`` and ``hvae``
        model: ``cpvae``, or ``residual``, the same started as a mixture (default for tables with
            numbers), or a baseline, whose components are the prior's: ``vae``, ``mog`` (mixture of
            Gaussians), ``vamp``, ``hvae`` (two layers), ``hvamp``
        latent_dim: dimensions of the continuous latent z
        hidden: widths of the hidden layers
        network: ``mlp``, or ``conv`` for images
        likelihood: ``bernoulli`` for data in [0, 1], ``gaussian``, or ``mixed``, of several kinds
        kinds: of columns, by name or number, or one for all of them, where
            `Schema.column_kinds` is not to choose, see `choices.KINDS`
        mixing_weights: p(c), ``learned`` (default) or ``uniform``, the paper's 1/K, which says that
            components are of one size
        max_epochs: passes over the data at most
        missing: ``model`` to learn also which cells are missing, so that drawn rows have gaps; the
            bound counts it
        invariance: a change of x that must leave its category as it is: ``affine`` for images,
            ``masking`` for tables, or a `cpvae.data.augment.Augment`; None leaves the term out
        recipe: expert settings by name: any of a `Recipe` (``{"learning_rate": 3e-4}``) and of
            `cpvae.build` (``{"covariance": "full"}``)
        validation_fraction: share of the data held out for early stopping
        warm_start: whether another `fit` goes on from the weights of the one before, without
            annealing
        n_init: fits from that many seeds, ``random_state`` and on, and keeps the best by the
            validation bound; a process a core, or all at once on a CUDA device
        random_state: seed of everything, or a `numpy.random.RandomState`, or None, to draw one from
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``
        verbose: whether to print a line an epoch

    Attributes:
        model_: the fitted `torch.nn.Module`
        schema_: what the columns of the data are, see `cpvae.data.Schema`
        config_: what the model was built from
        recipe_: the `Recipe` that was used
        history_: one record an epoch, of the model ``residual`` one for every 25 steps or more
        restarts_: for each seed its epochs and its best validation bound
        log_densities_: quantiles of `score_samples` of the fitted examples, of 5,000 at most; after
            `compact` of those that it was given
        aggregated_: share of each component in the training data, (k) (eq. 14)
        names_: what each component is called, its number unless `name` said otherwise
        weights_, means_, covariances_: of the components of a table, see `evaluation.moments`
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
    log_densities_: list[float] | None
    _optimiser: dict[str, torch.Tensor] | None

    @refusing_old_names(EXPERT)
    def __init__(
        self,
        n_components: int | None = None,
        *,
        model: str | None = None,
        latent_dim: int | None = None,
        hidden: Sequence[int] | None = None,
        network: str = "mlp",
        likelihood: str | None = None,
        kinds: Kinds | None = None,
        mixing_weights: str | None = None,
        max_epochs: int | None = None,
        missing: str | None = None,
        invariance: str | Augment | None = None,
        recipe: Mapping[str, Any] | None = None,
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
        self.mixing_weights = mixing_weights
        self.max_epochs = max_epochs
        self.missing = missing
        self.invariance = invariance
        self.recipe = recipe
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.n_init = n_init
        self.random_state = random_state
        self.accelerator = accelerator
        self.verbose = verbose

    @or_as_before
    @single_precision()
    def fit(
        self,
        X: ArrayLike | Splits,
        y: Any = None,
        sample_weight: ArrayLike | None = None,
        start: Any = None,
    ) -> "CPVAE":
        """Fits to examples (n, f), (n, height, width) or (n, channels, height, width).

        A frame may have columns of text, which are categories, and of booleans. Values of a table
        may be missing (NaN): they are left out of the likelihood. ``X`` may also be what
        `cpvae.load` takes or gives, or a data set of pyarrow, and larger than memory: its training
        and validation parts are used, as by ``cpvae fit``. ``y`` is ignored: labels have no way in.
        Where the model overfits before its components are formed, see
        `training.diagnosis.overfitted`, and ``max_epochs`` is None, it is fitted again, in fewer.

        Arguments:
            X: see above
            y: ignored
            sample_weight: how much each row counts (n), in the mixture, the objective, the
                held-out bound and p(c); for the model ``residual``. A weight of 2 is not the same
                as a row that is there twice: which rows make a batch or are held out differs
            start: of a table: component of each row to start from, (n) from 0 up; responsibilities
                (n, k); or a fitted mixture, whose ``predict_proba(X)`` gives them

        Warns:
            ConvergenceWarning: the bound on held-out data was still rising at the last epoch, or
                was best before the annealing had ended.

        Raises:
            ValueError: data that cannot be learned from, or a setting out of range.
        """
        if self.n_init < 1:
            raise ValueError(f"n_init={self.n_init}: use a whole number from 1 up.")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction={self.validation_fraction}: use a number between 0 and 1."
            )
        warm, seed = self.warm_start and hasattr(self, "model_"), seed_of(self.random_state)
        of_rows = OfRows.of(X, sample_weight, start)
        splits = self._split(X, seed, not warm, of_rows)
        wanted = "residual" if of_rows and not self.model else None
        planned = self._plan(splits.for_plan(), splits.schema, seed, wanted)
        parts = splits.training(), splits.valid.tensor()
        watch = printed if self.verbose else None
        if warm:
            planned = planned.continuing(self._plan_)
            if of_rows:
                raise ValueError("warm_start goes on as it was begun: leave weights and start out.")
            fitted = continue_fit(self.model_, planned, *parts, watch, self.accelerator)
        else:
            weights, responsibilities = of_rows.split(splits) if of_rows else (None, None)
            fitted = fit_plan(
                planned,
                *parts,
                n_restarts=self.n_init,
                watch=watch,
                accelerator=self.accelerator,
                row_weights=weights,
                start=responsibilities,
            )
            self.restarts_ = fitted.restarts
        self.history_, self._optimiser = fitted.history, None
        self._take(fitted.model, fitted.plan, self.names_ if warm else None)
        self.log_densities_ = densities.quantiles(
            self.model_, sample_of(parts[0]), self.recipe_.seed
        )
        for text in fitted.diagnosis.advice(fitted.plan.recipe):
            warnings.warn(text, ConvergenceWarning, stacklevel=2)
        return self

    @or_as_before
    @single_precision()
    def partial_fit(self, X: ArrayLike, y: Any = None) -> "CPVAE":
        """One pass of training over ``X``, for data that comes in parts; after `fit` it goes on.

        The first part decides what is decided from the data, such as the standardisation and the
        initial clusters of a table: make it a fair sample. All categories of its categorical dtypes
        are levels, also those that none of its rows has; other levels that come later are missing
        values. Each pass is an epoch of the annealing, nothing is held out, and
        ``aggregated_`` is a running mean over the parts.

        Warns:
            UserWarning: cells with a level that was not declared, and how many.

        Raises:
            ValueError: data that cannot be learned from, or a setting out of range.
        """
        first = not hasattr(self, "model_")
        x, schema = self._read(X, reset=first)
        if first:
            check(x, schema.names)
            x, schema = with_declared(x, schema)
            planned = self._plan(x, schema, seed_of(self.random_state), self.model or "cpvae")
            planned = planned.in_parts(len(x))
            self.history_, self._optimiser = [], None
            self._take(build(**planned.config), planned)
        else:
            self._check_like(x)
        examples = torch.from_numpy(np.ascontiguousarray(x))
        how = self._plan_, len(self.history_), getattr(self, "_optimiser", None), self.accelerator
        record, self._optimiser = fit_one_more(self.model_, examples, *how)
        self.history_.append(record)
        device = self.model_.aggregated.device
        shares = cluster_probs(self.model_, examples.to(device)).mean(0)
        self.model_.aggregated.lerp_(shares, max(0.1, 1 / len(self.history_)))
        self.aggregated_ = self.model_.aggregated.cpu().numpy().copy()
        self.log_densities_ = densities.quantiles(self.model_, examples, self.recipe_.seed)
        return self

    def _split(
        self, X: ArrayLike | Splits, seed: int, reset: bool, of_rows: OfRows | None = None
    ) -> Splits:
        """Parts for training and validation; rows keep their numbers where something is known."""
        if isinstance(X, str | Path) or is_large(X):
            X = load(X, seed, kinds=self.kinds)
        if isinstance(X, Splits):
            self.n_features_in_ = X.schema.n_features
            self._set_names(X.schema)
            return X
        x, schema = self._read(X, reset)
        numbers = None
        if of_rows:
            numbers = of_rows.that_count(len(x))
            x = x[numbers]
        source = Source(type(X).__name__, x, numbers, schema)
        return split(source, seed, self.validation_fraction, test_fraction=0.0)

    def _plan(self, x: np.ndarray, schema: Schema, seed: int, model: str | None = None) -> Plan:
        """What is built and how it is trained, from training data and settings."""
        given = {name: getattr(self, name) for name in FRONT} | dict(self.recipe or {})
        given |= {"seed": seed, "model": model or given["model"]}
        return plan(x, schema, given, self.kinds, self.invariance, self.accelerator)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The most probable component of each example, (n) ints."""
        return self.predict_proba(X).argmax(axis=1)

    def fit_predict(
        self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None
    ) -> np.ndarray:
        """`fit`, then `predict` on the same data."""
        return self.fit(X, sample_weight=sample_weight).predict(X)

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """q(c|x) of each example, (n, k); for models without c the prior's responsibilities."""
        return self._in_parts(X, "cluster_probs")

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Posterior mean of z of each example, (n, d); of a two-layer model that of z2."""
        return self._in_parts(X, "embed")

    def reconstruct(self, X: ArrayLike) -> Any:
        """Each example as the model sees it, in the form of ``X``: an array or a frame."""
        return self.schema_.as_given(self._in_parts(X, "reconstruct"), drawn=False, like=X)

    def score_samples(self, X: ArrayLike) -> np.ndarray:
        """The one-hot bound on log p(x) of each example, (n) nats; a lower bound (eq. 7).

        Noise comes from the example itself and the seed, so the score of an example does not depend
        on those beside it.
        """
        return elbo_of_each(*self._as_precise_as(X), self.recipe_.seed).cpu().numpy()

    def rank_samples(self, X: ArrayLike) -> np.ndarray:
        """The share of the fitted examples that are less probable than each example, (n).

        It is 0 for an example that belongs to no component, and above 1/2 for typical ones. Of many
        examples 5,000 at most stand for all; after `compact` they are those that it was given.
        """
        if self.log_densities_ is None:
            raise ValueError("The run is of an earlier version without densities: fit it again.")
        return densities.places(self.score_samples(X), self.log_densities_)

    def score(self, X: ArrayLike, y: Any = None) -> float:
        """Mean of `score_samples` in nats per example; greater is better."""
        return float(self.score_samples(X).mean())

    def evaluate(
        self, X: ArrayLike, y: ArrayLike | None = None, n_samples: int = 500
    ) -> dict[str, float | int]:
        """All figures, see `metrics.evaluate`; labels ``y`` add the clustering scores."""
        return evaluate(self.model_, self._examples(X), y, n_samples, seed=self.recipe_.seed)

    def compact(
        self, X: ArrayLike, tolerance: float = TOLERANCE, merge_connected: bool = False
    ) -> "CPVAE":
        """Drops unused components and merges redundant ones, see `models.compact`.

        Arguments:
            X: examples that decide, best some that were not fitted
            tolerance: take the fewest components whose bound on ``X`` is this close to the best
            merge_connected: whether to merge too, whatever the bound loses, components that are as
                strongly connected among neighbours in ``X`` as halves of one cluster

        Returns:
            The estimator itself, with its model replaced; ``groups_`` has the former components of
            each new one.

        Raises:
            ValueError: another model than CP-VAE.
        """
        x = self._examples(X)
        how = tolerance, self.recipe_.seed, x if merge_connected else None
        found = compact(self.model_, self.config_, x, *how)
        self.groups_ = found.groups
        planned = dataclasses.replace(self._plan_, config=found.config)
        self._take(found.model, planned, merged_names(self.names_, found.groups))
        self.log_densities_ = densities.quantiles(self.model_, x, self.recipe_.seed)
        return self

    def save(self, path: str | Path) -> None:
        """Writes a run folder that `load` and the command line read.

        Raises:
            ValueError: the folder holds another run, or anything else.
        """
        self._check_fitted()
        info = describe(self.schema_, self.config_, self.recipe_, self._plan_.given)
        with staged(path) as folder:
            info[densities.KEY] = self.log_densities_
            folder.write_info({**info, "status": "finished"})
            folder.write_history(self.history_)
            folder.write_model(self.model_.state_dict())
            write_names(folder, self.names_)

    @classmethod
    def load(cls, path: str | Path) -> "CPVAE":
        """Reads a run folder, from `save` or from the command line.

        Raises:
            ValueError: not a run folder, damaged, or of a newer format.
        """
        folder = RunFolder(path)
        info, schema, model = folder.read_info(), folder.read_schema(), folder.read_model()
        stored = {**info["model"], **info["recipe"]}
        given = info.get("given", {})  # what was left to the defaults is chosen anew in a refit
        expert = {k: v for k, v in given.items() if k not in (*FRONT, "seed", "invariance_weight")}
        estimator = cls(
            **{name: stored[name] for name in FRONT if name in stored},
            recipe=expert or None,
            random_state=stored["seed"],
        )
        if schema.kinds:
            estimator.kinds = dict(zip(schema.names, schema.kinds, strict=True))
        estimator.missing = "model" if schema.gaps else None
        estimator.history_ = folder.read_history()
        config = {**info["model"], **schema.features()}
        planned = Plan(schema, config, Recipe.from_json(info["recipe"]), given)
        estimator._take(model, planned, read_names(folder, model.n_components))
        estimator._set_names(schema)
        estimator.log_densities_ = info.get(densities.KEY)
        return estimator

    def _take(self, model: Model, planned: Plan, names: list[str] | None = None) -> None:
        """Makes a fitted model, and the plan it comes from, the estimator's own."""
        self.model_, self._plan_, self._draws = model, planned, 0
        self.names_ = names or numbers(model.n_components)
        self.schema_, self.config_, self.recipe_ = planned.schema, planned.config, planned.recipe
        self.aggregated_ = model.aggregated.cpu().numpy()
        self.n_features_in_ = planned.schema.n_features
        self._n_features_out = model.latent_dim  # scikit-learn names the codes by it
