"""Small random changes that leave the category of an example as it is, for the invariance term."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


class Augment(NamedTuple):
    """A random change of examples, as a pure function of the examples and of uniform noise.

    ``change`` takes examples as the networks see them (b, f) and noise in [0, 1) of shape
    (b, n_random), and gives the changed examples (b, f).
    """

    n_random: int
    change: Callable[[Float[Tensor, "b f"], Float[Tensor, "b m"]], Float[Tensor, "b f"]]


def affine(
    shape: Sequence[int], angle: float = 0.3, zoom: float = 0.15, shift: float | None = None
) -> Augment:
    """Random rotation, shear, zoom and shift of images, bilinear.

    Arguments:
        shape: (channels, height, width) of one image
        angle: largest rotation and shear, in radians
        zoom: largest relative change of width and of height
        shift: largest shift, as a share of half the image; by default 0.1, or a pixel of small
            images, which less than that would blur and not move

    Raises:
        ValueError: examples are not images.
    """
    if len(shape) != 3:
        raise ValueError(
            f"affine changes need images of shape (channels, height, width), and these examples "
            f"have shape {tuple(shape)}: leave the invariance term off, or use masking for tables."
        )

    _, rows, columns = shape
    across, down = (max(0.1, 2 / n) if shift is None else shift for n in (columns, rows))

    def move(x: Float[Tensor, "b f"], uniform: Float[Tensor, "b 6"]) -> Float[Tensor, "b f"]:
        b = x.shape[0]
        u = uniform.T * 2 - 1
        turn, shear = angle * u[0], angle * u[1]
        width, height = 1 + zoom * u[2], 1 + zoom * u[3]
        top = torch.stack([turn.cos() * width, shear - turn.sin() * height, across * u[4]], -1)
        bottom = torch.stack([turn.sin() * width, turn.cos() * height, down * u[5]], -1)
        grid = F.affine_grid(torch.stack([top, bottom], 1), [b, *shape], align_corners=False)
        images = x.view(b, *shape)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False).flatten(1)

    return Augment(6, move)


def masking(shape: Sequence[int], share: float = 0.2) -> Augment:
    """Values of a table's row that go missing at random.

    Arguments:
        shape: (f,) of one row
        share: of the values that go missing

    Raises:
        ValueError: examples are images.
    """
    if len(shape) != 1:
        raise ValueError(
            f"masking is for tables, and these examples have shape {tuple(shape)}: images have "
            f"affine changes."
        )

    def mask(x: Float[Tensor, "b f"], uniform: Float[Tensor, "b f"]) -> Float[Tensor, "b f"]:
        return torch.where(uniform < share, torch.nan, x)

    return Augment(shape[0], mask)


AUGMENTS: dict[str, Callable[[Sequence[int]], Augment]] = {"affine": affine, "masking": masking}


def named(augment: str | Augment | None, shape: Sequence[int]) -> Augment | None:
    """An augmentation by its name in `AUGMENTS`, or as it was handed in.

    Raises:
        ValueError: an unknown name, or one that does not fit examples of this shape.
    """
    if augment is None or isinstance(augment, Augment):
        return augment
    if augment not in AUGMENTS:
        raise ValueError(f"invariance={augment!r} is unknown: choose from {', '.join(AUGMENTS)}.")
    return AUGMENTS[augment](shape)
