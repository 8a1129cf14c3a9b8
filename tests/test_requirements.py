"""What is installed is what may be installed."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


def lines(file):
    """Lines of a file of requirements, without remarks."""
    every = (line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    return [Requirement(line) for line in every if line]


def test_no_version_that_is_refused_is_locked_or_may_be_chosen():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(one for extra in extras for one in extra)]
    locked, refused = lines("constraints.txt"), lines("refused.txt")
    assert len(refused) >= 4
    assert len(locked) > 100
    for bad in refused:
        (version,) = (of.version for of in bad.specifier)
        for other in (*locked, *map(Requirement, wanted)):
            if other.name.lower().replace("_", "-") == bad.name:
                assert version not in other.specifier, f"{other} allows {version}"
