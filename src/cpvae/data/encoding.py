"""A table becomes numbers, and what it is read as becomes a schema."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from cpvae.data import cells, ids, order
from cpvae.data.kinds import Kinds
from cpvae.data.schema import Levels, Schema


def encode_table(
    table: Any,
    called: str,
    kinds: Kinds | None = None,
    named: Collection[str] = (),
    less: order.Pairs = (),
) -> tuple[np.ndarray, Schema]:
    """A table of pyarrow as numbers (n, f), and its schema.

    Arguments:
        table: of pyarrow, with the columns that are to be read
        called: what errors call it
        kinds: of columns, by name, or one for all
        named: columns that are known to be ids
        less: pairs of columns that are to keep their order

    Raises:
        ValueError: a column of another type, or none that can be fitted.
    """
    levels, numbers, forms, left_out = Levels(), [], [], {}
    said = {str(name): kind for name, kind in kinds.items()} if isinstance(kinds, Mapping) else {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = kinds if isinstance(kinds, str) else said.get(name)
        learned = (
            ids.NAMED
            if name in named
            else cells.learned(column, f"{called}: column {name}", name, kind)
        )
        if isinstance(learned, str):
            left_out[name] = learned
            continue
        numbers.append(learned.numbers)
        forms.append(learned.form)
        if learned.levels is not None:
            levels[name] = learned.levels
    if not numbers:
        raise ValueError(f"{called} has nothing to fit: {'; '.join(ids.in_words(left_out))}.")
    x = np.column_stack(numbers)
    names = tuple(name for name in table.column_names if name not in left_out)
    schema = Schema(x.shape[1:], names, levels, forms=tuple(forms), left_out=left_out)
    return order.declared(x, table, schema, less, called)
