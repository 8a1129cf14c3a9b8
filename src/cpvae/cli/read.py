"""What the command line reads: options, the data of a run, new data for a fitted model."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cpvae.choices import ARRAYS, DATASETS, KINDS, TABLES, stem
from cpvae.text import printable

if TYPE_CHECKING:
    import numpy as np
    import torch

    from cpvae.checkpoint import RunFolder
    from cpvae.data import Splits
    from cpvae.data.kinds import Kinds
    from cpvae.models.base import Model

FILES = f"a {', '.join((*ARRAYS, *TABLES))} file, or a folder of images"
Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run folder that `fit` wrote.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn at random.")]


Less = Annotated[
    list[str] | None,
    typer.Option(
        metavar="START=END",
        rich_help_panel="Data",
        help="Column END is never less than START, as two dates or two prices may be: drawn rows "
        "keep that; repeat for more.",
    ),
]


class Examples(NamedTuple):
    """Examples for a fitted model, with labels (n) and names of the n, where there are some.

    ``table`` is what they were read from, where that was a table.
    """

    x: "torch.Tensor"
    labels: "np.ndarray | None"
    rows: tuple[str, ...] | None
    table: Any = None


def kinds_of(options: list[str]) -> "Kinds | None":
    """Of ``--kind``: one kind for all columns, or that of each column by name."""
    if not options:
        return None
    if len(options) == 1 and options[0] in KINDS:
        return options[0]
    return dict(
        _pair(option, "--kind", "COLUMN=KIND, as in --kind age=gaussian") for option in options
    )


def less_of(options: list[str]) -> list[list[str]]:
    """Of ``--less``: pairs of columns, of which the second is never less than the first."""
    example = "START=END, as in --less arrival=departure"
    return [list(_pair(option, "--less", example)) for option in options]


def size_of(text: str | None) -> list[int] | None:
    """Of ``--size``: height and width; one number is both."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(f"--size {text!r}: write HEIGHTxWIDTH in pixels, as in --size 28x28.")
    return [int(parts[0]), int(parts[-1])]


def settings_of(options: list[str]) -> dict[str, Any]:
    """Of ``--set``: values by name, as numbers or lists where they read as such."""
    example = "NAME=VALUE, as in --set learning_rate=0.0003"
    return {
        name.replace("-", "_"): _value(text)
        for name, text in (_pair(option, "--set", example) for option in options)
    }


def merged_settings(options: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that have options of their own and were given, and those of ``--set``.

    Raises:
        ValueError: one of ``--set`` that has an option.
    """
    for name in settings:
        if name in options:
            option = {"n_components": "components"}.get(name, name).replace("_", "-")
            raise ValueError(f"--set {name} has an option of its own: use --{option}.")
    return {k: v for k, v in options.items() if v is not None} | settings


def _pair(option: str, flag: str, example: str) -> tuple[str, str]:
    name, separator, value = option.rpartition("=")
    if not separator or not name:
        raise ValueError(f"{flag} {option!r}: write {example}.")
    return name, value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def source_of(data: str) -> str:
    """A data set's name, or the whole path of a file or folder."""
    return data if data in DATASETS else str(Path(data).resolve())


def load_source(source: dict[str, Any], seed: int) -> "Splits":
    """What ``run.json`` or the command line names as data, split."""
    from cpvae import data

    return data.load(
        source["source"],
        seed,
        source.get("in_chunks"),
        label=source["label"],
        drop=source["drop"],
        kinds=source.get("kinds"),
        ids=source.get("id") or [],
        group=source.get("group"),
        missing=source.get("missing"),
        less=source.get("less"),
        size=_size_in(source),
    )


def splits_of(info: dict[str, Any], run: Path) -> "Splits":
    """The data that a run was fitted on, split as it was then; refuses it where it has changed."""
    from cpvae.data.fingerprint import check_unchanged

    if not info.get("data"):
        raise ValueError(
            f"{run} was saved from Python and does not say what it was fitted on: add DATA, as in "
            f"`cpvae report {quote(str(run))} table.csv`."
        )
    splits = load_source(info["data"], info["recipe"]["seed"])
    check_unchanged(splits, info, run)
    return splits


def splits_given(folder: "RunFolder", source: str) -> "Splits":
    """Other data than a run was fitted on: all of it in each part, but for a set by name."""
    from cpvae import data

    schema = folder.read_schema()
    if source in DATASETS:
        return data.load(source, folder.read_info()["recipe"]["seed"])
    found = examples_of(folder, source, label_in(folder, source))
    whole = data.Split(found.x.numpy(), found.labels)
    return data.Splits(stem(Path(source)), whole, whole, whole, schema)


def model_of(folder: "RunFolder", info: dict[str, Any]) -> "Model":
    """The model of a run; says so when the run has not finished."""
    model = folder.read_model()
    if info["status"] != "finished":
        note(
            f"{folder.path} has not finished (status: {info['status']}); these are its best "
            f"weights so far"
        )
    return model


def examples_of(
    folder: "RunFolder", source: str, label: str | None = None, test_part: bool = False
) -> Examples:
    """Examples for a fitted model; of a named set all of them, or its ``test_part``."""
    import numpy as np
    import torch

    from cpvae import data

    info, schema = folder.read_info(), folder.read_schema()
    if source in DATASETS and test_part:
        part = data.load(source, seed=info["recipe"]["seed"]).test
        x, labels, rows, table = part.x, part.labels, None, None
    else:
        is_array = Path(source).suffix in ARRAYS
        size = None if is_array else _size_in(info.get("data") or {})
        read = data.read(source, label=label, schema=schema, size=size)
        x, labels, rows, table = read.x, read.labels, read.rows, read.table
        tell(read.notes)
    shares = info["model"]["likelihood"] == "bernoulli"
    schema.check_values(x, missing=not shares, shares=shares)
    return Examples(torch.from_numpy(np.ascontiguousarray(x)), labels, rows, table)


def label_in(folder: "RunFolder", source: str) -> str | None:
    """The label column of the run, where a table has it too."""
    label = (folder.read_info().get("data") or {}).get("label")
    if not label:
        return None
    from cpvae import data

    try:
        data.read(source, label=label, schema=folder.read_schema())
    except ValueError:
        return None
    return label


def counted(n: int, noun: str) -> str:
    """A number of things, in words."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def tell(notes: Iterable[str]) -> None:
    """How data was read, where that is not plain."""
    for text in notes:
        note(text)


def note(text: str) -> None:
    """A line for a person, beside what a command prints."""
    print(f"cpvae: note: {printable(text)}", file=sys.stderr)


def _size_in(source: dict[str, Any]) -> tuple[int, int] | None:
    """The size that images are brought to, if ``run.json`` or the command line names one."""
    return tuple(source["size"]) if source.get("size") else None
