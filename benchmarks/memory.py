"""Peak memory in MB of a process that trains a system, above what it holds before it builds it."""

import sys
from pathlib import Path

from steps import Step


def peak() -> float:
    """Peak memory of this process in MB, as Linux reports it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


name, n_components, kernels = sys.argv[1], int(sys.argv[2]), sys.argv[3]
Step("vae", 1, 100, kernels=kernels).epoch()  # libraries, threads and data of the same size
before = peak()
step = Step(name, n_components, 100, kernels=kernels)
step.epoch()
step.epoch()
print(peak() - before, step.parameters)
