"""Run folders of earlier formats, brought to the present one when they are read.

Format 1 kept what is known of the columns in three places, called some settings otherwise (see
`choices.RENAMED`), and had one set of buffers for all kinds of columns instead of one a head.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cpvae.choices import KINDS, RENAMED
from cpvae.data.schema import Schema

OF_HEADS = re.compile(r"(.*)likelihood\.(loc|scale|log_noise|log_dispersion)")


def upgraded_info(info: dict[str, Any]) -> dict[str, Any]:
    """``run.json`` of format 1 as one of the present format."""
    info = dict(info)
    model, data = _renamed(info["model"]), dict(info.get("data") or {})
    described = {**(info.pop("table", None) or {}), **data}
    columns, shape = described.get("columns"), tuple(model.pop("shape"))
    if columns == [str(i) for i in range(shape[0])]:  # of an array, which has no names
        columns = None
    model.pop("n_levels", None)
    schema = Schema(
        shape,
        tuple(columns) if columns else None,
        described.get("levels") or {},
        tuple(model.pop("kinds", ())),
    )
    info |= {"schema": schema.as_json(), "model": model, "recipe": _renamed(info["recipe"])}
    info["recipe"]["invariance_weight"] = info["recipe"].pop("invariance", 0.0)
    if "compacted" in info:
        info["compacted"] = _renamed(info["compacted"])
    if data:
        info["data"] = {k: v for k, v in data.items() if k not in ("columns", "levels")}
    return info


def upgraded_tensors(tensors: Mapping[str, Tensor], schema: Schema) -> dict[str, Tensor]:
    """Weights or a training state of format 1 under their present names; others as they are."""
    upgraded: dict[str, Tensor] = {}
    old: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if found := OF_HEADS.fullmatch(key):
            old.setdefault(found[1], {})[found[2]] = tensor
        else:
            upgraded[key.replace("engine.start", "engine.initial")] = tensor
    for prefix, values in old.items():
        upgraded |= {f"{prefix}likelihood.heads.{k}": v for k, v in _of_heads(values, schema)}
        if prefix.endswith("last."):
            _drop_empty(upgraded, prefix.removesuffix("last.") + "engine.", values)
    return upgraded


def _renamed(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {RENAMED.get(key, key): value for key, value in settings.items()}


def _of_heads(values: Mapping[str, Tensor], schema: Schema) -> list[tuple[str, Tensor]]:
    """Buffers and parameters of the one likelihood there was, by head."""
    kinds = schema.kinds or ("gaussian",) * math.prod(schema.shape)
    found = []
    for place, kind in enumerate(kind for kind in KINDS if kind in kinds):
        mine = [i for i, of in enumerate(kinds) if of == kind]
        learned = {"gaussian": "log_noise", "count": "log_dispersion"}.get(kind)
        if learned:
            of_all = [name for name in ("loc", "scale") if name in values]
            found += [(f"{place}.{name}", values[name][mine]) for name in of_all]
            found.append((f"{place}.{learned}", values[learned]))
    return found


def _drop_empty(tensors: dict[str, Tensor], engine: str, values: Mapping[str, Tensor]) -> None:
    """Drops the moments of parameters that were empty, as those of a kind that no column had."""
    learned = [name for name in ("log_noise", "log_dispersion") if name in values]
    empty = [i for i, name in enumerate(learned) if not len(values[name])]
    for moment in ("mean", "square"):
        every: list[Tensor] = []
        while f"{engine}{moment}.{len(every)}" in tensors:
            every.append(tensors.pop(f"{engine}{moment}.{len(every)}"))
        kept = [tensor for i, tensor in enumerate(every) if i not in empty]
        tensors |= {f"{engine}{moment}.{i}": tensor for i, tensor in enumerate(kept)}
