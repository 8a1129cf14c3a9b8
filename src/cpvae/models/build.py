"""The six systems of the paper's comparison: three classes of models times three priors."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cpvae.choices import LIKELIHOODS, SYSTEMS, choose
from cpvae.models import likelihoods
from cpvae.models.base import Model
from cpvae.models.cpvae import ConditionalPriorVAE
from cpvae.models.hierarchical import HierarchicalVAE
from cpvae.models.likelihoods import Likelihood
from cpvae.models.precision import single_precision
from cpvae.models.priors import GaussianMixture, Prior, StandardNormal, VampPrior
from cpvae.models.residual import ResidualCPVAE
from cpvae.models.vae import VAE
from cpvae.streams import torch_stream

WithCategories = ConditionalPriorVAE | ResidualCPVAE


class System(NamedTuple):
    """A model of the paper's comparison: a class, its prior, and settings that only it has.

    ``of_model`` and ``of_prior`` name settings of the class and of the prior; ``prior_scale`` is
    the spread of the starting means of a `GaussianMixture`, where nothing else is said.
    """

    model: type[Model]
    prior: type[Prior]
    of_model: tuple[str, ...] = ()
    of_prior: tuple[str, ...] = ()
    prior_scale: float = 1.0

    @property
    def settings(self) -> tuple[str, ...]:
        """All settings that only this model has."""
        return self.of_model + self.of_prior


MODELS = {
    "cpvae": System(
        ConditionalPriorVAE,
        GaussianMixture,
        of_model=("gate",),
        of_prior=("covariance", "prior_scale", "mixing_weights"),
        prior_scale=0.05,
    ),
    "residual": System(ResidualCPVAE, GaussianMixture),
    "vae": System(VAE, StandardNormal),
    "mog": System(VAE, GaussianMixture, of_prior=("covariance", "prior_scale")),
    "vamp": System(VAE, VampPrior, of_prior=("pseudo_inputs",)),
    "hvae": System(HierarchicalVAE, StandardNormal),
    "hvamp": System(HierarchicalVAE, VampPrior, of_prior=("pseudo_inputs",)),
}
# what `build` takes beside the features of the data (`Schema.features`)
SETTINGS = (
    "model",
    "likelihood",
    "n_components",
    "latent_dim",
    "hidden",
    "network",
    "noise_scale",
    "soft_bounds",
    "seed",
    *sorted({name for system in MODELS.values() for name in system.settings}),
)


# what draws starting weights, and the same with a generator
ATEN = torch.ops.aten
DRAWING = {
    ATEN.randn.default: ATEN.randn.generator,
    ATEN.rand.default: ATEN.rand.generator,
    ATEN.normal_.default: ATEN.normal_.default,
    ATEN.uniform_.default: ATEN.uniform_.default,
}


@single_precision()
def build(
    model: str = "cpvae",
    *,
    shape: Sequence[int],
    likelihood: str = "bernoulli",
    kinds: Sequence[str] = (),
    n_levels: Sequence[int] = (),
    loc: Sequence[float] | None = None,
    scale: Sequence[float] | None = None,
    n_components: int | None = None,
    latent_dim: int = 40,
    hidden: Sequence[int] = (300, 300),
    network: str = "mlp",
    seed: int = 0,
    **settings: Any,
) -> Model:
    """Builds a model from plain values, the same that a run folder keeps in ``run.json``.

    Arguments:
        model: a name in `MODELS`
        shape: shape of one example, (f,) or (channels, height, width)
        likelihood: ``bernoulli``, ``gaussian``, or ``mixed`` for a table of several kinds
        kinds: of each column, for ``mixed``, see `choices.KINDS`
        n_levels: categories of each column, for ``mixed``
        loc: origin of each feature, for the last two likelihoods; zeros by default
        scale: unit of each feature, for the last two likelihoods; ones by default
        n_components: components of the prior; by default 10, and 1 where the prior is N(0, I)
        latent_dim: dimensions of z
        hidden: widths of the hidden layers
        network: ``mlp``, or ``conv`` for images
        seed: of the starting weights
        **settings: ``noise_scale``, fixed noise of a Gaussian likelihood in the data's units, by
            default learned; ``soft_bounds``, whether networks read values far from the data as
            nearer ones, see `Model.near`; ``limits`` of each column that is a ``number``, see
            `numbers.Column`; and what only some models have, see `MODELS`: ``gate`` of
            `ConditionalPriorVAE`, its ``mixing_weights``, uniform or learned; ``covariance`` and
            ``prior_scale`` of a `GaussianMixture`; ``pseudo_inputs`` of a `VampPrior`

    Raises:
        ValueError: an unknown name, or a setting that the model does not have.
    """
    choose("model", model, SYSTEMS)
    noise_scale, limits = settings.pop("noise_scale", None), settings.pop("limits", ())
    soft_bounds = settings.pop("soft_bounds", False)
    _check_settings(model, settings)
    n = math.prod(shape)
    origin = torch.zeros(n) if loc is None else torch.tensor(loc, dtype=torch.float32)
    unit = torch.ones(n) if scale is None else torch.tensor(scale, dtype=torch.float32)
    if model == "residual":
        p_x = _around_numbers(likelihood, kinds, n_levels, limits, origin, unit, noise_scale)
    else:
        p_x = _likelihood(likelihood, kinds, n_levels, origin, unit, noise_scale)
    of_model = {name: settings.pop(name) for name in MODELS[model].of_model if name in settings}
    with _Drawn(torch_stream(seed, "weights")):
        prior = _prior(model, n_components, latent_dim, p_x, shape, settings)
        made: Any = MODELS[model].model
        built: Model = made(shape, p_x, prior, latent_dim, hidden, network, **of_model)
    built.soft_bounds = soft_bounds
    return built


class _Drawn(TorchDispatchMode):
    """Within it layers draw their starting weights from a generator, in this thread alone.

    Else they draw from torch's global one, which fits in other threads draw from, too.
    """

    def __init__(self, generator: torch.Generator):
        super().__init__()
        self.generator = generator

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = dict(kwargs or {})
        if function in DRAWING:
            function = DRAWING[function]
            given["generator"] = self.generator
        return function(*args, **given)


def has_categories(model: Model) -> TypeGuard[WithCategories]:
    """Whether a model infers c by a q(c|x) of its own; it then has all that `infer` brings."""
    return model.has_categories


def _check_settings(model: str, settings: dict[str, Any]) -> None:
    for name in settings:
        if name not in MODELS[model].settings:
            having = ", ".join(other for other in MODELS if name in MODELS[other].settings)
            raise ValueError(
                f"{name} is no setting of the model {model!r}"
                + (f" (it is one of {having}): leave it out." if having else ".")
            )


def _likelihood(
    likelihood: str,
    kinds: Sequence[str],
    n_levels: Sequence[int],
    origin: torch.Tensor,
    unit: torch.Tensor,
    noise_scale: float | None,
) -> Likelihood:
    choose("likelihood", likelihood, LIKELIHOODS)
    if likelihood == "bernoulli":
        return likelihoods.bernoulli(len(unit))
    if likelihood == "gaussian":
        return likelihoods.gaussian(origin, unit, noise_scale)
    return likelihoods.mixed(kinds, n_levels, origin, unit)


def _around_numbers(
    likelihood: str,
    kinds: Sequence[str],
    n_levels: Sequence[int],
    limits: Sequence[Sequence[float | None] | None],
    origin: torch.Tensor,
    unit: torch.Tensor,
    noise_scale: float | None,
) -> Likelihood:
    choose("likelihood", likelihood, LIKELIHOODS)
    if likelihood == "bernoulli" or noise_scale is not None:
        raise ValueError(
            "The model 'residual' is for tables with columns of numbers, whose noise is learned: "
            "leave likelihood and noise_scale out, or take 'cpvae'."
        )
    n = len(unit)
    kinds = kinds or ["gaussian"] * n
    return likelihoods.around_numbers(
        kinds, n_levels or [0] * n, origin, unit, limits or [None] * n
    )


def _prior(
    model: str,
    n_components: int | None,
    latent_dim: int,
    likelihood: Likelihood,
    shape: Sequence[int],
    settings: dict[str, Any],
) -> Prior:
    prior = MODELS[model].prior
    if prior is StandardNormal:
        if n_components not in (None, 1):
            raise ValueError(
                f"n_components={n_components}: the prior of the model {model!r} is N(0, I), "
                f"which is one component. Leave it out, or take a model with a mixture."
            )
        return StandardNormal(latent_dim)
    if prior is GaussianMixture:
        spread = settings.pop("prior_scale", MODELS[model].prior_scale)
        return GaussianMixture(n_components or 10, latent_dim, scale=spread, **settings)
    if prior is VampPrior:
        n_inputs = math.prod(likelihood.inputs_shape(shape))
        return VampPrior(n_components or 10, n_inputs, bounded=likelihood.binarised, **settings)
    raise AssertionError(f"{prior.__name__} of MODELS is not made in _prior")
