"""Lets two commands write to one place at once: each is refused, or it is as if they took turns.

    python tests/soak/races.py [TRIES]

What is left must be what is left where one of them was run alone, or one after the other.
"""

import random
import time
from pathlib import Path
from typing import Any

import forks
from kills import FIT, MORE, copy_runs, make_runs, without_times

SEED, TRIES = 0, 40
COMPACT = ("compact", "run", "--out", "run", "--overwrite")
SHARE = ("share", "run", "--out", "old", "--overwrite")
EVALUATE = ("evaluate", "run", "--samples", 2)
GENERATE = ("generate", "run", "--out", "new.csv", "--overwrite")
PAIRS: dict[str, tuple[tuple[object, ...], tuple[object, ...]]] = {
    "fit and fit": ((*FIT, "new"), (*FIT, "new")),
    "fit and fit, unnamed": (FIT[:-1], FIT[:-1]),
    "resume and resume": (MORE, MORE),
    "fit and resume": ((*FIT, "stopped", "--overwrite"), MORE),
    "compact and compact": (COMPACT, COMPACT),
    "compact and fit": (COMPACT, (*FIT, "run", "--overwrite")),
    "share and share": (SHARE, SHARE),
    "share and fit": (SHARE, (*FIT, "old", "--overwrite")),
    "evaluate and compact": (EVALUATE, COMPACT),
    "generate and generate": (GENERATE, (*GENERATE, "--seed", 1)),
}


class Races:
    """A place to race in, and what may be left of each pair.

    Arguments:
        place: an empty folder
        pairs: names of those that are tried
    """

    def __init__(self, place: Path, pairs: tuple[str, ...] = tuple(PAIRS)):
        self.home, self.made, self.work = place, place / "made", place / "work"
        make_runs(self.made)
        self.pairs, self.seconds = pairs, 1.0
        self.allowed = {name: self._turns(name) for name in pairs}

    def _fresh(self) -> None:
        copy_runs(self.made, self.work)

    def _turns(self, name: str) -> list[dict[str, Any]]:
        """What is left where the commands of a pair are run alone, or one after the other."""
        first, second = PAIRS[name]
        orders = [(first,), (second,), (first, second), (second, first)]
        left = []
        for order in orders[::2] if first == second else orders:
            self._fresh()
            begun = time.monotonic()
            for command in order:
                ended = forks.run(self.work, *command)
                assert ended.is_clean, (name, ended)
            self.seconds = (time.monotonic() - begun) / len(order)
            left.append(without_times(self.work))
        return left

    def attempt(self, number: int, name: str | None = None) -> dict[str, Any]:
        """Starts both commands of a pair, the second within the time that the first one takes."""
        chance = random.Random(f"{SEED}-{number}")
        name = name or self.pairs[number % len(self.pairs)]
        self._fresh()
        pause = 0.0 if chance.random() < 0.5 else chance.random() * self.seconds
        first = forks.Copy(forks.command(self.work, *PAIRS[name][0]), self.home / "told")
        time.sleep(pause)
        second = forks.Copy(forks.command(self.work, *PAIRS[name][1]), self.home / "told")
        ended = [first.wait(), second.wait()]
        refused = sum(one.code == 2 for one in ended)
        outcome = "one refused" if refused == 1 else "both refused" if refused else "took turns"
        said = {"kind": name, "outcome": outcome, "pause": round(pause, 3)}
        fault = ""
        if not all(one.is_clean for one in ended) or refused == 2:
            fault = f"ended: {ended}"
        elif without_times(self.work) not in self.allowed[name]:
            fault = f"left what neither leaves: {self._difference(name)}"
        elif left := forks.left_aside(self.work):
            fault = f"left aside: {left}"
        return said | ({"fault": fault} if fault else {})

    def _difference(self, name: str) -> str:
        now = without_times(self.work)
        return " or ".join(
            ", ".join(sorted(file for file in {*now, *one} if now.get(file) != one.get(file)))
            for one in self.allowed[name]
        )


def main() -> None:
    """All tries; those of an earlier call that was stopped are not made again."""
    tries = forks.by_hand(TRIES)
    forks.prepare()
    with forks.workplace() as place:
        races = Races(place)
        recipe = {name: [" ".join(map(str, c)) for c in pair] for name, pair in PAIRS.items()}
        forks.soak("races", tries, races.attempt, {"pairs": recipe}, SEED)


if __name__ == "__main__":
    main()
