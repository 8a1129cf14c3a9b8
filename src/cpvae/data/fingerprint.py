"""What data a run was fitted to: sizes and checksums, so that nobody takes other data for it."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from cpvae.data.checks import listed
from cpvae.data.splits import Splits

PARTS = ("train", "valid", "test")
MOST_COLUMNS = 1000  # of a table whose columns have checksums of their own


def fingerprint(splits: Splits) -> dict[str, Any]:
    """Sizes and checksums of the parts, as ``run.json`` has them under ``data``.

    ``sha256`` is that of the training part, and ``columns_sha256`` has the first digits of that of
    each column of a table, with its levels. Of a table that is larger than memory ``sha256`` is
    that of the checksums of its shards, which were taken when they were read.
    """
    if splits.rows is not None:
        shards = json.dumps(splits.rows.store.facts["shards"])
        sizes = {"n_train": splits.n_train, "n_valid": len(splits.valid.x)}
        sizes |= {"n_test": len(splits.test.x), "in_chunks": True}
        return sizes | {"sha256": hashlib.sha256(shards.encode()).hexdigest()}
    parts = {name: getattr(splits, name).x for name in PARTS}
    found: dict[str, Any] = {f"n_{name}": len(x) for name, x in parts.items()}
    found |= {f"sha256_{name}": _digest(x) for name, x in parts.items()}
    found["sha256"] = found.pop("sha256_train")
    schema = splits.schema
    if not schema.is_image and len(schema.names) <= MOST_COLUMNS:
        whole = np.concatenate(list(parts.values()))
        found["columns_sha256"] = [
            _digest(np.ascontiguousarray(column), schema.levels.get(name))[:8]
            for name, column in zip(schema.names, whole.T, strict=True)
        ]
    return found


def check_unchanged(splits: Splits, stored: Mapping[str, Any], run: object) -> None:
    """Refuses data that is not what a run was fitted to; of earlier runs less is known.

    Arguments:
        splits: the data as it is now
        stored: ``run.json``
        run: its folder, for the error

    Raises:
        ValueError: says what has changed, and what to do.
    """
    before, now = stored.get("data") or {}, fingerprint(splits)
    if any(before.get(key, value) != value for key, value in now.items()):
        raise ValueError(
            f"{splits.name} is not what {run} was fitted to: {_difference(splits, stored, now)}. "
            f"Put back what it was, or fit again into another folder; other data is taken by "
            f"`cpvae evaluate RUN DATA` and `cpvae assign RUN DATA`."
        )


def _difference(splits: Splits, stored: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What has changed, as far as that can be told."""
    before = stored["data"]
    names, had = splits.schema.names, stored.get("schema", {}).get("columns")
    if had and names != list(had):
        for some, others, word in ((had, names, "is gone"), (names, had, "is new")):
            if lost := [name for name in some if name not in others]:
                return f"column {listed(range(len(lost)), lost)} {word}"
        return "its columns have another order"
    rows = [sum(of.get(f"n_{name}", 0) for name in PARTS) for of in (before, now)]
    if rows[0] != rows[1]:
        return f"it has {rows[1]} rows, and had {rows[0]}"
    pairs = zip(before.get("columns_sha256", ()), now.get("columns_sha256", ()), strict=False)
    changed = [i for i, (old, new) in enumerate(pairs) if old != new]
    if 0 < len(changed) < len(names) or len(names) == len(changed) == 1:
        return f"column {listed(changed, names)} changed"
    return "its values or the order of its rows changed"


def _digest(x: np.ndarray, levels: Any = None) -> str:
    digest = hashlib.sha256(x)  # type: ignore[arg-type]  # a buffer
    if levels is not None:
        digest.update(json.dumps(levels, default=str).encode())
    return digest.hexdigest()
