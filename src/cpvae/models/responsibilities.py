"""q(c|x) as the responsibilities of a mixture that training leaves as it is."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cpvae.clustering.gaussians import Gaussians
from cpvae.models.factors import inverse_of_lower
from cpvae.models.functional import marginal_log_prob


class Responsibilities(nn.Module):
    """Responsibilities of K Gaussians of w numbers with l chances of categories.

    `set` says which. ``is_raw`` tells whether they are of plain numbers, and not of bent ones.
    """

    log_weights: Tensor
    means: Tensor
    covariances: Tensor
    whiten: Tensor
    log_chances: Tensor
    is_raw: Tensor

    def __init__(self, n_components: int, n_numbers: int, n_chances: int):
        super().__init__()
        k, w = n_components, n_numbers
        self.register_buffer("log_weights", torch.zeros(k))
        self.register_buffer("means", torch.zeros(k, w))
        self.register_buffer("covariances", torch.eye(w).repeat(k, 1, 1))
        self.register_buffer("whiten", torch.eye(w).repeat(k, 1, 1))
        self.register_buffer("log_chances", torch.zeros(k, n_chances))
        self.register_buffer("is_raw", torch.tensor(False))

    def set(self, mixture: Gaussians, is_raw: bool) -> None:
        """Makes it the responsibilities of this mixture; their number may change.

        One of numbers alone leaves categories out.
        """
        like, n_chances = self.means, self.log_chances.shape[1]
        parts = (torch.from_numpy(part).to(like) for part in mixture)
        self.log_weights, self.means, self.covariances, self.log_chances = parts
        if not self.log_chances.shape[1]:
            self.log_chances = like.new_zeros(len(self.means), n_chances)
        lower = torch.linalg.cholesky(torch.from_numpy(mixture.covariances))
        self.whiten = inverse_of_lower(lower).to(like)
        self.is_raw = torch.tensor(is_raw, device=like.device)

    def log_prob(
        self, y: Float[Tensor, "b w"], chances: Float[Tensor, "b l"]
    ) -> Float[Tensor, "b k"]:
        """Log q(c|x) by the numbers and categories that are there (NaN and zeros: missing)."""
        exporting = torch.compiler.is_exporting()  # a graph has no branches: a missing value is 0
        y = y.nan_to_num() if exporting else y
        scale = self.whiten.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        each = zip(self.means, self.whiten, strict=True)
        squares = [((y - mean) @ whiten.T).square().sum(-1) for mean, whiten in each]
        log_prob = scale - 0.5 * torch.stack(squares, -1)
        if not exporting and (rows := y.isnan().any(1).nonzero().squeeze(1)).numel():
            mixture = zip(self.means, self.covariances, strict=True)
            parts = [marginal_log_prob(y[rows], mean, covariance) for mean, covariance in mixture]
            log_prob[rows] = torch.stack(parts, -1)
        joint = self.log_weights + log_prob + chances @ self.log_chances.T
        return F.log_softmax(joint, -1)


def merged_gaussians(
    share: Float[Tensor, "g k"],
    log_weights: Float[Tensor, " g"],
    means: Float[Tensor, "k w"],
    covariances: Float[Tensor, "k w w"],
    log_chances: Float[Tensor, "k l"],
) -> Gaussians:
    """For each group the Gaussian with the moments of its members' mixture, and their chances."""
    middle = share @ means
    off = means - middle.unsqueeze(1)  # (g, k, w)
    within = torch.einsum("gk,kij->gij", share, covariances)
    between = torch.einsum("gk,gki,gkj->gij", share, off, off)
    chances = (share @ log_chances.exp()).clamp_min(1e-30).log()
    parts: Sequence[Tensor] = (log_weights, middle, within + between, chances)
    return Gaussians(*(part.detach().double().cpu().numpy() for part in parts))
