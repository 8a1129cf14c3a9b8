"""What components are and are called, from the command line."""

import json

import jaxtyping
import pandas as pd
import pytest

from cpvae.checkpoint import RunFolder


@pytest.fixture(scope="module")
def folder(tmp_path_factory, segmented):
    """A run of a mixed table, and the table; tests change its names alone."""
    import sys

    from cpvae.cli import main as cli

    place = tmp_path_factory.mktemp("segments")
    frame, _ = segmented(300)
    frame.drop(columns=["same", "code", "noise"]).to_csv(place / "table.csv", index=False)
    arguments = ["fit", place / "table.csv", "-k", 3, "--max-epochs", 1, "--out", place / "run"]
    jaxtyping.config.update("jaxtyping_disable", True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("cpvae.cli.run.write_figures", lambda *_: {"components": place})
        patched.setattr(sys, "argv", ["cpvae", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    jaxtyping.config.update("jaxtyping_disable", False)
    assert not ended.value.code
    return place


def test_describe_prints_what_components_are(folder, cpvae):
    code, out, _ = cpvae("describe", folder / "run", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["n_rows"] == 300
    shares = [component["share"] for component in told["components"]]
    assert sum(shares) == pytest.approx(1, abs=1e-4)
    assert {column["column"] for column in told["components"][0]["columns"]} == {
        *("spend", "plan", "vip", "age"),
    }
    cpvae("assign", folder / "run", folder / "table.csv", "--out", folder / "a.csv", "--overwrite")
    assigned = pd.read_csv(folder / "a.csv")["component"]
    medians = pd.read_csv(folder / "table.csv").groupby(assigned)["spend"].median()
    for component in told["components"]:
        (spend,) = [each for each in component["columns"] if each["column"] == "spend"]
        assert spend["value"] == pytest.approx(medians[component["component"]], rel=1e-5)
    code, out, _ = cpvae("describe", folder / "run", folder / "table.csv")
    assert code == 0
    for word in ("component", "share", "what sets it apart", "spend", "median of", "typical row"):
        assert word in out


def test_names_are_kept_and_mistakes_told(folder, cpvae):
    run = folder / "run"
    assert cpvae("name", run)[1] == "0\n1\n2\n"
    assert cpvae("name", run, "0=low", "2=top spenders")[1] == "0 (low)\n1\n2 (top spenders)\n"
    assert json.loads((run / "names.json").read_text()) == {"0": "low", "2": "top spenders"}
    assert "2 (top" in cpvae("describe", run)[1]
    for wrong, told in (
        (["3=a"], "There is no component 3: they go from 0 to 2."),
        (["1=low"], "Component 0 is called 'low' already"),
        (["0=a", "0=b"], "Component 0 is named twice"),
        (["1=2"], "that is the number of another"),
        (["one=a"], "write NUMBER=NAME"),
        (["1"], "write NUMBER=NAME"),
        (["1=" + "a" * 61], "60 at most"),
        (["1=a\x1bb"], "cannot be seen"),
    ):
        code, _, err = cpvae("name", run, *wrong)
        assert code == 2
        assert told in err
        assert err.count("\n") == 1
    assert "one with component 1" in cpvae("name", run, "0=low", "1=low")[1]
    assert cpvae("name", run, "0=", "1=", "2=")[1] == "0\n1\n2\n"
    assert RunFolder(run).read_info()["status"] == "finished"
