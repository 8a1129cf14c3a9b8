"""The components of a model in another order: the same model, with other numbers for them."""

from collections.abc import Sequence

import torch

from cpvae.models.base import Model

# tensors that have the components on their first axis, by name
FIRST = (
    "aggregated",
    *("classifier.weight", "classifier.bias"),
    *("prior.logits", "prior.mean", "prior.logvar", "prior.below_diagonal", "prior.pseudo_inputs"),
    *("weights", "means", "roots", "log_noise", "logits", "posterior_maps", "posterior_logvar"),
    *("missing.means", "missing.covariances", "missing.precisions"),
    *("responsibilities.log_weights", "responsibilities.means", "responsibilities.covariances"),
    *("responsibilities.whiten", "responsibilities.log_chances"),
)


@torch.no_grad()
def reorder(model: Model, order: Sequence[int]) -> None:
    """Numbers the components of a model anew, in place: component i is what ``order[i]`` was.

    Layers that read a category have it last in their inputs.
    """
    if list(order) == list(range(model.n_components)):
        return
    new = torch.as_tensor(order, device=model.aggregated.device)
    state = model.state_dict()
    for name in FIRST:
        if name in state:
            state[name].copy_(state[name][new])
    k = model.n_components
    for name in _reading_categories(model):
        weight = state[f"{name}.weight"][:, -k:]
        weight.copy_(weight[:, new])


def _reading_categories(model: Model) -> list[str]:
    """Names of the layers whose last inputs are the category."""
    if not model.has_categories:
        return []
    first = [getattr(model, name) for name in ("decoder", "posterior") if hasattr(model, name)]
    layers = [part.first_layer() if hasattr(part, "first_layer") else part for part in first]
    layers += [model.posterior_gate] if hasattr(model, "posterior_gate") else []
    return [name for name, module in model.named_modules() if any(module is of for of in layers)]
