"""A table becomes numbers, and what it is read as becomes a schema."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from cpvae.data import cells, ids, order
from cpvae.data.columns import BOOLEAN
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


def with_declared(x: np.ndarray, schema: Schema) -> tuple[np.ndarray, Schema]:
    """Rows (n, f), and their schema, with all categories that a frame declares as levels.

    A categorical dtype has categories that no row has: of data that comes in parts, later ones may.
    """
    x, levels, forms = x.copy(), dict(schema.levels), list(schema.forms)
    for at, (name, form) in enumerate(zip(schema.names, schema.forms, strict=False)):
        if name not in levels or levels[name] == BOOLEAN or not form.categories:
            continue
        read: Any = str if form.levels == "text" else float
        last = levels[name][len(levels[name]) - bool(form.pool) :]  # the pool stays the last
        had = levels[name][: len(levels[name]) - len(last)]
        known = {read(text) for text in (*had, *(text for text, _ in form.pool))}
        new = [text for text in form.categories if read(text) not in known]
        if form.levels != "text":
            whole = all(float(text).is_integer() for text in (*had, *new))
            new = [str(int(float(text))) if whole else text for text in new]
            forms[at] = dataclasses.replace(form, levels="int" if whole else "float")
        levels[name] = [*sorted([*had, *new], key=read), *last]
        place = np.array([*map(levels[name].index, (*had, *last)), np.nan], dtype=np.float32)
        x[:, at] = place[np.where(np.isnan(x[:, at]), -1, x[:, at]).astype(int)]
    return x, dataclasses.replace(schema, levels=levels, forms=tuple(forms))
