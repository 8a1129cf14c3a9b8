"""Columns that a run tells of and that it was not fitted to: ``fit --describe``."""

import dataclasses
from typing import Any

import numpy as np

from cpvae.data.schema import Schema
from cpvae.data.source import read


def with_described(
    x: np.ndarray, schema: Schema, source: dict[str, Any]
) -> tuple[np.ndarray, Schema]:
    """All rows (n, f) of the data of a run, with the columns that are told of, and their schema.

    Text that hardly repeats tells nothing and is left out.

    Arguments:
        x: all rows, in the order of the data
        schema: of the run
        source: ``data`` of its ``run.json``
    """
    names, asked = schema.given_names, source.get("describe") or []
    others = [name for name in source["drop"] if name not in asked]
    aside: dict[str, Any] = {"ids": source.get("id") or [], "group": source.get("group")}
    drop = [*names, *others]
    found = read(source["source"], label=source["label"], drop=drop, **aside)
    at = [i for i, name in enumerate(found.schema.names) if name in asked]
    told, cut = [found.schema.names[i] for i in at], len(names)  # what is missing stays the last

    def between(of_rows: Any, new: Any) -> tuple[Any, ...]:
        return (*of_rows[:cut], *new, *of_rows[cut:])

    levels = {name: of for name, of in found.schema.levels.items() if name in told}
    whole = dataclasses.replace(
        schema,
        shape=(schema.shape[0] + len(at),),
        columns=between(schema.names, told),
        levels={**schema.levels, **levels},
        kinds=between(schema.kinds, [""] * len(at)) if schema.kinds else (),
        limits=between(schema.limits, [None] * len(at)) if schema.limits else (),
        forms=between(schema.forms, [found.schema.forms[i] for i in at]) if schema.forms else (),
    )
    return np.column_stack([x[:, :cut], found.x[:, at], x[:, cut:]]), whole
