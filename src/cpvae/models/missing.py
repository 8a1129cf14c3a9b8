"""Numbers that are missing, as a mixture expects them given the category and the others."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cpvae.models.functional import LOG_2PI, known_part


class MissingNumbers(nn.Module):
    """q(y_missing | y, c) of K Gaussians of w numbers, which `set` says."""

    means: Tensor
    covariances: Tensor
    precisions: Tensor

    def __init__(self, n_components: int, n_numbers: int):
        super().__init__()
        identity = torch.eye(n_numbers).repeat(n_components, 1, 1)
        self.register_buffer("means", torch.zeros(n_components, n_numbers))
        self.register_buffer("covariances", identity)
        self.register_buffer("precisions", identity.clone())

    def set(self, means: Float[Tensor, "k w"], covariances: Float[Tensor, "k w w"]) -> None:
        """Makes it that of these Gaussians; sizes may change."""
        like = self.means
        self.means, self.covariances = means.to(like), covariances.to(like)
        self.precisions = torch.linalg.inv(covariances).to(like)

    def complete(
        self,
        y: Float[Tensor, "p w"],
        component: Int[Tensor, " p"],
        normal: Float[Tensor, "p w"] | None = None,
    ) -> tuple[Float[Tensor, "p w"], Float[Tensor, " p"]]:
        """Numbers with those that are missing (NaN), and log q of these; nats.

        They are drawn by ``normal`` noise, or are those expected where there is none.
        """
        log_q = torch.zeros_like(y[:, 0])
        if torch.compiler.is_exporting() or not y.isnan().any():
            return y.nan_to_num(), log_q  # a graph has no branches: there a missing value is 0
        rows = y.isnan().any(1).nonzero().squeeze(1)
        of, gone = component[rows], y[rows].isnan()
        mean, covariance = self.means[of], self.covariances[of]
        _, solved = known_part(y[rows], mean, covariance)
        filled = mean + (covariance @ solved).squeeze(-1)
        if normal is not None:
            both = gone.unsqueeze(-1) & gone.unsqueeze(-2)
            identity = torch.eye(y.shape[1]).to(y)
            lower = torch.linalg.cholesky(torch.where(both, self.precisions[of], identity))
            noise = torch.where(gone, normal[rows], 0.0)
            drawn = torch.linalg.solve_triangular(lower.mT, noise.unsqueeze(-1), upper=True)
            filled = filled + drawn.squeeze(-1)
            scale = lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            size = 0.5 * (noise**2).sum(-1) + 0.5 * LOG_2PI * gone.sum(-1)
            log_q = log_q.index_put((rows,), scale - size)
        return y.index_put((rows,), torch.where(gone, filled, y[rows])), log_q
