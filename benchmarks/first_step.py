"""Seconds from the shell to the end of the first training step of a ``cpvae`` command."""

import os
import sys
import time

from cpvae.cli.main import main
from cpvae.training.adam import Adam

take_step = Adam.step


def stop(self, gradients) -> None:
    """Takes the step, and prints how long ago ``STARTED`` was, a time that the caller took."""
    take_step(self, gradients)
    print(time.time() - float(os.environ["STARTED"]), flush=True)
    os._exit(0)


Adam.step = stop
sys.argv[0] = "cpvae"
main()
