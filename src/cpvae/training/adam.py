"""Adam (Kingma and Ba 2015): torch's fused kernel with one step counter for all parameters.

`torch.optim.Adam` adds a fifth of a millisecond of bookkeeping a step to the same kernel. A
compiler is given `Adam.move` instead, which it fuses with what comes before.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

BETA_MEAN, BETA_SQUARE, EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """Moves parameters (any shape, float32) in place, see above; ``learning_rate`` is constant."""

    def __init__(self, parameters: Sequence[Tensor], learning_rate: float):
        self.parameters, self.learning_rate = list(parameters), learning_rate
        self.mean = [torch.zeros_like(p) for p in self.parameters]
        self.square = [torch.zeros_like(p) for p in self.parameters]
        self.steps = torch.zeros((), device=self.parameters[0].device)

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Moves the parameters along their gradients."""
        self.steps += 1
        torch._fused_adam_(
            self.parameters,
            [g.contiguous() for g in gradients],  # the kernel reads memory, not strides
            self.mean,
            self.square,
            [],
            [self.steps] * len(self.parameters),
            lr=self.learning_rate,
            beta1=BETA_MEAN,
            beta2=BETA_SQUARE,
            weight_decay=0.0,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )

    def next_factors(self) -> tuple[Tensor, Tensor]:
        """Counts a step that `move` takes, and gives the two numbers that depend on the count."""
        self.steps += 1
        count = float(self.steps)
        per_rate = (1 - BETA_MEAN**count) / self.learning_rate
        return torch.tensor(per_rate / (1 - BETA_SQUARE**count) ** 0.5), torch.tensor(
            per_rate * EPSILON
        )

    @staticmethod
    def move(
        moved: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]], scale: Tensor, floor: Tensor
    ) -> None:
        """Moves parameters and their moments, each with its gradient, in plain operations."""
        for parameter, mean, square, gradient in moved:
            new_mean = mean + (1 - BETA_MEAN) * (gradient - mean)
            new_square = BETA_SQUARE * square + (1 - BETA_SQUARE) * gradient * gradient
            parameter.copy_(parameter - new_mean / (new_square.sqrt() * scale + floor))
            mean.copy_(new_mean)
            square.copy_(new_square)
