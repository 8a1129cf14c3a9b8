"""Changes files at random: whoever reads them says in one line what is wrong, soon and in little.

    python tests/soak/mutations.py [TRIES]

Files of data of every format, and the files of a run. A change is one of bytes (flipped, cut,
repeated, put in), of numbers in text, or of the structure of JSON.
"""

import io
import json
import random
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forks

SEED, TRIES = 0, 2000
MOST_SECONDS, MOST_BYTES = 10.0, 2**30
RUN = ("run.json", "history.jsonl", "evaluation.json", "training.safetensors", "model.safetensors")
TABLES = ("t.csv", "t.parquet", "t.npy", "t.npz")
IMAGES = ("0.png", "1.jpg", "2.gif", "3.tif", "4.webp", "5.bmp")
NUMBERS = ("-1", "0", "1e999", "NaN", "-Infinity", "10000000", "1e12", "99999999999999999999")
VALUES: tuple[Any, ...] = (
    *(None, True, "", "x", -1, 0, 3.5, 1e308, float("nan"), float("inf"), 10**7, 10**30),
    *([], {}, [[[]]], {"a": 1}, ["x"] * 3, [1e9] * 4),
)
FIT = ("fit", "t.csv", "-k", 3, "--model", "cpvae", "--max-epochs")


class Mutations:
    """Files to change, and what reads each of them.

    Arguments:
        place: an empty folder
    """

    def __init__(self, place: Path):
        import numpy as np
        import pandas
        from PIL import Image

        self.home, self.made, self.work = place, place / "made", place / "work"
        self.made.mkdir()
        rng = np.random.default_rng(0)
        x = rng.normal(size=(60, 2)).round(3)
        frame = pandas.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": rng.choice(["u", "v"], 60)})
        frame.to_csv(self.made / "t.csv", index=False)
        frame.to_parquet(self.made / "t.parquet")
        np.save(self.made / "t.npy", x)
        np.savez_compressed(self.made / "t.npz", x_train=x[:40], x_test=x[40:], y_train=x[:40, 0])
        (self.made / "images").mkdir()
        for number in range(24):
            name = IMAGES[number].split(".") if number < len(IMAGES) else (str(number), "png")
            grey = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8))
            grey.save(self.made / "images" / ".".join(name))
        self._must(*FIT, 3, "--out", "run")
        self._must("evaluate", "run", "--samples", 2)
        self._must("fit", "t.npy", "-k", 2, "--model", "cpvae", "--max-epochs", 1, "--out", "plain")
        self._must("fit", "images", "-k", 2, "--max-epochs", 1, "--out", "pictures")
        self._must("generate", "run", "-n", 3, "--out", "expected.csv")
        self.expected = (self.made / "expected.csv").read_bytes()
        self.of_kind: dict[str, list[str]] = {
            **{name: [name] for name in TABLES},
            "image": [f"images/{name}" for name in IMAGES],
            **{name: [f"run/{name}"] for name in RUN},
        }
        shutil.copytree(self.made, self.work)
        for info in self.work.glob("*/run.json"):  # where the data lie
            info.write_text(info.read_text().replace(str(self.made), str(self.work)))
        self.whole = forks.files_of(self.work)

    def _must(self, *arguments: object) -> None:
        ended = forks.run(self.made, *arguments)
        assert ended.code == 0, (arguments, ended)

    def attempt(self, number: int, kind: str | None = None) -> dict[str, Any]:
        """Changes a file once and has it read."""
        chance = random.Random(f"{SEED}-{number}")
        kinds = list(self.of_kind)
        kind = kind or kinds[number % len(kinds)]
        name = chance.choice(self.of_kind[kind])
        changed = mutated(self.whole[name], name, chance)
        (self.work / name).write_bytes(changed)
        readers = self._readers(kind, name)
        reader = chance.choice(sorted(readers))
        ended = forks.Copy(readers[reader], self.home / "told").wait()
        fault = self._fault(kind, reader, ended)
        self._put_back()
        outcome = "read" if ended.code == 0 else "refused" if ended.code == 2 else "failed"
        said = {"kind": kind, "outcome": outcome, "seconds": ended.seconds, "grown": ended.grown}
        if fault:
            kept = forks.ROOT / "build" / "soak" / f"mutation-{number}{Path(name).suffix}"
            kept.write_bytes(changed)
            said |= {"fault": fault, "reader": reader, "file": kept.name}
        return said

    def _readers(self, kind: str, name: str) -> dict[str, Callable[[], None]]:
        """Ways to read a file, by name."""

        def cli(*arguments: object) -> Callable[[], None]:
            return forks.command(self.work, *arguments)

        run = {"t.npy": "plain", "t.npz": "plain", "image": "pictures"}.get(kind, "run")
        data = "images" if kind == "image" else name
        assign = cli("assign", run, data, "--out", "out.csv", "--overwrite")
        generate = cli("generate", "run", "-n", 3, "--out", "out.csv", "--overwrite")
        share = cli("share", "run", "--out", "shared", "--overwrite")
        resume = cli(*FIT, 4, "--out", "run", "--resume")
        if kind in TABLES or kind == "image":
            return {"assign": assign, "plan": lambda: _plan(self.work / data)}
        of_table = cli("assign", "run", "t.csv", "--out", "out.csv", "--overwrite")
        return {
            "run.json": {"generate": generate, "share": share, "resume": resume, "use": of_table},
            "history.jsonl": {"resume": resume, "load": lambda: _load(self.work / "run")},
            "evaluation.json": {"share": share},
            "training.safetensors": {"resume": resume},
            "model.safetensors": {"generate": generate, "share": share},
        }[kind]

    def _fault(self, kind: str, reader: str, ended: forks.Ended) -> str:
        if not ended.is_clean:
            return f"{ended.code}: {ended.text[-1500:]}"
        if ended.seconds > MOST_SECONDS:
            return f"{ended.seconds} s"
        if ended.grown > MOST_BYTES:
            return f"{ended.grown} bytes"
        drawn = kind == "model.safetensors" and (reader, ended.code) == ("generate", 0)
        same = not drawn or (self.work / "out.csv").read_bytes() == self.expected
        return "" if same else "other draws, and no word"

    def _put_back(self) -> None:
        """All files as they were, and no others."""
        now = forks.files_of(self.work)
        for name in now:
            if name not in self.whole:
                (self.work / name).unlink()
        for name, content in self.whole.items():
            if now.get(name) != content:
                (self.work / name).write_bytes(content)


def _plan(source: Path) -> None:
    """Reads data and plans a fit, as `cpvae fit` does before it trains."""
    from cpvae import data
    from cpvae.training.fit import plan

    try:
        splits = data.load(str(source))
        plan(splits.train.x, splits.schema, {"n_components": 2})
    except (ValueError, OSError) as error:
        print(f"cpvae: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def _load(run: Path) -> None:
    from cpvae import CPVAE

    try:
        CPVAE.load(run)
    except ValueError as error:
        print(f"cpvae: {error}", file=sys.stderr)
        sys.exit(2)


# --- changes -------------------------------------------------------------------------------------


def mutated(content: bytes, name: str, chance: random.Random) -> bytes:
    """Content with one to three changes."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        content = _changed(content, name, chance)
    return content


def _changed(content: bytes, name: str, chance: random.Random) -> bytes:
    if name.endswith(".npz") and chance.random() < 0.6:
        return _in_archive(content, chance)
    if name.endswith((".json", ".jsonl")) and chance.random() < 0.7:
        return _in_json(content, name, chance)
    if name.endswith((".safetensors", ".npy")) and chance.random() < 0.6:
        return _in_head(content, name, chance)
    if name.endswith(".csv") and chance.random() < 0.6:
        return _in_text(content, chance)
    return _in_bytes(content, chance)


def _in_bytes(content: bytes, chance: random.Random) -> bytes:
    if not content:
        return chance.randbytes(4)
    changed, at = bytearray(content), chance.randrange(len(content))
    length = chance.choice((1, 1, 2, 4, 16, 200))
    how = chance.randrange(6)
    if how <= 1:
        changed[at] ^= 1 << chance.randrange(8)
    elif how == 2:
        changed[at : at + length] = chance.randbytes(length)
    elif how == 3:
        del changed[at : at + length]
    elif how == 4:
        changed[at:at] = changed[at : at + length] * chance.choice((1, 2, 50))
    else:
        del changed[at:]
    return bytes(changed)


def _in_text(content: bytes, chance: random.Random) -> bytes:
    """A cell, a line, or an odd character."""
    places = [found.span() for found in re.finditer(rb"-?\d+\.?\d*|\w+|,|\n", content)]
    if not places:
        return _in_bytes(content, chance)
    begin, end = chance.choice(places)
    odd = ("", '"', ",", "\n", "\r", "\0", ";", "\ufeff", "é", "=1+1", "2020-01-02", "a" * 5000)
    new = chance.choice((*NUMBERS, *odd)).encode(
        chance.choice(("utf-8", "utf-16", "latin-1")), "replace"
    )
    return content[:begin] + new + content[end:]


def _in_json(content: bytes, name: str, chance: random.Random) -> bytes:
    """A key that is gone, or another value; of a history in one of its lines."""
    lines = (
        content.decode(errors="replace").split("\n")
        if name.endswith("l")
        else [content.decode(errors="replace")]
    )
    at = chance.randrange(len(lines))
    try:
        value = json.loads(lines[at])
    except (ValueError, RecursionError):
        return _in_bytes(content, chance)
    if name.endswith("l") and chance.random() < 0.2:
        lines.insert(at, lines[at])
    lines[at] = json.dumps(_with_change(value, chance))
    if chance.random() < 0.03:
        lines[at] = "[" * 100_000
    return "\n".join(lines).encode()


def _with_change(value: Any, chance: random.Random) -> Any:
    """A value of JSON with another one somewhere inside."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(sorted(value))
        if chance.random() < 0.2:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: _with_change(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        at, how = chance.randrange(len(value)), chance.random()
        if how < 0.15:
            return value[:at] + value[at + 1 :]
        if how < 0.3:
            return value[: at + 1] + value[at:]
        return [*value[:at], _with_change(value[at], chance), *value[at + 1 :]]
    return chance.choice(VALUES)


def _in_head(content: bytes, name: str, chance: random.Random) -> bytes:
    """A number or a word in the text with which the file begins, of the same length."""
    end = 8 + int.from_bytes(content[:8], "little") if name.endswith("s") else 128
    places = [found.span() for found in re.finditer(rb"\d+|[A-Za-z_]{2,}", content[:end])]
    if not places:
        return _in_bytes(content, chance)
    begin, stop = chance.choice(places)
    new = bytes(
        chance.choice(b"0123456789" if content[begin : begin + 1].isdigit() else b"abF8")
        for _ in range(stop - begin)
    )
    return content[:begin] + new + content[stop:]


def _in_archive(content: bytes, chance: random.Random) -> bytes:
    """A member that is changed and packed again, is of another kind, or is gone."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:
        return _in_bytes(content, chance)
    if not members:
        return _in_bytes(content, chance)
    name, how = chance.choice(sorted(members)), chance.randrange(5)
    if how == 0:
        del members[name]
    elif how == 1:
        members[chance.choice(("x.npy", "a/../../b.npy", "x.txt", "y.npy"))] = members[name]
    elif how == 2:
        members[name] = _in_bytes(members[name], chance)
    else:
        members[name] = _in_head(members[name], "x.npy", chance)
    packed = io.BytesIO()
    method = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(packed, "w", method) as archive:
        for key, value in members.items():
            archive.writestr(key, value)
    return packed.getvalue()


def main() -> None:
    """All tries; those of an earlier call that was stopped are not made again."""
    tries = forks.by_hand(TRIES)
    forks.prepare()
    with forks.workplace() as place:
        mutations = Mutations(place)
        recipe = {"limits": {"seconds": MOST_SECONDS, "bytes": MOST_BYTES}}
        forks.soak("mutations", tries, mutations.attempt, recipe, SEED)


if __name__ == "__main__":
    main()
