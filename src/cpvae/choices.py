"""The values that a setting may have, in one place for the command line, checks and tests.

Nothing heavy is imported here, so that a help text appears at once.
"""

import functools
import inspect
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

Dataset = Literal["digits", "mnist", "omniglot"]
System = Literal["cpvae", "residual", "vae", "mog", "vamp", "hvae", "hvamp"]
Likelihood = Literal["bernoulli", "gaussian", "mixed"]
Kind = Literal["number", "gaussian", "binary", "count", "categorical"]
Network = Literal["mlp", "conv"]
Covariance = Literal["diag", "full"]
Gate = Literal["probabilities", "category"]
MixingWeights = Literal["learned", "uniform"]
PseudoInputs = Literal["data", "random"]
Expectation = Literal["relaxed", "straight_through", "exact"]
Precision = Literal["float32", "bfloat16"]
Invariance = Literal["affine", "masking"]
Missing = Literal["ignore", "model"]
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
MISSINGS: tuple[str, ...] = get_args(Missing)
DRAW_FROM: tuple[str, ...] = get_args(DrawFrom)
LOGGERS: tuple[str, ...] = get_args(Logger)

# endings of the files that can be read, see `data.files`
ARRAYS = (".npz", ".npy")
TABLES = (".csv", ".tsv", ".txt", ".parquet", ".feather", ".xlsx")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")

# What a setting was called before, and what it is called now
RENAMED = {
    "weights": "mixing_weights",
    "estimator": "expectation",
    "start_epochs": "pretraining_epochs",
    "balance": "marginal_entropy",
    "certainty": "conditional_entropy",
    "whole": "merge_connected",
}


def stem(path: Path) -> str:
    """The name of a file without its ending, and without that of its compression."""
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSED else path.stem


Init = TypeVar("Init", bound=Callable[..., None])


def refusing_old_names(moved: Collection[str]) -> Callable[[Init], Init]:
    """Makes an ``__init__`` say what an argument of an earlier version is called now.

    Arguments:
        moved: arguments that are keys of ``recipe`` now
    """

    def decorate(init: Init) -> Init:
        @functools.wraps(init)
        def checked(self: Any, *args: Any, **given: Any) -> None:
            known = inspect.signature(init).parameters
            for name in given:
                now = RENAMED.get(name, name)
                if name not in known and now in known:
                    raise TypeError(f"There is no argument {name!r}: it is {now} now.")
                if name not in known and now in moved:
                    raise TypeError(f"There is no argument {name!r}: give recipe={{{now!r}: ...}}.")
            init(self, *args, **given)

        return cast(Init, checked)

    return decorate


def choose(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuses a value that is not among those that a setting may have.

    Raises:
        ValueError: names the setting, the value and the choices.
    """
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is unknown: choose from {', '.join(allowed)}.")
