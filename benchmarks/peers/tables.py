"""Fits of public generative models to a table, timed when asked (``../small.py``).

Runs in an environment of its own (``constraints.txt`` beside it). Reads a line of JSON with a
``file`` of rows and the ``method``, and answers with the seconds of a fit by its defaults.
"""

import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pandas as pd
import torch

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)


def tvae(table: pd.DataFrame) -> None:
    """Fits ctgan's TVAE to the table, by its defaults (300 epochs)."""
    from ctgan import TVAE

    TVAE(enable_gpu=False).fit(table, list(table.select_dtypes(exclude="number")))


def pythae(table: pd.DataFrame) -> None:
    """Fits pythae's VAE by its defaults (100 epochs) to standardised columns, text one-hot."""
    from pythae.models import VAE, VAEConfig
    from pythae.pipelines import TrainingPipeline
    from pythae.trainers import BaseTrainerConfig

    x = pd.get_dummies(table, dtype=float)
    x = ((x - x.mean()) / x.std().clip(lower=1e-6)).to_numpy("float32")
    with tempfile.TemporaryDirectory() as folder:
        training = BaseTrainerConfig(output_dir=folder, no_cuda=True)
        model = VAE(VAEConfig(input_dim=(x.shape[1],), latent_dim=10))
        TrainingPipeline(model=model, training_config=training)(torch.from_numpy(x))


FITS = {"tvae": tvae, "pythae": pythae}


def main() -> None:
    """Serves fits; what a method prints goes to the error stream."""
    answers, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(1)
    for method in FITS.values():  # imports are not counted
        method(pd.DataFrame({"a": range(200), "b": [0.5, 1.5] * 100}))
    for line in sys.stdin:
        asked = json.loads(line)
        table = pd.read_csv(Path(asked["file"]))
        started = time.perf_counter()
        FITS[asked["method"]](table)
        answers.write(json.dumps({"seconds": time.perf_counter() - started}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
