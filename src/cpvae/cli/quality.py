"""``cpvae evaluate --quality``: how good and how private drawn rows are."""

import json
from typing import TYPE_CHECKING, Any

from cpvae.cli.read import examples_of, model_of, splits_of
from cpvae.text import in_markup

if TYPE_CHECKING:
    from cpvae.checkpoint import RunFolder


def print_quality(
    folder: "RunFolder", info: dict[str, Any], data: str | None, seed: int, as_json: bool
) -> None:
    """Figures of drawn rows, of a run, beside its test part or other data."""
    from cpvae.evaluation.quality import in_words
    from cpvae.evaluation.quality import quality as quality_of

    if not info.get("data"):
        raise ValueError(
            f"{folder.path} was saved from Python and does not say which rows it was fitted to, "
            f"which --quality compares with: call cpvae.evaluation.quality.quality in Python."
        )
    splits = splits_of(info, folder.path)
    held_out = examples_of(folder, data).x.numpy() if data else splits.test.x
    model = model_of(folder, info)
    found = quality_of(model, folder.read_schema(), splits.train.x, held_out, seed)
    if as_json:
        print(json.dumps(found))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(
        *("drawn rows", "value", "by chance", "how to read it"),
        title=f"{in_markup(folder.path)}, beside {found['n_held_out']} held-out rows",
    )
    for line in in_words(found):
        table.add_row(*map(in_markup, line))
    Console(emoji=False).print(table)
