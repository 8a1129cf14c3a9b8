"""How good generated examples are: what a bound does not show (section 4).

Distances are taken in the features of a classifier that was trained on labels, see `classifier`.
Nothing here is used to fit or to choose a model.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpvae.evaluation.classifier import Classifier
from cpvae.models.base import Model
from cpvae.streams import torch_stream

NEIGHBOURS = 5


def density_and_coverage(
    real: Float[np.ndarray, "n f"],
    generated: Float[np.ndarray, "m f"],
    n_neighbours: int = NEIGHBOURS,
) -> dict[str, float]:
    """Density and coverage (Naeem et al. 2020, eq. 3 and 4), in chunks.

    Around each real example lies a ball that reaches to its ``n_neighbours``-th nearest real
    neighbour. ``density`` is the mean number of balls around a generated example over
    ``n_neighbours``, 1 in expectation for a perfect model and no upper limit; ``coverage`` is the
    share of balls with a generated example inside.

    Raises:
        ValueError: fewer real examples than it takes.
    """
    from sklearn.metrics import pairwise_distances_chunked
    from sklearn.neighbors import NearestNeighbors

    if len(real) <= n_neighbours:
        raise ValueError(f"{len(real)} real examples have no {n_neighbours}-th neighbours.")
    radius = NearestNeighbors(n_neighbors=n_neighbours).fit(real).kneighbors()[0][:, -1]
    inside, covered = 0, np.zeros(len(real), dtype=bool)
    for distances in pairwise_distances_chunked(generated, real):
        within = distances < radius
        inside += int(within.sum())
        covered |= within.any(0)
    return {
        "density": inside / (n_neighbours * len(generated)),
        "coverage": float(covered.mean()),
    }


def frechet_distance(real: Float[np.ndarray, "n f"], generated: Float[np.ndarray, "m f"]) -> float:
    """Squared Frechet distance of the Gaussians with the moments of two samples.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Heusel et al. 2017, eq. 6), the last trace through
    the eigenvalues of the symmetric S1^(1/2) S2 S1^(1/2).
    """
    first, second = (np.cov(sample, rowvar=False, dtype=np.float64) for sample in (real, generated))
    values, vectors = np.linalg.eigh(np.atleast_2d(first))
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    shared = np.linalg.eigvalsh(root @ np.atleast_2d(second) @ root)
    means = real.mean(0, dtype=np.float64) - generated.mean(0, dtype=np.float64)
    trace = np.trace(np.atleast_2d(first)) + np.trace(np.atleast_2d(second))
    return float(means @ means + trace - 2 * np.sqrt(np.clip(shared, 0, None)).sum())


def quality(
    model: Model,
    classifier: Classifier,
    real: Float[Tensor, "n ..."],
    labels: Int[np.ndarray, " n"],
    seed: int = 0,
) -> dict[str, Any]:
    """Generated images against as many real ones.

    What is compared are means of p(x | z, c), as pictures show them, with grey images.

    Arguments:
        model: a fitted model of images
        classifier: of the same images
        real: held-out images (n, channels, height, width)
        labels: their classes from 0 up
        seed: of what is generated

    Returns:
        ``density`` and ``coverage``, ``frechet_distance``, ``classifier_accuracy`` on the real
        images, the shares of the classes as the classifier sees them in the real images and in the
        generated ones (``class_shares_real``, ``class_shares_generated``), half the sum of their
        differences (``class_share_distance``, total variation), and for a model with several
        components ``component_agreement``: the share of a component's images that fall into the
        component's majority class, averaged over what is generated.
    """
    generator = torch_stream(seed, "sampling", device=real.device)
    rows = model.rows_at_once()
    drawn = [
        model.sample(min(rows, len(real) - start), generator=generator, mean=True)
        for start in range(0, len(real), rows)
    ]
    generated, component = (torch.cat(part) for part in zip(*drawn, strict=True))
    real_features, generated_features = (
        classifier.features(x).cpu().numpy() for x in (real, generated)
    )
    seen = [classifier.predict(x).cpu().numpy() for x in (real, generated)]
    n_classes = classifier.classes.out_features
    shares = [np.bincount(classes, minlength=n_classes) / len(classes) for classes in seen]
    result: dict[str, Any] = {
        **density_and_coverage(real_features, generated_features),
        "frechet_distance": frechet_distance(real_features, generated_features),
        "class_share_distance": float(np.abs(shares[0] - shares[1]).sum() / 2),
        "class_shares_real": shares[0].round(4).tolist(),
        "class_shares_generated": shares[1].round(4).tolist(),
        "classifier_accuracy": float((seen[0] == labels).mean()),
        "generated": len(generated),
    }
    if model.n_components > 1:
        table = np.zeros((model.n_components, n_classes), dtype=int)
        np.add.at(table, (component.cpu().numpy(), seen[1]), 1)
        result["component_agreement"] = float(table.max(1).sum() / len(generated))
    return result
