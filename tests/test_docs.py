"""Every Python block of the documents runs as it stands."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("without_shape_checks")

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = {page: re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL) for page in PAGES}


@pytest.mark.parametrize("page", [p for p in PAGES if BLOCKS[p]], ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run_in_order(page):
    seen: dict = {}
    for block in BLOCKS[page]:
        exec(block, seen)


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_no_line_is_lost_as_a_comment():
    """The site takes a line that begins with % for a comment, and leaves it out."""
    for page in PAGES:
        lines = page.read_text(encoding="utf-8").splitlines()
        assert [line for line in lines if line.startswith("%")] == [], page.name
