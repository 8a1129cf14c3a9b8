"""A small classifier of images, trained on labels: the eye that generated images are judged by.

It serves evaluation alone; no generative model ever sees it.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from cpvae.streams import stream

ROWS = 2000  # examples at once in evaluation


class Classifier(nn.Module):
    """Two convolutions that halve an image each, and a layer of features under the classes.

    Arguments:
        shape: (channels, height, width) of an image
        n_classes: number of classes
        n_features: width of the layer that distances are taken in
    """

    def __init__(self, shape: Sequence[int], n_classes: int, n_features: int = 64):
        super().__init__()
        channels, height, width = shape
        left = -(-height // 4) * -(-width // 4)
        self.trunk = nn.Sequential(
            nn.Conv2d(channels, 32, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(64 * left, n_features),
        )
        self.classes = nn.Linear(n_features, n_classes)

    def forward(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b classes"]:
        """Logits of images (b, channels, height, width)."""
        return self.classes(F.relu(self.trunk(x)))

    @torch.no_grad()
    def features(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n f"]:
        """Features of any number of images, before their ReLU."""
        return torch.cat([self.trunk(part) for part in x.split(ROWS)])

    @torch.no_grad()
    def predict(self, x: Float[Tensor, "n ..."]) -> Int[Tensor, " n"]:
        """The most probable class of any number of images."""
        return torch.cat([self(part).argmax(1) for part in x.split(ROWS)])


def fit_classifier(
    x: Float[Tensor, "n ..."],
    labels: Int[Tensor, " n"],
    epochs: int = 5,
    batch_size: int = 200,
    seed: int = 0,
) -> Classifier:
    """Trains a classifier of images (n, channels, height, width) and leaves it in evaluation mode.

    Arguments:
        x: images, on the device to train on
        labels: classes from 0 up, (n), on the same device
        epochs: passes over the data, under a learning rate that falls to zero
        batch_size: images a step
        seed: of weights, order and dropout
    """
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(stream(seed, "classifier"))
        classifier = Classifier(x.shape[1:], int(labels.max()) + 1).to(x.device)
        optimizer = torch.optim.Adam(classifier.parameters())
        steps = epochs * -(-len(x) // batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
        for _ in range(epochs):
            for rows in torch.randperm(len(x), device=x.device).split(batch_size):
                optimizer.zero_grad()
                F.cross_entropy(classifier(x[rows]), labels[rows]).backward()
                optimizer.step()
                schedule.step()
    return classifier.eval()
