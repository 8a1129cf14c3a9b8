"""Writes the tables of PAGES from the files in results/; `--check` only looks.

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cpvae.experiments import accuracy, cells, density, draws, intervals, real, table1, tables, toy

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
PAGES = ("paper.md", "accuracy.md", "table.md")


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(map(_shown, row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def seeds(name: str) -> str:
    """Every seed of a set of the accuracy experiment."""
    return markdown(accuracy.rows(accuracy.of(name, cells.read(RESULTS / "accuracy"))))


TABLES: dict[str, Callable[[], str]] = {
    "toy sd": lambda: markdown(toy.rows(toy.run("sd", RESULTS / "toy"))),
    "toy seeds": lambda: markdown(
        toy.seed_rows([toy.run("sd", RESULTS / "toy", seed) for seed in range(3)])
    ),
    "toy variance": lambda: markdown(toy.rows(toy.run("variance", RESULTS / "toy"))),
    "table1": lambda: table1.table(cells.read(RESULTS / "table1")),
    "started": lambda: table1.table(cells.read(RESULTS / "started"), table1.STARTED_CELLS),
    "generation": lambda: markdown(table1.generation(cells.read(RESULTS / "table1"))),
    "tables": lambda: markdown(tables.rows(tables.run_all(RESULTS / "tables"))),
    "real": lambda: markdown(real.rows(cells.read(RESULTS / "real"))),
    "comparison of others": lambda: markdown(
        real.comparison(cells.read(RESULTS / "real"), real.SETTLED_BY)
    ),
    "comparison": lambda: markdown(real.comparison(cells.read(RESULTS / "real"))),
    "moved": lambda: markdown(real.moved(cells.read(RESULTS / "real"))),
    "density": lambda: markdown(density.rows(cells.read(RESULTS / "density"))),
    "draws": lambda: markdown(draws.rows(cells.read(RESULTS / "draws"))),
    "intervals": lambda: markdown(intervals.rows(cells.read(RESULTS / "intervals"))),
    "accuracy": lambda: markdown(
        accuracy.summary(cells.read(RESULTS / "accuracy"), cells.read(RESULTS / "start"))
    ),
    "accuracy mnist-affine-k10": partial(seeds, "mnist-affine-k10"),
    "accuracy mnist-plain-k10": partial(seeds, "mnist-plain-k10"),
    "accuracy mnist-thin10-affine-k10": partial(seeds, "mnist-thin10-affine-k10"),
    "accuracy digits-learned-k10": partial(seeds, "digits-learned-k10"),
}


def filled(text: str) -> str:
    """The page with every table drawn again."""

    def draw(match: re.Match[str]) -> str:
        return f"{match[1]}\n{TABLES[match[2]]()}\n{match[3]}"

    pattern = r"(<!-- begin (.+?) -->).*?(<!-- end \2 -->)"
    return re.sub(pattern, draw, text, flags=re.DOTALL)


def main() -> None:
    """Reads the arguments and fills the pages, or says how they would change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail where a table is out of date")
    check = parser.parse_args().check
    stale = False
    for name in PAGES:
        page = HERE / name
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        stale |= before != after
        if check:
            lines = difflib.unified_diff(before.split("\n"), after.split("\n"), lineterm="")
            print("\n".join(lines))
        else:
            page.write_text(after, encoding="utf-8")
    sys.exit(check and stale)


if __name__ == "__main__":
    main()
