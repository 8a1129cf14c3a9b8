"""What x is: sources, their schema, and their parts for training, validation and test."""

from cpvae.data.checks import check
from cpvae.data.objects import annotate
from cpvae.data.schema import Schema
from cpvae.data.source import NAMED, load, load_digits, read
from cpvae.data.splits import Source, Split, Splits, split

__all__ = [
    "NAMED",
    "Schema",
    "Source",
    "Split",
    "Splits",
    "annotate",
    "check",
    "load",
    "load_digits",
    "read",
    "split",
]
