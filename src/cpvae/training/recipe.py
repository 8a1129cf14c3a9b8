"""Everything about the optimisation that is not the model or the data, and its schedules.

Schedules are pure functions of the epoch; nothing of them lives on a model.
"""

import dataclasses
import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple

from cpvae.choices import EXPECTATIONS, PRECISIONS, choose

PRETRAINING_KL_C = 100.0  # weight of KL(c) under which c carries no information
INITIAL = 10.0  # first weight of learning the initial clusters
MOST_ENUMERATED = 100  # categories up to which validation enumerates them; beyond it samples one


class LossWeights(NamedTuple):
    """Weights of the terms of the objective; at their defaults it is the bound.

    ``kl_z`` and ``kl_c`` weigh the two KL terms, ``invariance`` the KL between the categories of an
    example and of a changed one, ``marginal_entropy`` the entropy of the mean q(c|x), which is
    rewarded, ``conditional_entropy`` the mean entropy of q(c|x), which is penalised,
    ``merged_cluster`` the cross-entropy of q(c|x) to the initial merged cluster of an example, and
    ``component`` how much more that to its own initial component weighs.
    """

    kl_z: Any = 1.0
    kl_c: Any = 1.0
    invariance: Any = 0.0
    marginal_entropy: Any = 0.0
    conditional_entropy: Any = 0.0
    merged_cluster: Any = 0.0
    component: Any = 0.0


class Phase(NamedTuple):
    """What holds in an epoch: loss weights, temperature of the Gumbel-Softmax, expectation."""

    weights: LossWeights = LossWeights()
    temperature: float = 0.5
    expectation: str = "straight_through"
    epoch: int = 0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is optimised, see `cpvae.fit`.

    Arguments:
        max_epochs: passes over the data at most
        batch_size: examples a step
        learning_rate: of Adam
        expectation: how the expectation over c is taken in training: ``straight_through`` decodes a
            one-hot sample with the gradient of a relaxed one, ``relaxed`` a Gumbel-Softmax sample,
            ``exact`` every category; see `ConditionalPriorVAE.terms`
        exact_after: epochs after which the expectation is ``exact``; 0 leaves it as it is
        anneal_epochs: epochs over which the weights of the KL terms and the temperature go from
            their start to their end
        pretraining_epochs: epochs in which c is not used, so that the model is a plain VAE. q(c|x)
            then learns initial clusters, see `initialise`, with a weight that falls to 0 at the end
            of the annealing. 0 leaves this out
        kl_z_start: first weight of KL(z); above 1 it is cheaper to put information into c
        kl_c_start: first weight of KL(c)
        temperature_start: first temperature of the Gumbel-Softmax
        temperature_end: last temperature
        invariance_weight: of KL(q(c|x) || q(c|T(x))) under a change T of x; 0 leaves this term and
            the two below out
        marginal_entropy: weight of a reward for the entropy of the mean q(c|x), which is largest
            where components are of one size
        conditional_entropy: last weight of a penalty for the mean entropy of q(c|x). It starts at
            1, where it cancels the bound's own reward for that entropy, and rises over the
            annealing: categories that are certain too early are the wrong ones
        averaging: epochs over which weights are averaged, exponentially, for validation and for
            what is kept (Polyak and Juditsky 1992); 1 takes them as they are. Training itself does
            not see the average
        patience: epochs without a better validation bound, after the annealing and
            ``exact_after``, that end the run
        precision: in which the products of gated linear layers and of the decoder's last one are
            taken in training, ``float32`` or ``bfloat16``, for Bernoulli features; weights, sums
            and all that is measured stay in single precision. It is worth it where the device has
            instructions for it
        seed: of weights, order, noise and binarisation

    Raises:
        ValueError: a value that is out of range, with the range.
    """

    # for a recipe made by hand; `defaults.recipe` chooses by the data
    max_epochs: int = 100
    batch_size: int = 100
    learning_rate: float = 1e-3
    expectation: str = "straight_through"
    exact_after: int = 0
    anneal_epochs: int = 10
    pretraining_epochs: int = 0
    kl_z_start: float = 6.0
    kl_c_start: float = 1.0
    temperature_start: float = 1.0
    temperature_end: float = 0.5
    invariance_weight: float = 0.0
    marginal_entropy: float = 0.0
    conditional_entropy: float = 3.0
    averaging: int = 1
    patience: int = 50
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_epochs", "batch_size", "averaging", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: use a whole number from 1 up.")
        for name in ("learning_rate", "temperature_start", "temperature_end"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: use a number above 0.")
        non_negative = ("anneal_epochs", "pretraining_epochs", "exact_after", "seed")
        loss_weights = ("kl_z_start", "kl_c_start", "invariance_weight")
        entropies = ("marginal_entropy", "conditional_entropy")
        for name in (*non_negative, *loss_weights, *entropies):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: use 0 or a number above.")
        if self.pretraining_epochs and self.pretraining_epochs >= self.anneal_epochs:
            raise ValueError(
                f"pretraining_epochs={self.pretraining_epochs} leaves nothing of anneal_epochs="
                f"{self.anneal_epochs} for q(c|x) to learn its initial clusters: use fewer."
            )
        choose("expectation", self.expectation, EXPECTATIONS)
        choose("precision", self.precision, PRECISIONS)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Recipe":
        """The recipe that ``run.json`` holds.

        Raises:
            ValueError: a setting that is not known, or a value that it cannot have.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(stored) - known):
            raise ValueError(
                f"The run has a recipe with {unknown[0]}, which this version of cpvae does not "
                f"know: upgrade cpvae, or restore run.json."
            )
        return cls(**typed_settings(stored))

    def at(self, epoch: int) -> "Phase":
        """What holds in an epoch, counted from 0; all moves on straight lines over the annealing.

        In pretraining the weight of KL(c) is so large that c carries no information. Then q(c|x)
        learns the initial clusters with a weight that falls to 0 at the end of the annealing: the
        component of each example until the middle of it, its merged cluster to the end.
        """
        initial = 0.0
        if 0 < self.pretraining_epochs <= epoch:
            initial = self._annealed(epoch, INITIAL, 0.0)
        pretraining = epoch < self.pretraining_epochs
        kl_c = PRETRAINING_KL_C if pretraining else self._annealed(epoch, self.kl_c_start, 1.0)
        weights = LossWeights(
            kl_z=self._annealed(epoch, self.kl_z_start, 1.0),
            kl_c=kl_c,
            invariance=self.invariance_weight,
            marginal_entropy=self.marginal_entropy,
            conditional_entropy=self._annealed(epoch, 1.0, self.conditional_entropy),
            merged_cluster=initial,
            component=max(0.0, 2 * initial - INITIAL),
        )
        exact = 0 < self.exact_after <= epoch
        return Phase(
            weights,
            self._annealed(epoch, self.temperature_start, self.temperature_end),
            "exact" if exact else self.expectation,
            epoch,
        )

    def _annealed(self, epoch: int, start: float, end: float) -> float:
        """Straight line from ``start`` at epoch 0 to ``end`` when the annealing has ended."""
        if self.anneal_epochs == 0:
            return end
        return start + (end - start) * min(1.0, epoch / self.anneal_epochs)

    def has_lost_patience(self, epoch: int, best_epoch: int) -> bool:
        """Whether a run ends after ``epoch`` epochs, whose best one so far is ``best_epoch``."""
        counted_from = max(best_epoch, self.anneal_epochs, self.exact_after)
        return epoch - counted_from >= self.patience

    def shortened(self, epochs: int) -> "Recipe":
        """The same in fewer ``epochs``: all that is counted in epochs shrinks with them."""

        def scaled(name: str, least: int) -> int:
            value = getattr(self, name)
            return min(value, max(least, round(value * epochs / self.max_epochs)))

        anneal_epochs = scaled("anneal_epochs", 2)  # one more than pretraining_epochs at least
        return dataclasses.replace(
            self,
            max_epochs=epochs,
            anneal_epochs=anneal_epochs,
            pretraining_epochs=min(scaled("pretraining_epochs", 1), max(0, anneal_epochs - 1)),
            exact_after=scaled("exact_after", 1),
            averaging=scaled("averaging", 2),
            patience=scaled("patience", 10),
        )


def typed_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings given that a `Recipe` has, with numbers as the types of its fields.

    Raises:
        ValueError: something else where a number belongs.
    """
    typed = {}
    for field in dataclasses.fields(Recipe):
        if field.name in given:
            value = given[field.name]
            number, word = (Integral, "whole number") if field.type is int else (Real, "number")
            if field.type is not str and (isinstance(value, bool) or not isinstance(value, number)):
                raise ValueError(f"{field.name}={value!r}: use a {word}.")
            typed[field.name] = float(value) if field.type is float else value
    return typed
