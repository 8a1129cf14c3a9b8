"""What is read back of a run folder, checked before it is used.

A file may have been cut, edited, or made by somebody else: each value is compared with what belongs
there, and what is wrong is named. Keys that are not known here may be there, too.
"""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from cpvae.choices import KINDS, LIKELIHOODS, SYSTEMS

NUMBER = complex  # stands for one that may be infinite
FIGURE = object  # and for one that may be no number
COUNT = range  # stands for a whole number from 0 up
SCALAR = (str, bool, float, None)
SETTING = (*SCALAR, [SCALAR])


class Keys(NamedTuple):
    """A mapping: keys that it must have and others that it may have, and what belongs there."""

    needed: dict[str, Any]
    other: Mapping[str, Any] = MappingProxyType({})


FORM = Keys(  # of `data.columns`
    {},
    {
        **dict.fromkeys(("levels", "dtype", "of_categories"), str),
        **dict.fromkeys(("low", "high"), (None, float)),
        "decimals": (None, COUNT),
        "categories": [SCALAR],
        "ordered": bool,
    },
)
SCHEMA = Keys(
    {"shape": [COUNT]},
    {
        "columns": (None, [str]),
        "levels": {str: [SCALAR]},
        "kinds": [str],
        "missing": bool,
        "loc": [float],
        "scale": [float],
        "frame": (None, str),
        "limits": [(None, [(None, float)])],
        "forms": [FORM],
        "given_shape": [COUNT],
        "dtype": (None, str),
        "pixel_range": [float],
    },
)
MODEL = Keys(
    {"model": str, "likelihood": str, "n_components": COUNT, "latent_dim": COUNT},
    {"hidden": [COUNT], "network": str, "seed": COUNT, "soft_bounds": bool},
)
RECIPE = Keys({"seed": COUNT, "pretraining_epochs": COUNT, "anneal_epochs": COUNT})
DATA = Keys(
    {"source": str, "label": (None, str), "drop": [str]},
    {
        "kinds": (None, str, {str: str}),
        "size": (None, [COUNT]),
        "invariance": (None, str),
        "columns_sha256": [str],
        "describe": [str],
        **dict.fromkeys(("n_train", "n_valid", "n_test"), COUNT),
        **dict.fromkeys(("sha256", "sha256_valid", "sha256_test"), str),
    },
)
COMPACTED = Keys(
    {
        "from": COUNT,
        "groups": [[COUNT]],
        "valid_elbo_exact_nats_before": float,
        "valid_elbo_exact_nats_after": float,
        "curve": [[float]],
    },
    {"merge_connected": bool},
)
INFO = Keys(
    {"format": COUNT, "schema": SCHEMA, "model": MODEL, "recipe": RECIPE},
    {
        "status": str,
        "reason": str,
        "data": (None, DATA),
        "given": {str: SETTING},
        "versions": {str: str},
        "n_restarts": COUNT,
        "restarts": [Keys({"seed": COUNT, "epochs": COUNT, "best_valid_elbo_nats": NUMBER})],
        "epochs": COUNT,
        "best_epoch": COUNT,
        "best_valid_elbo_nats": NUMBER,
        "shortened_from": COUNT,
        "example_shape": [COUNT],
        "compacted": COMPACTED,
    },
)
USUAL = {
    "model": "cpvae",
    "likelihood": "bernoulli",
    "soft_bounds": False,
}  # what `build` takes if they are left out
RECORD = Keys(
    {"epoch": COUNT}, {"seconds": float, "valid_elbo_nats": float, "components_used": COUNT}
)
EVALUATION = Keys({"n_examples": COUNT, "importance_samples": COUNT}, {"best_epoch": (None, COUNT)})
PROGRESS = Keys(
    {
        "runs": [
            Keys({"epoch": COUNT, "best_epoch": COUNT, "best_elbo": NUMBER, "diverged": bool}),
        ]
    }
)
WORDS = {
    str: "text",
    bool: "true or false",
    float: "a number",
    NUMBER: "a number",
    FIGURE: "a number",
    COUNT: "a whole number",
    None: "null",
}


def parsed(text: str | bytes) -> Any:
    """JSON.

    Raises:
        ValueError: it is none, or nested too deeply to be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check(value: Any, like: Any, name: str) -> None:
    """Compares a value of JSON with what belongs there.

    Arguments:
        value: see above
        like: a type, None, a list or a mapping of what its elements are like, `Keys`, or a tuple of
            these, any one of which will do
        name: of the value

    Raises:
        ValueError: names the first value that does not belong there.
    """
    if isinstance(like, Keys):
        _check_kind(value, dict, name, "a mapping")
        if missing := sorted(set(like.needed) - set(value)):
            raise ValueError(f"{name} has no {missing[0]}")
        for key, of_key in {**like.needed, **like.other}.items():
            if key in value:
                check(value[key], of_key, f"{name}.{key}")
    elif isinstance(like, tuple):
        _check_any(value, like, name)
    elif isinstance(like, list):
        _check_kind(value, list, name, "a list")
        for place, each in enumerate(value):
            check(each, like[0], f"{name}[{place}]")
    elif isinstance(like, dict):
        _check_kind(value, dict, name, "a mapping")
        for key, each in value.items():
            check(each, like[str], f"{name}.{key}")
    elif not _is_like(value, like):
        raise ValueError(f"{name} is {_short(value)}, and {WORDS[like]} belongs there")


def check_info(info: Any) -> dict[str, Any]:
    """What ``run.json`` of the present format holds, with what is usual where that is left out.

    Raises:
        ValueError: names what does not belong there.
    """
    if isinstance(info, dict) and isinstance(info.get("model"), dict):
        info = {**info, "model": {**USUAL, **info["model"]}}
    check(info, INFO, "it")
    for part in ("model", "recipe"):
        check(info[part], {str: SETTING}, part)
    for name, allowed in (("model", SYSTEMS), ("likelihood", LIKELIHOODS)):
        if info["model"][name] not in allowed:
            raise ValueError(f"model.{name} is {_short(info['model'][name])}, which is unknown")
    _check_schema(info["schema"])
    return {"status": "unknown", "versions": {}, **info}


def check_evaluation(kept: Any) -> None:
    """Refuses what are no figures of an evaluation.

    Raises:
        ValueError: names what does not belong there.
    """
    check(kept, EVALUATION, "it")
    check(kept, {str: (None, NUMBER)}, "it")


def records(text: str) -> list[dict[str, Any]]:
    """The lines of a history; a last one that is not whole is left out.

    Raises:
        ValueError: another line that is no record, or epochs that do not follow one another.
    """
    found: list[dict[str, Any]] = []
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            record = parsed(line)
            check(record, RECORD, "it")
            check(record, {str: (bool, FIGURE)}, "it")
            if found and record["epoch"] <= found[-1]["epoch"]:
                raise ValueError(f"epoch {record['epoch']} comes after {found[-1]['epoch']}")
        except ValueError as error:
            if number == len(lines) and not text.endswith("\n"):
                break
            raise ValueError(f"line {number}: {error}") from error
        found.append(record)
    return found


def check_shapes(found: Mapping[str, Sequence[int]], expected: Mapping[str, Sequence[int]]) -> None:
    """Compares the sizes of tensors by name.

    Raises:
        ValueError: one that is missing, one too many, or one of another size.
    """
    for name in sorted({*found, *expected}):
        if name not in found or name not in expected:
            raise ValueError(f"{name} is {'missing' if name in expected else 'not known'}")
        if tuple(found[name]) != tuple(expected[name]):
            sizes = (list(found[name]), list(expected[name]))
            raise ValueError(f"{name} has the size {sizes[0]} and not {sizes[1]}")


def check_finite(tensors: Mapping[str, Any], learned: Collection[str]) -> None:
    """Refuses weights with values that are infinite or no numbers.

    Arguments:
        tensors: of a model
        learned: names of those that are learned; others may be infinite, as a limit of values is

    Raises:
        ValueError: names the first one.
    """
    for name, tensor in tensors.items():
        bad = ~tensor.isfinite() if name in learned else tensor.isnan()
        if bad.any():
            raise ValueError(f"{name} has values that are not finite numbers")


def check_sizes(config: Mapping[str, Any], shapes: Iterable[Sequence[int]]) -> None:
    """Refuses a model that cannot be that of tensors of these shapes, before anything is built.

    Raises:
        ValueError: names the size that is larger than all numbers there are.
    """
    total = sum(math.prod(shape) for shape in shapes)
    sizes = {key: config[key] for key in ("n_components", "latent_dim")}
    sizes |= {"shape": math.prod(config["shape"]), "hidden": max(config.get("hidden", [0]) or [0])}
    for name, size in sizes.items():
        if size > total:
            raise ValueError(f"{name} is {size}, and there are {total} weights in all")


def _check_schema(schema: Mapping[str, Any]) -> None:
    shape, columns = schema["shape"], schema.get("columns")
    if len(shape) not in (1, 3) or not all(shape):
        raise ValueError(f"schema.shape is {_short(shape)}")
    if columns is not None and len(set(columns)) != math.prod(shape):
        raise ValueError(f"schema.columns are {len(set(columns))} names for the shape {shape}")
    for name in ("kinds", "loc", "scale", "limits", "forms"):
        if len(schema.get(name, ())) not in (0, shape[0]):
            raise ValueError(f"schema.{name} has {len(schema[name])} values for {shape[0]}")
    for kind in set(schema.get("kinds", ())) - set(KINDS):
        raise ValueError(f"schema.kinds has {_short(kind)}, which is unknown")
    for width, low, high in (of for of in schema.get("limits", ()) if of):
        between = (-math.inf if low is None else low) < (math.inf if high is None else high)
        if width is None or width < 0 or not between:
            raise ValueError(f"schema.limits has {_short([width, low, high])}, which is no limit")
    if any(scale <= 0 for scale in schema.get("scale", ())):
        raise ValueError("schema.scale has a value that is not above 0")


def _check_any(value: Any, likes: Sequence[Any], name: str) -> None:
    """Whether one of several will do; of structures the error is that of the one it looks like."""
    for like in likes:
        of_mapping = isinstance(value, dict) and isinstance(like, Keys | dict)
        if of_mapping or (isinstance(value, list) and isinstance(like, list)):
            check(value, like, name)
            return
    simple = [like for like in likes if not isinstance(like, Keys | dict | list)]
    if not any(_is_like(value, like) for like in simple):
        words = " or ".join(dict.fromkeys(WORDS[like] for like in simple))
        raise ValueError(f"{name} is {_short(value)}, and {words} belongs there")


def _check_kind(value: Any, kind: type, name: str, words: str) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {_short(value)}, and {words} belongs there")


def _is_like(value: Any, like: Any) -> bool:
    if like is None or value is None:
        return like is value
    if like in (str, bool) or isinstance(value, bool):
        return isinstance(value, like) if like in (str, bool) else False
    if like is COUNT:
        return isinstance(value, int) and value >= 0
    if not isinstance(value, int | float):
        return False
    return like is FIGURE or math.isfinite(value) or (like is NUMBER and not math.isnan(value))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
