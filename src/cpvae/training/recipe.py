"""Everything about the optimisation that is not the model or the data, as one flat record."""

import dataclasses
import math

from cpvae.models.base import ESTIMATORS
from cpvae.models.networks import PRECISIONS


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How `train.fit` optimises.

    Arguments:
        max_epochs: passes over the data at most
        batch_size: examples a step
        learning_rate: of Adam
        estimator: of the expectation over c in training, see `ConditionalPriorVAE.terms`
        exact_after: epochs after which that estimator is ``exact``; 0 leaves it as it is
        anneal_epochs: epochs over which the weights of the KL terms and the temperature go from
            their start to their end
        start_epochs: epochs in which c says nothing, so that z has to say all; q(c|x) is then asked
            for the categories of `start`, ever less, for those of a piece until the middle of the
            annealing and for those of a group until its end. 0 leaves this out
        kl_z_start: first weight of KL(z); above 1 makes z dear, so that c carries what it can
        kl_c_start: first weight of KL(c)
        temperature_start: first temperature of the Gumbel-Softmax
        temperature_end: last temperature
        invariance: weight of KL(q(c|x) || q(c|T(x))) under a change T of x; 0 leaves this term and
            the two below out
        balance: weight of a reward for using all categories evenly, for data whose kinds are even
        certainty: last weight of a charge for being unsure of the category. It starts at 1, where
            it cancels the bound's own reward for being unsure, and rises over the annealing:
            categories that are sure too early are the wrong ones
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

    max_epochs: int = 100
    batch_size: int = 100
    learning_rate: float = 1e-3
    estimator: str = "straight_through"
    exact_after: int = 0
    anneal_epochs: int = 10
    start_epochs: int = 0
    kl_z_start: float = 6.0
    kl_c_start: float = 1.0
    temperature_start: float = 1.0
    temperature_end: float = 0.5
    invariance: float = 0.0
    balance: float = 0.0
    certainty: float = 3.0
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
        non_negative = ("anneal_epochs", "start_epochs", "kl_z_start", "kl_c_start", "seed")
        for name in (*non_negative, "exact_after", "invariance", "balance", "certainty"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: use 0 or a number above.")
        if self.start_epochs and self.start_epochs >= self.anneal_epochs:
            raise ValueError(
                f"start_epochs={self.start_epochs} leaves nothing of anneal_epochs="
                f"{self.anneal_epochs} for q(c|x) to learn where it starts: use fewer."
            )
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"estimator={self.estimator!r}: choose from {', '.join(ESTIMATORS)}.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r}: choose from {', '.join(PRECISIONS)}.")

    def shortened(self, epochs: int) -> "Recipe":
        """The same in fewer ``epochs``: all that is counted in epochs shrinks with them."""

        def scaled(name: str, least: int) -> int:
            value = getattr(self, name)
            return min(value, max(least, round(value * epochs / self.max_epochs)))

        anneal_epochs = scaled("anneal_epochs", 2)  # one more than start_epochs at least
        return dataclasses.replace(
            self,
            max_epochs=epochs,
            anneal_epochs=anneal_epochs,
            start_epochs=min(scaled("start_epochs", 1), max(0, anneal_epochs - 1)),
            exact_after=scaled("exact_after", 1),
            averaging=scaled("averaging", 2),
            patience=scaled("patience", 10),
        )
