"""Kills commands at any moment: nothing is lost, and what is run again ends as if never killed.

    python tests/soak/kills.py [TRIES]

Half of the kills come at a random moment, half at a random one of the operations on files, before
it is carried out.
"""

import itertools
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import forks

SEED, TRIES = 0, 200
FIT = ("fit", "t.csv", "-k", 3, "--model", "cpvae", "--max-epochs", 6, "--out")
MORE = ("fit", "t.csv", "--resume", "--max-epochs", 6, "--out", "stopped")
# command, how to finish what was killed, what it writes, how many of a round
COMMANDS: dict[str, tuple[tuple[object, ...], tuple[object, ...], str, int]] = {
    "fit": ((*FIT, "new"), (*FIT, "new", "--resume"), "new", 12),
    "resume": (MORE, MORE, "stopped", 12),
    "compact": (*[("compact", "run", "--out", "run", "--overwrite")] * 2, "run", 6),
    "generate": (*[("generate", "run", "--out", "new.csv", "--overwrite")] * 2, "new.csv", 5),
    "assign": (
        *[("assign", "run", "t.csv", "--out", "a.parquet", "--overwrite")] * 2,
        "a.parquet",
        5,
    ),
    "share": (*[("share", "run", "--out", "old", "--overwrite")] * 2, "old", 5),
    "evaluate": (*[("evaluate", "run", "--samples", 2)] * 2, "run", 3),
    "export": (*[("export", "run", "--out", "onnx", "--overwrite")] * 2, "onnx", 1),
    "report": (*[("report", "run", "--out", "page.html", "--overwrite")] * 2, "page.html", 1),
}
ROUND = [name for name, command in COMMANDS.items() for _ in range(command[3])]
TIMES = ("seconds", "started", "versions", "examples_per_second")
OPERATIONS = ("rename", "replace", "link", "unlink", "rmdir", "mkdir", "fsync", "open")


def make_runs(place: Path) -> None:
    """Writes a table into a new folder, and three runs that were fitted to it."""
    import numpy as np
    import pandas

    place.mkdir()
    x = np.random.default_rng(0).normal(size=(80, 2)) + np.arange(80)[:, None] % 3 * 4
    pandas.DataFrame(x, columns=["a", "b"]).to_csv(place / "t.csv", index=False)
    for name, epochs in (("run", 3), ("old", 2), ("stopped", 3)):
        ended = forks.run(place, *FIT[:7], epochs, "--out", name)
        assert ended.code == 0, (name, ended)


def copy_runs(made: Path, work: Path) -> None:
    """Puts a copy of what `make_runs` wrote in the place of whatever is there."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(made, work)
    for info in work.glob("*/run.json"):  # where the data lie
        info.write_text(info.read_text().replace(str(made), str(work)))


class Kills:
    """Places to kill in, and what each command leaves that is not killed.

    Arguments:
        place: an empty folder
        commands: names of those that are tried
    """

    def __init__(self, place: Path, commands: tuple[str, ...] = tuple(COMMANDS)):
        self.home, self.made, self.work = place, place / "made", place / "work"
        make_runs(self.made)
        (self.made / "run" / "mine.txt").write_text("mine")
        self.made.joinpath("new.csv").write_text("of before")
        self.expected, self.twice, self.seconds, self.operations = {}, {}, {}, {}
        for name in commands:
            self._measure(name)

    def _fresh(self) -> None:
        copy_runs(self.made, self.work)

    def _measure(self, name: str) -> None:
        """Runs a command whole, and keeps what it leaves, its time and its operations."""
        self._fresh()
        command, _, out, _ = COMMANDS[name]
        counted = self.home / "count"
        begun = time.monotonic()
        ended = forks.Copy(_counting(self.work, command, counted), self.home / "told").wait()
        assert ended.code == 0, (name, ended)
        self.seconds[name] = time.monotonic() - begun
        self.operations[name] = int(counted.read_text())
        self.expected[name] = plain(self.work, out)
        self.twice[name] = self.expected[name]
        if name == "compact":  # of what is compact, which says that it was so before
            assert forks.run(self.work, *command).code == 0
            self.twice[name] = plain(self.work, out)

    def attempt(self, number: int, name: str | None = None) -> dict[str, Any]:
        """Kills a command once, runs it again, and compares."""
        chance = random.Random(f"{SEED}-{number}")
        name = name or ROUND[number % len(ROUND)]
        command, again, out, _ = COMMANDS[name]
        self._fresh()
        before = forks.files_of(self.work)
        told = self.home / "told"
        if chance.random() < 0.5:
            moment = chance.randrange(self.operations[name])
            copy = forks.Copy(_dying(self.work, command, moment), told)
        else:
            moment = chance.random() * 1.05 * self.seconds[name]
            copy = forks.Copy(forks.command(self.work, *command), told)
            time.sleep(moment)
            copy.kill()
        ended = copy.wait()
        outcome = "killed" if ended.code == -signal.SIGKILL else "was quicker"
        fault = self._lost(name, before)
        if not fault and (second := forks.run(self.work, *again)).code:
            fault = f"again: {second}"
        if not fault:
            fault = self._unequal(name) or self._untidy()
        said = {"kind": name, "outcome": outcome, "moment": moment}
        return said | ({"fault": fault} if fault else {})

    def _lost(self, name: str, before: dict[str, bytes]) -> str:
        """What is not as it was right after the kill, beside what the command writes."""
        now, out = forks.files_of(self.work), COMMANDS[name][2]
        theirs = {file: text for file, text in before.items() if not file.startswith(out)}
        for file, text in theirs.items():
            if now.get(file) != text:
                return f"{file} changed"
        if name in ("fit", "resume"):
            return ""
        if out == "run" and not (self.work / "run").exists():  # between the two renames
            ended = forks.run(self.work, "evaluate", "run", "--samples", 2)
            return f"the run is gone: {ended}" if ended.code else ""
        whole = {
            file: (before.get(file), *versions)
            for file, versions in self._of_expected(name).items()
        }
        for file, text in now.items():
            if file in whole and _plain(file, text) not in [
                None if v is None else _plain(file, v) if isinstance(v, bytes) else v
                for v in whole[file]
            ]:
                return f"{file} is neither the old one nor the new one"
        return ""

    def _of_expected(self, name: str) -> dict[str, tuple[Any, ...]]:
        return {file: (content,) for file, content in self.expected[name].items()}

    def _unequal(self, name: str) -> str:
        found, expected = plain(self.work, COMMANDS[name][2]), self.expected[name]
        if found == self.twice[name]:  # it was killed when all was done
            return ""
        for file in sorted({*found, *expected}):
            if found.get(file) != expected.get(file):
                return f"{file} is not what it is without a kill"
        return ""

    def _untidy(self) -> str:
        left = forks.left_aside(self.work)
        return f"left aside: {left}" if left else ""


def plain(work: Path, out: str) -> dict[str, Any]:
    """What a command wrote, without times."""
    path = work / out
    files = forks.files_of(path) if path.is_dir() else {"": path.read_bytes()}
    names = {f"{out}/{file}" if file else out: text for file, text in files.items()}
    return {file: _plain(file, text) for file, text in names.items()}


def without_times(work: Path) -> dict[str, Any]:
    """All files of a folder, without times."""
    return {file: _plain(file, content) for file, content in forks.files_of(work).items()}


def _plain(file: str, content: bytes) -> Any:
    """Content of a file without times, and pictures and pages by their kind alone."""
    if file.endswith((".json", ".jsonl")) and content:
        lines = content.decode().splitlines() if file.endswith("l") else [content.decode()]
        return [_without(json.loads(line), TIMES) for line in lines]
    if file.endswith("training.safetensors"):  # in its head are times
        import safetensors.torch

        tensors = safetensors.torch.load(content)
        return {key: tensor.numpy().tobytes() for key, tensor in tensors.items()}
    if file.endswith(".html"):  # has times of epochs
        return content[:15], b"</html>" in content[-20:]
    return content


def _without(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {key: _without(v, names) for key, v in value.items() if key not in names}
    return value


def _counting(place: Path, command: tuple[object, ...], into: Path) -> Any:
    """A command that says how many operations on files it made."""
    counter = itertools.count()

    def run() -> None:
        _each_operation(lambda: next(counter))
        try:
            forks.command(place, *command)()
        finally:
            made = next(counter)
            os.write(os.open(into, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), str(made).encode())

    return run


def _dying(place: Path, command: tuple[object, ...], moment: int) -> Any:
    """A command that is killed before one of its operations on files."""
    left = iter(range(moment))

    def die() -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    def run() -> None:
        _each_operation(die)
        forks.command(place, *command)()

    return run


def _each_operation(what: Any) -> None:
    """Has something happen before each operation on files of this process."""

    def before(function: Any) -> Any:
        def called(*given: Any, **options: Any) -> Any:
            what()
            return function(*given, **options)

        return called

    for name in OPERATIONS:
        setattr(os, name, before(getattr(os, name)))


def main() -> None:
    """All tries; those of an earlier call that was stopped are not made again."""
    tries = forks.by_hand(TRIES)
    forks.prepare()
    with forks.workplace() as place:
        kills = Kills(place)
        recipe = {"commands": {name: " ".join(map(str, c[0])) for name, c in COMMANDS.items()}}
        forks.soak("kills", tries, kills.attempt, recipe, SEED)


if __name__ == "__main__":
    main()
