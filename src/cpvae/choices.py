"""The values that a setting may have, in one place for the command line, checks and tests.

Nothing heavy is imported here, so that a help text appears at once.
"""

from typing import Literal, get_args

Dataset = Literal["digits", "mnist", "omniglot"]
System = Literal["cpvae", "vae", "mog", "vamp", "hvae", "hvamp"]
Likelihood = Literal["bernoulli", "gaussian", "mixed"]
Kind = Literal["gaussian", "binary", "count", "categorical"]
Network = Literal["mlp", "conv"]
Covariance = Literal["diag", "full"]
Gate = Literal["probabilities", "category"]
MixingWeights = Literal["learned", "uniform"]
PseudoInputs = Literal["data", "random"]
Expectation = Literal["relaxed", "straight_through", "exact"]
Precision = Literal["float32", "bfloat16"]
Invariance = Literal["affine", "masking"]
DrawFrom = Literal["aggregated", "uniform"]
Accelerator = Literal["auto", "cpu", "cuda", "mps"]
Logger = Literal["csv", "tensorboard", "wandb"]

DATASETS: tuple[str, ...] = get_args(Dataset)
SYSTEMS: tuple[str, ...] = get_args(System)
LIKELIHOODS: tuple[str, ...] = get_args(Likelihood)
KINDS: tuple[str, ...] = get_args(Kind)
NETWORKS: tuple[str, ...] = get_args(Network)
COVARIANCES: tuple[str, ...] = get_args(Covariance)
GATES: tuple[str, ...] = get_args(Gate)
MIXING_WEIGHTS: tuple[str, ...] = get_args(MixingWeights)
PSEUDO_INPUTS: tuple[str, ...] = get_args(PseudoInputs)
EXPECTATIONS: tuple[str, ...] = get_args(Expectation)
PRECISIONS: tuple[str, ...] = get_args(Precision)
INVARIANCES: tuple[str, ...] = get_args(Invariance)
DRAW_FROM: tuple[str, ...] = get_args(DrawFrom)
ACCELERATORS: tuple[str, ...] = get_args(Accelerator)
LOGGERS: tuple[str, ...] = get_args(Logger)

# What a setting was called before, and what it is called now
RENAMED = {
    "weights": "mixing_weights",
    "estimator": "expectation",
    "start_epochs": "pretraining_epochs",
    "balance": "marginal_entropy",
    "certainty": "conditional_entropy",
    "invariance_weight": "invariance",
    "whole": "merge_connected",
}


def choose(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuses a value that is not among those that a setting may have.

    Raises:
        ValueError: names the setting, the value and the choices.
    """
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is unknown: choose from {', '.join(allowed)}.")
