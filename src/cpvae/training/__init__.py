"""How a model is optimised, from a plan to the weights that are kept."""
