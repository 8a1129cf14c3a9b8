"""Seconds from the shell to the end of the first training step of a ``cpvae`` command."""

import os
import sys
import time

from cpvae.cli.main import main
from cpvae.training.adam import Adam

take_step = Adam.step


def stop(self, gradients) -> None:
    """The step, and then the time since the process that asked looked at the clock."""
    take_step(self, gradients)
    print(time.time() - float(os.environ["STARTED"]), flush=True)
    os._exit(0)


Adam.step = stop
sys.argv[0] = "cpvae"
main()
