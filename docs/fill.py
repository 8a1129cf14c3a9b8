"""Writes the tables of paper.md from the files in results/; `--check` only looks.

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cpvae.paper import cells, table1, toy

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(map(_shown, row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


TABLES: dict[str, Callable[[], str]] = {
    "toy sd": lambda: markdown(toy.rows(toy.run("sd", RESULTS / "toy"))),
    "toy variance": lambda: markdown(toy.rows(toy.run("variance", RESULTS / "toy"))),
    "table1": lambda: table1.table(cells.read(RESULTS / "table1")),
    "generation": lambda: markdown(table1.generation(cells.read(RESULTS / "table1"))),
}


def filled(text: str) -> str:
    """The page with every table drawn again."""

    def draw(match: re.Match[str]) -> str:
        return f"{match[1]}\n{TABLES[match[2]]()}\n{match[3]}"

    pattern = r"(<!-- begin (.+?) -->).*?(<!-- end \2 -->)"
    return re.sub(pattern, draw, text, flags=re.DOTALL)


def main() -> None:
    """Reads the arguments and fills the page, or says how it would change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail where a table is out of date")
    check = parser.parse_args().check
    page = HERE / "paper.md"
    before = page.read_text(encoding="utf-8")
    after = filled(before)
    if check:
        print("\n".join(difflib.unified_diff(before.split("\n"), after.split("\n"), lineterm="")))
        sys.exit(before != after)
    page.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
