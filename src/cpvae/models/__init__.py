"""The generative models p and their inference q."""
