"""What a mixture's components are in the data's units: shares, means and covariances."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from cpvae.models.base import Model
from cpvae.models.residual import ResidualCPVAE
from cpvae.streams import torch_stream

DRAWS = 10_000  # of a component, where its moments have no formula


class Moments(NamedTuple):
    """Shares (k), means (k, f) and covariances (k, f, f) of the components of a table."""

    weights: Float[np.ndarray, " k"]
    means: Float[np.ndarray, "k f"]
    covariances: Float[np.ndarray, "k f f"]


def shares(model: Model) -> Float[np.ndarray, " k"]:
    """How often `Model.sample` draws each component of a table.

    Raises:
        ValueError: images, as for `moments`.
    """
    if len(model.shape) > 1:
        raise ValueError("Moments are of the components of a table, and the data are images.")
    return model.aggregated.double().cpu().numpy()


@torch.no_grad()
def moments(model: Model, seed: int = 0) -> Moments:
    """The components that `Model.sample` draws from, in the data's units.

    Exact where the model is a Gaussian mixture of numbers as they are, else from `DRAWS` examples
    of each. A column of text counts by the numbers of its categories.

    Raises:
        ValueError: images, whose covariances would be too large.
    """
    weights = shares(model)
    if isinstance(model, ResidualCPVAE) and model.is_plain_mixture():
        head, noise = model.number_head, torch.diag_embed(model.log_noise.exp())
        unit = (head.unit * head.scale).double()
        means = head.decode(head.loc + head.scale * model.means)
        covariances = (model.roots @ model.roots.mT + noise) * unit.unsqueeze(-1) * unit
        return Moments(weights, means.double().cpu().numpy(), covariances.cpu().numpy())
    generator = torch_stream(seed, "sampling", device=model.aggregated.device)
    drawn = [
        model.sample(DRAWS, component, generator=generator)[0].double().cpu().numpy()
        for component in range(model.n_components)
    ]
    each = [np.cov(x, rowvar=False).reshape(x.shape[1], x.shape[1]) for x in drawn]
    return Moments(weights, np.stack([x.mean(0) for x in drawn]), np.stack(each))


class MomentsMixin:
    """The attributes of a fitted estimator that scikit-learn's mixtures have, see `moments`."""

    model_: Model

    @property
    def weights_(self) -> Float[np.ndarray, " k"]:
        """Shares of the components, (k)."""
        return shares(self.model_)

    @property
    def means_(self) -> Float[np.ndarray, "k f"]:
        """Means of the components in the data's units, (k, f)."""
        return moments(self.model_).means

    @property
    def covariances_(self) -> Float[np.ndarray, "k f f"]:
        """Covariances of the components in the data's units, (k, f, f)."""
        return moments(self.model_).covariances
