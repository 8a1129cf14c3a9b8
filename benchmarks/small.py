"""Seconds of a fit to small data, from ``fit`` to its end, beside mixtures and other models.

Whatever is compared is fitted in turn, on one thread and to the same rows. Import of torch is not
counted. Peers run in a process of their own, without the settings of OpenBLAS that an environment
may have for ours.
"""

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cpvae import CPVAE
from cpvae.experiments import tables

HERE = Path(__file__).parent
OF_OPENBLAS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
Note = Callable[[str, float, str], None]


def _clusters(n_rows: int, n_columns: int, k: int) -> pd.DataFrame:
    """Clusters with covariances of their own: there is nothing that a mixture does not have."""
    rng = np.random.default_rng(0)
    cluster = rng.choice(k, n_rows, p=np.arange(1, k + 1) / np.arange(1, k + 1).sum())
    factor = rng.standard_normal((k, n_columns, n_columns)) / n_columns**0.5
    noise = (factor[cluster] @ rng.standard_normal((n_rows, n_columns, 1)))[:, :, 0]
    return pd.DataFrame(3 * rng.standard_normal((k, n_columns))[cluster] + noise).add_prefix("x")


def _curved(n_rows: int, n_columns: int, k: int) -> pd.DataFrame:
    """Clusters that are bent, so that a deeper model gains."""
    table = _clusters(n_rows, n_columns, k)
    half = n_columns // 2
    bent = 0.3 * table.iloc[:, :half].to_numpy() ** 2
    table.iloc[:, half : 2 * half] += bent
    return table


def _digits() -> pd.DataFrame:
    from sklearn.datasets import load_digits

    return pd.DataFrame(load_digits().data / 16).add_prefix("x")


def _of(name: str) -> pd.DataFrame:
    return tables._rows(name)[0]


DATASETS: dict[str, tuple[Callable[[], pd.DataFrame], int]] = {
    "wine": (lambda: _of("wine"), 3),
    "breast cancer": (lambda: _of("breast_cancer"), 2),
    "a mixed table": (lambda: _of("unequal_mixed"), 4),
    "1,000 x 30, Gaussian": (lambda: _clusters(1000, 30, 3), 3),
    "1,000 x 30, bent": (lambda: _curved(1000, 30, 3), 3),
    "5,000 x 20, Gaussian": (lambda: _clusters(5000, 20, 5), 5),
    "5,000 x 20, bent": (lambda: _curved(5000, 20, 5), 5),
    "digits, as a table": (_digits, 10),
}


class Peers:
    """Public models in a process and an environment of their own."""

    def __init__(self, python: Path):
        kept = {key: value for key, value in os.environ.items() if key not in OF_OPENBLAS}
        self.process = subprocess.Popen(
            [python, HERE / "peers" / "tables.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=kept,
        )

    def seconds(self, method: str, file: str) -> float:
        """Of one fit."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"method": method, "file": file}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{method} ended without an answer: run peers/tables.py by hand.")
        return float(json.loads(answer)["seconds"])


def measure(note: Note, repeats: int, python: Path | None) -> None:
    """Fits of ours, of scikit-learn's mixture and of the peers, in turn.

    Arguments:
        note: takes name, value and unit of a record
        repeats: of each; medians are noted, and medians of ratios within a round
        python: of the environment that has the peers, if there is one
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    peers = Peers(python) if python else None
    _seconds(lambda: CPVAE(2).fit(_of("wine")))  # what is loaded by a first fit
    for name, (load, k) in DATASETS.items():
        with tempfile.TemporaryDirectory() as folder:
            table, file = load(), f"{folder}/rows.csv"
            table.to_csv(file, index=False)
            taken = [_round(table, k, peers, file) for _ in range(repeats)]
        for method in taken[0]:
            spent = [each[method] for each in taken]
            note(f"fit of {name}, {method}", statistics.median(spent), "s")
            if method != "cpvae":
                ratios = [each["cpvae"] / each[method] for each in taken]
                note(f"fit of {name}, cpvae over {method}", statistics.median(ratios), "1")
    if peers:
        peers.process.terminate()
    torch.set_num_threads(threads)


def _round(table: pd.DataFrame, k: int, peers: Peers | None, file: str) -> dict[str, float]:
    from sklearn.mixture import GaussianMixture

    x = pd.get_dummies(table, dtype=float).to_numpy(float)
    x = (x - x.mean(0)) / x.std(0).clip(1e-6)
    taken = {
        "cpvae": _seconds(lambda: CPVAE(k).fit(table)),
        "GaussianMixture": _seconds(lambda: GaussianMixture(k, reg_covar=1e-3).fit(x)),
    }
    if peers:
        taken |= {
            f"{method} of peers": peers.seconds(method, file) for method in ("tvae", "pythae")
        }
    return taken


def _seconds(of: Callable[[], Any]) -> float:
    started = time.perf_counter()
    of()
    return time.perf_counter() - started
