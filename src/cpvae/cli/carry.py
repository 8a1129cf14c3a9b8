"""Names that a fit takes over from an earlier run, and what has moved since."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, NamedTuple

from cpvae.cli.read import examples_of
from cpvae.text import in_markup

if TYPE_CHECKING:
    import numpy as np

    from cpvae.checkpoint import RunFolder


class Earlier(NamedTuple):
    """An earlier run: its name, the names of its components, and where it has each row (n)."""

    run: str
    names: list[str]
    component: "np.ndarray"


def read_earlier(run: Path, source: str) -> Earlier:
    """What an earlier run makes of the data that is to be fitted.

    Raises:
        ValueError: a run without names, or data that lacks one of its columns.
    """
    from cpvae.checkpoint import RunFolder
    from cpvae.names import is_named, read_names

    folder = RunFolder(run)
    names = read_names(folder, folder.read_info()["model"]["n_components"])
    if not is_named(names):
        raise ValueError(
            f"No component of {run} has a name: name them first, as in "
            f"`cpvae name {quote(str(run))} 0=starter`."
        )
    return Earlier(str(run), names, _assigned(folder, source))


def carry_names(earlier: Earlier, folder: "RunFolder", source: str) -> None:
    """Gives the components of a new run the names of those of the earlier one that they are."""
    from cpvae.evaluation.matching import matched, names_after, shared_rows
    from cpvae.names import numbers, write_names

    component = _assigned(folder, source)
    n_after = folder.read_info()["model"]["n_components"]
    counts = shared_rows(earlier.component, component, len(earlier.names), n_after)
    pairs = matched(counts)
    names = names_after(earlier.names, pairs, numbers(n_after))
    write_names(folder, names)
    _print(earlier, counts, pairs, names)


def _assigned(folder: "RunFolder", source: str) -> "np.ndarray":
    from cpvae.models.inference import cluster_probs

    x = examples_of(folder, source).x
    return cluster_probs(folder.read_model(), x).argmax(1).numpy()


def _print(
    earlier: Earlier, counts: "np.ndarray", pairs: list[int | None], names: list[str]
) -> None:
    from rich.console import Console
    from rich.table import Table

    from cpvae.evaluation.matching import agreement
    from cpvae.names import called
    from cpvae.report.words import percent

    console = Console(stderr=True, emoji=False, highlight=False)
    table = Table("component", "was", "rows", "stayed", "came from elsewhere", "left")
    for new, old in enumerate(pairs):
        of_new = int(counts[:, new].sum())
        cells = [called(new, names[new]), "new", f"{of_new:,}", "", "", ""]
        if old is not None:
            stayed = int(counts[old, new])
            cells[1] = called(old, earlier.names[old])
            cells[3:] = (
                f"{stayed:,}",
                f"{of_new - stayed:,}",
                f"{int(counts[old].sum()) - stayed:,}",
            )
        table.add_row(*map(in_markup, cells))
    console.print(f"Names of {in_markup(earlier.run)}, by the rows that components share:")
    console.print(table)
    gone = [called(old, name) for old, name in enumerate(earlier.names) if old not in pairs]
    stays = f"{percent(agreement(counts, pairs))} of the rows are where they were."
    gone_too = f" Gone: {', '.join(gone)}." if gone else ""
    console.print(in_markup(stays + gone_too))
