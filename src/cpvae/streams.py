"""Streams of random numbers: one for each purpose of a seed, never two from the same integer.

A seed that is used twice meets itself: noise drawn from a generator with the seed that the weights
were drawn from is those weights again. So nothing is seeded by the user's seed itself. Every use
has a purpose, and where it applies a number, such as the epoch, and these three name a stream: a
fit that is resumed needs no stored generator, and whoever knows the three draws the same numbers.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

PURPOSES = (
    "weights",
    "order",
    "training",
    "validation data",
    "validation",
    "pseudo-inputs",
    "initialisation",
    "mixture",
    "evaluation",
    "compact",
    "sampling",
    "pictures",
    "classifier",
    "data",
    "windows",
)
NUMBERS = 2**24  # of a purpose: epochs, components, ...


def stream(seed: int, purpose: str, number: int = 0) -> int:
    """An integer of 32 bits to seed a generator with, another one for each purpose and number.

    Those of one seed never meet: they are places after a start that is hashed from the seed
    (`numpy.random.SeedSequence`), and torch's generator on a processor reads 32 bits of its seed.
    Only the split of data is drawn from the seed itself, as it always was: runs keep their parts.

    Arguments:
        seed: of the user, from 0
        purpose: one of `PURPOSES`
        number: of an epoch, a component or the like, from 0

    Raises:
        ValueError: an unknown purpose, or a number that is too large.
    """
    import numpy as np

    place = PURPOSES.index(purpose)
    if not 0 <= number < NUMBERS:
        raise ValueError(f"number={number}: use one from 0 to {NUMBERS - 1}.")
    start = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return (start + place * NUMBERS + number) % 2**32


def torch_stream(
    seed: int, purpose: str, number: int = 0, device: Any = "cpu"
) -> "torch.Generator":
    """A generator of torch on a device; arguments as for `stream`."""
    import torch

    return torch.Generator(device).manual_seed(stream(seed, purpose, number))


def numpy_stream(seed: int, purpose: str, number: int = 0) -> "np.random.Generator":
    """A generator of numpy; arguments as for `stream`."""
    import numpy as np

    return np.random.default_rng(stream(seed, purpose, number))


def seed_of(random_state: Any) -> int:
    """A seed from what numpy and scikit-learn hand out: a number, a generator, or None.

    A generator moves on, so the next seed from it is another one.

    Raises:
        ValueError: anything else, or a number below 0.
    """
    import numpy as np

    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31))
    if random_state is None or isinstance(random_state, np.random.RandomState):
        from sklearn.utils import check_random_state

        return int(check_random_state(random_state).randint(2**31))
    return whole_number("random_state", random_state, at_least=0)


def whole_number(name: str, value: Any, at_least: int) -> int:
    """A number of any type that is whole, such as 1.0 or one of numpy.

    Raises:
        ValueError: no such number, or one below ``at_least``.
    """
    try:
        whole = int(value)
        if whole != value or whole < at_least or isinstance(value, str | bool):
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}={value!r}: use a whole number from {at_least} up.") from error
    return whole
