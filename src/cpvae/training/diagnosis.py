"""What can be wrong with a fit: it diverged, ended too early, overfitted, or left c unused."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from cpvae.checkpoint import best_of
from cpvae.models.base import Model
from cpvae.training.recipe import Recipe

Record = dict[str, Any]  # of an epoch, see `loop.fit`


class Diverged(RuntimeError):
    """The loss or the weights stopped being finite; the last good weights were kept."""


def diverged(epoch: int, learning_rate: float) -> Diverged:
    """The error of a run that diverged in an epoch, counted from 1; says what to try."""
    return Diverged(
        f"The loss stopped being finite in epoch {epoch}; the best weights before it were kept. "
        f"Likely causes: a learning rate that is too high (it is {learning_rate:g}; try "
        f"{learning_rate / 3:.1g}), or features with extreme values (rescale or clip them)."
    )


class Diagnosis(NamedTuple):
    """What a finished fit shows.

    ``rise`` are the nats by which the bound still rose, see `still_rising`; ``overfitted_epoch`` is
    that of the best bound, if it came too early, see `overfitted`; ``information`` is I(c; x) in
    nats and ``entropy`` that of the shares of the components, which is what I(c; x) would be if
    every example were certain of its component. Both are 0 where it has no components to tell
    apart: one alone, or those of a model without categories.
    """

    rise: float
    overfitted_epoch: int
    information: float
    entropy: float
    has_components: bool

    @property
    def components_overlap(self) -> bool:
        """Whether components carry little information about examples: less than half they might.

        Never for a model without categories, or with one component.
        """
        return self.has_components and self.information < max(0.05, 0.5 * self.entropy)

    def advice(self, recipe: Recipe) -> list[str]:
        """What to do about it in Python, a sentence or two each."""
        texts = []
        if self.rise:
            texts.append(
                f"The bound still rose by {self.rise:.2f} nats in the last tenth of "
                f"{recipe.max_epochs} epochs: give max_epochs={2 * recipe.max_epochs}, or fit "
                f"again with warm_start=True."
            )
        if early := self.overfitted_epoch:
            texts.append(
                f"The bound was best in epoch {early}, before the annealing had ended (after epoch "
                f"{recipe.anneal_epochs}): the model overfitted before its components were formed. "
                f"Give max_epochs={early}, or more data."
            )
        return texts


def diagnose(model: Model, history: Sequence[Record], recipe: Recipe) -> Diagnosis:
    """The `Diagnosis` of a finished fit."""
    import torch

    best = best_of(history, recipe.pretraining_epochs)
    information = entropy = 0.0
    has_components = bool(best) and model.has_categories and model.n_components > 1
    if best and has_components:
        information = best["valid_mutual_information_c_nats"]
        entropy = torch.special.entr(model.aggregated).sum().item()
    early = overfitted(history, recipe)
    rise = still_rising(history, recipe)
    return Diagnosis(rise, early, information, entropy, has_components)


def gain_in_words(best: Record) -> str:
    """What training gained over the mixture that a run started from; "" where it did not."""
    if "gain_nats" not in best:
        return ""
    if best["epoch"] == 0:
        return (
            "A Gaussian mixture describes this table as well as anything deeper that was tried, so "
            "the run keeps the mixture, fitted to the validation rows too."
        )
    return (
        f"Held-out rows gained {best['gain_nats']:.2f} ± {best['gain_se_nats']:.2f} nats over the "
        f"Gaussian mixture that the run started from."
    )


def still_rising(history: Sequence[Record], recipe: Recipe) -> float:
    """Nats by which the bound rose in the last tenth of a run that ended at its last epoch.

    0 where the run stopped by itself, or where it is less than a two-hundredth of all it rose.
    """
    bounds = [record["valid_elbo_nats"] for record in history]
    if len(bounds) < max(2, recipe.max_epochs):
        return 0.0
    best = max(bounds)
    rise = best - max(bounds[: max(1, 9 * len(bounds) // 10)])
    return rise if rise > 0.005 * (best - min(bounds)) else 0.0


def overfitted(history: Sequence[Record], recipe: Recipe) -> int:
    """Epoch of the best held-out bound, where it came before the annealing had ended; else 0.

    The model then overfitted before its components were formed. Only runs with initial clusters
    are looked at, and not before the annealing has ended.
    """
    best = best_of(history, recipe.pretraining_epochs)
    if not recipe.pretraining_epochs or not best or len(history) <= recipe.anneal_epochs:
        return 0
    return best["epoch"] if best["epoch"] < recipe.anneal_epochs else 0
