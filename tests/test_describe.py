"""What components are and are called, from the command line."""

import json

import jaxtyping
import pandas as pd
import pytest
import torch

from cpvae.checkpoint import RunFolder
from cpvae.data import read
from cpvae.data.described import with_described
from cpvae.estimator import CPVAE
from cpvae.names import called
from cpvae.report.segments import segments
from cpvae.report.words import percent


@pytest.fixture(scope="module")
def folder(tmp_path_factory, segmented):
    """A run of a mixed table, and the table; tests change its names alone."""
    import sys

    from cpvae.cli import main as cli

    place = tmp_path_factory.mktemp("segments")
    frame, _ = segmented(300)
    frame["region"] = ["north", "south"] * 150
    frame.drop(columns=["same", "code"]).to_csv(place / "table.csv", index=False)
    arguments = ["fit", place / "table.csv", "-k", 3, "--max-epochs", 1, "--out", place / "run"]
    arguments += ["--drop", "noise", "--describe", "region"]
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
        *("spend", "plan", "vip", "age", "region"),
    }
    assert "region" not in RunFolder(folder / "run").read_schema().names
    cpvae("assign", folder / "run", folder / "table.csv", "--out", folder / "a.csv", "--overwrite")
    assigned = pd.read_csv(folder / "a.csv")["component"]
    medians = pd.read_csv(folder / "table.csv").groupby(assigned)["spend"].median()
    for component in told["components"]:
        (spend,) = [each for each in component["columns"] if each["column"] == "spend"]
        (region,) = [each for each in component["columns"] if each["column"] == "region"]
        mine = pd.read_csv(folder / "table.csv")["region"][assigned == component["component"]]
        for level in region["levels"]:
            assert level["share"] == pytest.approx((mine == level["level"]).mean(), abs=1e-5)
        assert spend["value"] == pytest.approx(medians[component["component"]], rel=1e-5)
    run = RunFolder(folder / "run")
    wide, schema = with_described(
        read(folder / "table.csv", schema=run.read_schema()).x,
        run.read_schema(),
        run.read_info()["data"],
    )
    x = torch.from_numpy(wide[:, : len(run.read_schema().names)])
    segment = segments(run.read_model(), x, run.read_schema(), ["a", "b", "c"], [0], (wide, schema))
    assert [p.name for p in segment[0].open if "region" in p.name] == ["region (not fitted)"]
    said = cpvae("describe", folder / "run")[1]  # what was asked for is told, telling or not
    assert said.count("│ region ") == len(told["components"])
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


def test_names_are_known_to_all_commands(folder, cpvae):
    run, new = folder / "run", folder / "new.csv"
    cpvae("name", run, "0=low", "1=up & coming", "2=up & coming")
    try:
        assert "component 0 (low)" in cpvae("generate", run, "-c", "Low", "--out", new)[1]
        assert set(pd.read_csv(new)["component"]) == {0}
        code, out, _ = cpvae(
            "generate", run, "-c", "up & coming", "-n", 200, "--out", new, "--overwrite"
        )
        assert code == 0
        drawn = pd.read_csv(new)["component"].value_counts(normalize=True)
        shares = RunFolder(run).read_model().aggregated[1:]
        assert set(drawn.index) == {1, 2}
        assert drawn[1] == pytest.approx(float(shares[0] / shares.sum()), abs=0.12)
        code, _, err = cpvae("generate", run, "-c", "lo", "--out", new, "--overwrite")
        assert code == 2
        assert "no component 'lo': there are 0 (low), 1 (up & coming), 2" in err
        _, out, _ = cpvae("assign", run, folder / "table.csv", "--out", new, "--overwrite")
        assert "0 (low): " in out
        labels = pd.read_csv(new)
        merged = labels["p_1"] + labels["p_2"]
        assert (labels["name"] == merged.gt(0.5).map({True: "up & coming", False: "low"})).all()
        assert labels["probability"].tolist() == pytest.approx(
            merged.where(merged > 0.5, 1 - merged).tolist(), abs=1e-5
        )
        assert (labels["component"] == 0).eq(labels["name"] == "low").all()
        shared = folder / "shared"
        assert cpvae("share", run, "--out", shared)[0] == 0
        assert cpvae("name", shared)[1].startswith(
            "0 (low)\n1 (up & coming)   one with component 2"
        )
    finally:
        cpvae("name", run, "0=", "1=", "2=")


def test_from_python(folder):
    table = pd.read_csv(folder / "table.csv").drop(columns=["noise", "region"])
    model = CPVAE.load(folder / "run")
    assert model.names_ == ["0", "1", "2"]
    told = model.name({1: "one"}).describe(table)
    component = model.predict(table)
    assert [profile.n_rows for profile in told] == [sum(component == k) for k in range(3)]
    lines = str(told).splitlines()
    assert lines[0].startswith(f"Component 0: {100 * told[0].share:.0f} %, {told[0].n_rows} of 300")
    assert any(line.startswith("one (component 1): ") for line in lines)
    assert any(line.startswith("  spend ") for line in lines)
    assert set(model.sample(5, component="one")[1]) == {1}
    assert set(model.sample(5, component=2)[1]) == {2}
    with pytest.raises(ValueError, match="There is no component 'two': there are 0, 1 .one., 2"):
        model.sample(5, component="two")
    with pytest.raises(ValueError, match="Component 1 is called 'one' already"):
        model.name({2: "one"})
    model.save(folder / "saved")
    assert CPVAE.load(folder / "saved").names_ == ["0", "one", "2"]
    model.compact(table, tolerance=1e9)
    assert model.names_ == ["one"]


def test_components_are_numbered_by_size(folder):
    shares = RunFolder(folder / "run").read_model().aggregated
    assert (shares.diff() <= 0).all()
    assert shares[0] > shares[2]


def test_a_new_fit_takes_names_over(folder, cpvae, without_pictures, without_shape_checks):
    run, later, new = folder / "run", folder / "later.csv", folder / "later"
    table = pd.read_csv(folder / "table.csv")
    cpvae("assign", run, folder / "table.csv", "--out", folder / "a.csv", "--overwrite")
    component = pd.read_csv(folder / "a.csv")["component"]
    table[(component != 0) | (table.index % 5 == 0)].to_csv(later, index=False)  # 0 is small now
    fit = ("fit", later, "-k", 3, "--max-epochs", 1, "--out", new, "--names-from", run)
    fit += ("--drop", "noise", "--drop", "region")
    code, _, err = cpvae(*fit)
    assert code == 2
    assert "No component of" in err
    assert not new.exists()
    cpvae("name", run, "0=low", "1=middle", "2=top")
    code, _, err = cpvae(*fit)
    assert code == 0
    labels = []
    for _ in range(2):
        names = cpvae("name", new)[1]
        assert "0 (low)" not in names
        cpvae("assign", new, later, "--out", folder / "b.csv", "--overwrite")
        labels.append(pd.read_csv(folder / "b.csv")["name"])
        if len(labels) == 1:  # names stay with their rows when the fit goes on
            assert cpvae("fit", later, "--out", new, "--resume", "--max-epochs", 2)[0] == 0
    cpvae("assign", run, later, "--out", folder / "c.csv")
    stayed = (labels[0] == pd.read_csv(folder / "c.csv")["name"]).mean()
    assert stayed > 0.5
    assert f"{percent(float(stayed))} of the rows are where they were" in err
    assert (labels[0] == labels[1]).mean() > 0.9
    model = CPVAE.load(new).name(dict.fromkeys(range(3), ""))
    assert model.names_ == ["0", "1", "2"]
    rows = pd.read_csv(later).drop(columns=["noise", "region"])
    model.name_like(CPVAE.load(run), rows)
    assert [called(k, name) for k, name in enumerate(model.names_)] == names.splitlines()
    assert {"middle", "top"} <= set(model.names_)
    cpvae("name", run, "0=", "1=", "2=")
