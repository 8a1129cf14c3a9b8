"""Versions and hardware that a result depends on."""

import os
import platform
from pathlib import Path

import numpy
import torch

from cpvae import __version__


def versions() -> dict[str, str]:
    """Those of here, by name; for ``run.json`` and files of results."""
    return {
        "python": platform.python_version(),
        "cpvae": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "processor": _processor(),
        "threads": str(torch.get_num_threads()),
    }


def _processor() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"
