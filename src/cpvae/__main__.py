"""``python -m cpvae``: the command line."""

from cpvae.cli.main import main

main()
