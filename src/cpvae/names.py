"""Names that a person gives to components, kept in the run folder as ``names.json``.

A component without one is called by its number. Components of one name count as one, where rows are
labelled and where examples are drawn.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext

import numpy as np
from jaxtyping import Float

from cpvae import output
from cpvae.checkpoint import DAMAGE, NAMES, RunFolder
from cpvae.stored import check, parsed
from cpvae.text import printable

LONGEST = 60  # letters of a name
MOST_SHOWN = 20  # components that an error lists


def numbers(n_components: int) -> list[str]:
    """What components are called that nobody has named."""
    return [str(k) for k in range(n_components)]


def read_names(folder: RunFolder, n_components: int) -> list[str]:
    """What each component of a run is called.

    Raises:
        ValueError: the file is damaged.
    """
    file = folder.path / NAMES
    if not file.is_file():
        return numbers(n_components)
    try:
        kept = parsed(file.read_text(encoding="utf-8"))
        check(kept, {str: str}, "it")
    except DAMAGE as error:
        raise ValueError(f"{file} is damaged ({error}): restore or delete it.") from error
    return [kept.get(number, number) for number in numbers(n_components)]


def write_names(folder: RunFolder, names: Sequence[str]) -> None:
    """Keeps the names in the run folder; those that are mere numbers are left out.

    Raises:
        Locked: another process writes to the folder, as a fit does.
    """
    kept = {str(k): name for k, name in enumerate(names) if name != str(k)}
    with folder.writing() if not folder.lock else nullcontext():
        if kept or (folder.path / NAMES).is_file():
            output.write_json(folder.path / NAMES, kept)


def renamed(names: Sequence[str], given: Mapping[int, str]) -> list[str]:
    """The names after some components got others, of which all are checked.

    Arguments:
        names: of all components, as they are
        given: new names by the numbers of their components; "" takes a name away

    Raises:
        ValueError: no such component, a name that cannot be one, or one that another component has
            already. Of those given together several may have the same: they are to count as one.
    """
    after = list(names)
    for k, text in given.items():
        if not 0 <= k < len(names):
            raise ValueError(f"There is no component {k}: they go from 0 to {len(names) - 1}.")
        after[k] = _checked(k, text)
    for k in given:
        for other, name in enumerate(after):
            if name == after[k] and other not in given:
                raise ValueError(
                    f"Component {other} is called {name!r} already: choose another name for "
                    f"component {k}, or name both together if they are to count as one."
                )
    return after


def _checked(k: int, text: str) -> str:
    """The name that a text gives to component k."""
    name = " ".join(text.split())
    if not name:
        return str(k)
    if name.isdigit() and name != str(k):
        raise ValueError(f"Component {k} cannot be called {name}: that is the number of another.")
    if printable(name) != name:
        raise ValueError(f"The name {printable(name)!r} has characters that cannot be seen.")
    if len(name) > LONGEST:
        raise ValueError(
            f"The name {name[:20]!r}... has {len(name)} letters: use {LONGEST} at most."
        )
    return name


def pairs_of(options: Iterable[str]) -> dict[int, str]:
    """Names by number, of texts such as ``0=starter``.

    Raises:
        ValueError: another form, or a component that is named twice.
    """
    found: dict[int, str] = {}
    for option in options:
        number, separator, name = option.partition("=")
        if not separator or not number.strip().isdecimal():
            raise ValueError(f"{option!r}: write NUMBER=NAME, as in 0=starter.")
        k = int(number)
        if k in found:
            raise ValueError(
                f"Component {k} is named twice, {found[k]!r} and {name!r}: once will do."
            )
        found[k] = name
    return found


def components_of(wanted: str | int, names: Sequence[str]) -> list[int]:
    """The components of a name, or the one of a number.

    Raises:
        ValueError: there is none; says which there are.
    """
    text = str(wanted).strip()
    for same in (lambda name: name == text, lambda name: name.casefold() == text.casefold()):
        if found := [k for k, name in enumerate(names) if same(name)]:
            return found
    if text.isdecimal() and int(text) < len(names):
        return [int(text)]
    known = [called(k, name) for k, name in enumerate(names)]
    more = f" and {len(known) - MOST_SHOWN} more" * (len(known) > MOST_SHOWN)
    raise ValueError(
        f"There is no component {printable(text)!r}: there are "
        f"{', '.join(known[:MOST_SHOWN])}{more}."
    )


def merged_names(names: Sequence[str], groups: Sequence[Sequence[int]]) -> list[str]:
    """What components are called that others are merged into: by the names of these, if any."""
    merged = []
    for k, group in enumerate(groups):
        given = dict.fromkeys(names[old] for old in group if names[old] != str(old))
        merged.append(" and ".join(given) or str(k))
    return merged


def labelled(probs: Float[np.ndarray, "n k"], names: Sequence[str]) -> dict[str, np.ndarray]:
    """The component of each row, its name if any has one, and the probability, each (n).

    Components of one name add up: the most probable name is taken, and of its components the most
    probable one.
    """
    named = list(dict.fromkeys(names))
    of_name = np.array([named.index(name) for name in names])
    together = np.stack([probs[:, of_name == i].sum(1) for i in range(len(named))], axis=1)
    best = together.argmax(1)
    component = np.where(best[:, None] == of_name, probs, -1.0).argmax(1)
    found = {"component": component}
    if is_named(names):
        found["name"] = np.array(named)[best]
    return {**found, "probability": together.max(1)}


def called(k: int, name: str) -> str:
    """A component's number with its name, if it has one."""
    return str(k) if name == str(k) else f"{k} ({name})"


def titled(k: int, name: str) -> str:
    """A component in a heading: its name and its number."""
    return f"Component {k}" if name == str(k) else f"{name} (component {k})"


def is_named(names: Sequence[str]) -> bool:
    """Whether any component has a name."""
    return list(names) != numbers(len(names))
