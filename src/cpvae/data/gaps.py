"""Columns of zeros and ones that say which cells of a table are missing.

They stand behind the others, one for each column with gaps, and are modelled as any column is: so
the model knows how often a cell is missing given z and c, its bound counts it, and rows that are
drawn have gaps.
"""

import dataclasses

import numpy as np

from cpvae.data.columns import Form
from cpvae.data.splits import Source


def with_gaps(source: Source) -> Source:
    """A source whose columns with gaps have one beside them that says where these are.

    Raises:
        ValueError: images.
    """
    schema = source.schema
    if schema.is_image:
        raise ValueError("missing='model' is for tables: leave it out for images.")
    names = schema.names
    gaps = [names[i] for i in np.flatnonzero(np.isnan(source.x).any(axis=0))]
    forms = schema.forms or (Form(),) * len(names)
    columns = (*names, *(f"{name} is missing" for name in gaps)) if schema.columns else None
    schema = dataclasses.replace(
        schema,
        shape=(len(names) + len(gaps),),
        columns=columns,
        forms=(*forms, *([Form(0, 0.0, 1.0)] * len(gaps))),
        gaps=tuple(gaps),
    )
    return dataclasses.replace(source, x=schema.completed(source.x), schema=schema)
