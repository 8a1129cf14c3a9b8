import asyncio
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cpvae.checkpoint import RunFolder
from cpvae.data import Schema
from cpvae.models.build import build
from cpvae.report.explorer import STEPS, Explorer

# gradio and pandas warn about one another; warnings of our own are errors in the other files
pytestmark = pytest.mark.filterwarnings("default")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(autouse=True)
def _loops_are_closed(monkeypatch):
    """Gradio opens event loops at a launch and closes none; left open, they fail later tests."""
    made, new = [], asyncio.new_event_loop
    monkeypatch.setattr(asyncio, "new_event_loop", lambda: made.append(new()) or made[-1])
    yield
    for loop in made:
        loop.close()


@pytest.fixture(scope="module")
def explorers() -> dict[str, Explorer]:
    """Those made so far: each draws a map, which takes a while."""
    return {}


@pytest.fixture
def explorer(any_model, explorers, request, tmp_path) -> Explorer:
    """One explorer for each kind of model, shared by the tests; they change its names alone."""
    model = request.node.callspec.id
    if model not in explorers:
        x, schema = torch.rand(40, *any_model.shape), Schema(any_model.shape)
        explorers[model] = Explorer(any_model, x, schema, RunFolder(tmp_path))
    return explorers[model]


def test_walks_start_and_end_where_they_should(explorer):
    model = explorer.model
    ends = explorer.between(3, 7)[[0, -1]]
    torch.testing.assert_close(ends, model.reconstruct(explorer.x[[3, 7]]))
    inside = explorer.inside(model.n_components - 1, seed=4)
    assert inside.shape == (STEPS, *model.shape)
    assert torch.isfinite(inside).all()
    assert not torch.allclose(inside[0], inside[-1])
    with pytest.raises(ValueError, match="no example 40: they go from 0 to 39"):
        explorer.between(0, 40)


def test_neighbours_are_the_nearest_codes(explorer):
    found = explorer.neighbours(explorer.x[[5]]).tolist()
    distance = (explorer.codes - explorer.codes[5]).norm(dim=1).numpy()
    assert found[0] == 5
    np.testing.assert_allclose(distance[found], np.sort(distance)[: len(found)], rtol=1e-5)


def test_a_click_on_the_map_finds_the_point_under_it(explorer):
    before = explorer.map()
    for number in (0, 11, 39):
        column, row = explorer.places[number]
        found = explorer.at(round(column), round(row))
        assert np.abs(explorer.places[found] - [column, row]).max() < 1
        ring = (explorer.map(explorer.x[[number]]) != before).any(-1)
        rows, columns = ring.nonzero()
        assert abs((rows.min() + rows.max()) / 2 - row) < 2
        assert abs((columns.min() + columns.max()) / 2 - column) < 2
    np.testing.assert_array_equal(explorer.map(), before)


def test_names_are_kept_and_merge(explorer):
    k = explorer.model.n_components
    names = ["same"] * max(1, k - 1) + ["other"] * min(1, k - 1)
    explorer.rename(names)
    again = Explorer(explorer.model, explorer.x, explorer.schema, explorer.folder)
    assert again.names == names
    found, probs = again.label(explorer.x), explorer.probs.numpy()
    merged = probs[:, : max(1, k - 1)].sum(1)
    np.testing.assert_allclose(found["probability"], np.maximum(merged, 1 - merged), rtol=1e-4)
    inside = np.where(np.array(names) == found["name"][:, None], probs, -1)
    np.testing.assert_array_equal(found["component"], inside.argmax(1))
    with pytest.raises(ValueError, match=f"There are {k} components: give each of them a name"):
        explorer.rename(["a"] * (k + 1))
    explorer.rename([" "] * k)
    assert explorer.names == [str(i) for i in range(k)]


def test_names_go_by_the_number_of_the_component(tmp_path):
    model = build(shape=(2,), likelihood="gaussian", n_components=12, latent_dim=2, hidden=(4,))
    twelve = Explorer(model.eval(), torch.rand(40, 2), Schema((2,)), RunFolder(tmp_path))
    names = [f"name {k}" for k in range(12)]
    for numbers in (sorted(range(12), key=str), [str(k) for k in range(12)], [11.0, *range(11)]):
        twelve.rename_by_number(numbers, [names[int(k)] for k in numbers])
        assert twelve.names == names
    for wrong, said in (
        ([0, *range(11)], "give each of them one name"),
        (["x"] * 12, "no numbers"),
    ):
        with pytest.raises(ValueError, match=said):
            twelve.rename_by_number(wrong, names)


def test_without_its_data_a_run_is_looked_at_through_what_it_generates(any_model, tmp_path):
    alone = Explorer(any_model, None, Schema(any_model.shape), RunFolder(tmp_path))
    assert alone.generated
    assert alone.x.shape == (600, *any_model.shape)


def test_errors_are_told_without_paths():
    from cpvae.report.app import _in_words

    for error, told in (
        (ValueError("/tmp/gradio/1f2/my table.csv lacks 'd'."), "my table.csv lacks 'd'."),
        (ValueError("read C:\\a\\b\\t.csv: column a"), "read t.csv: column a"),
        (FileNotFoundError(2, "No such file", "/var/x/t.csv"), "No such file: t.csv"),
        (KeyError("x"), "This could not be done (KeyError): try another file or number."),
        (ValueError("1/2 and od280/od315 are fine"), "1/2 and od280/od315 are fine"),
    ):
        assert _in_words(error) == told


def test_examples_are_called_by_their_names(explorer):
    assert explorer.called(3) == "Example 3"
    rows = [f"{i}.png" for i in range(40)]
    folder, k = explorer.folder, explorer.model.n_components
    named = Explorer(explorer.model, explorer.x, explorer.schema, folder, rows)
    assert named.called(3) == "3.png"
    told = [named.profile(i) for i in range(k)]
    assert sum(segment.n_rows for segment in told) == 40
    assert bool(told[0].open) is not named.is_image


def test_a_sheet_of_counts_holds_whole_numbers(tmp_path):
    units = {"loc": (0.0,) * 3, "scale": (1.0,) * 3}
    schema = Schema((3,), ("a", "b", "c"), kinds=("count", "binary", "gaussian"), **units)
    config = {"likelihood": "mixed", "n_components": 2, "latent_dim": 2, "hidden": [8]}
    model = build(**config, **schema.features())
    explorer = Explorer(model, None, schema, RunFolder(tmp_path))
    sheet = explorer.sheet(explorer.draw(1, 5, 0))
    assert [dtype.kind for dtype in sheet.dtypes] == ["i", "i", "f"]


# --- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("no chromium on this machine: the explorer's page is not tried")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)  # a machine may be busy
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, tmp_path, monkeypatch):
    """Fits a little, serves the explorer, opens its page; that loads nothing from elsewhere."""
    from cpvae.cli.main import main
    from cpvae.cli.use import explore
    from cpvae.report import app

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    opened, errors, requested = [], [], []

    def visit(*arguments: str):
        run = tmp_path / "run"
        blocks = []
        with monkeypatch.context() as patched:
            argv = ["cpvae", "fit", *arguments, "--max-epochs", "3", "--out", str(run)]
            patched.setattr("sys.argv", argv)
            with pytest.raises(SystemExit) as ended:
                main()
            assert not ended.value.code
            patched.setattr(app, "serve", lambda served, port, browser: blocks.append(served))
            explore(run, None, False)
        address = app.serve(blocks[0], None, False, wait=False)
        opened.append(blocks[0])
        assert address.startswith("http://127.0.0.1:")
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(address)
        opened.append(page)
        return page, run

    yield visit
    for thing in reversed(opened):
        thing.close()
    assert [url for url in requested if not url.startswith(("http://127.0.0.1", "data:"))] == []
    assert errors == []


def source(page, place: str) -> str:
    image = page.locator(f"#{place} img")
    image.wait_for()
    page.wait_for_function(f"document.querySelector('#{place} img').naturalWidth > 0")
    return image.get_attribute("src")


def changes(page, place: str, action) -> None:
    """Does something, and waits until a picture is another one."""
    from playwright.sync_api import expect

    before = source(page, place) if page.locator(f"#{place} img").count() else ""
    action()
    expect(page.locator(f"#{place} img")).not_to_have_attribute("src", before)


def choose(page, label: str, number: int) -> None:
    page.get_by_label(label).locator("visible=true").click()
    page.get_by_role("option").nth(number).click()


def test_every_control_of_the_page_for_images(visit, tmp_path):
    from PIL import Image
    from playwright.sync_api import expect

    page, run = visit("digits", "-k", "4")
    expect(page.locator("#profile")).to_contain_text("% of the examples")
    changes(page, "drawn", lambda: page.click("#again"))
    changes(page, "drawn", lambda: choose(page, "Component", 2))
    source(page, "real")

    page.get_by_role("tab", name="Map").click()
    source(page, "map")
    changes(page, "nearest", lambda: page.locator("#map img").click())
    expect(page.locator("#clicked")).to_contain_text("probability")

    page.get_by_role("tab", name="Walk").click()
    page.locator("#second input").fill("5")
    changes(page, "walk", lambda: page.click("#between"))
    changes(page, "walk", lambda: page.click("#inside"))
    choose(page, "Component", 1)
    changes(page, "walk", lambda: page.click("#inside"))
    page.locator("#second input").fill("5000")
    page.click("#between")
    expect(page.get_by_text("There is no example 5000")).to_be_visible()

    page.get_by_role("tab", name="Names").click()
    for row in (0, 1):
        cell = page.locator(f"#names [data-testid=cell-{row}-2]")
        cell.dblclick()
        box = cell.locator("textarea, input")
        box.fill("round")
        box.press("Enter")
        expect(cell).to_contain_text("round")
    page.click("#keep")
    expect(page.locator("#kept")).to_contain_text("3 different names")
    largest = RunFolder(run).read_model().aggregated.topk(2).indices.tolist()
    kept = json.loads((run / "names.json").read_text())
    assert {int(k) for k in kept if kept[k] == "round"} == set(largest)
    page.click("#export")
    with page.expect_download() as download:
        page.locator("#labels a").first.click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0] == "row,component,name,probability"
    assert len(lines) == 1 + 1797

    page.get_by_role("tab", name="Your example").click()
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[1:7, 3:5] = 255
    Image.fromarray(pixels).save(tmp_path / "one.png")
    changes(
        page,
        "beside",
        lambda: page.locator("#yours input[type=file]").set_input_files(tmp_path / "one.png"),
    )
    expect(page.locator("#where [data-testid=cell-0-1]")).to_have_text(re.compile(r"\d"))


def test_the_page_for_tables(visit, tmp_path, blobs):
    from playwright.sync_api import expect

    table = tmp_path / "blobs.csv"
    np.savetxt(table, blobs[0], delimiter=",", header="a,b,c,d", comments="")
    page, _ = visit(str(table), "-k", "3")
    expect(page.locator("#drawn [data-testid=cell-11-3]")).to_be_visible()
    expect(page.locator("#profile li").first).to_contain_text("median of all")
    assert page.locator("#profile svg").count() == 4
    page.locator("#many input").fill("30")
    page.click("#get")
    with page.expect_download() as download:
        page.locator("#file a").first.click()
    assert len(Path(download.value.path()).read_text().splitlines()) == 31
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.set_viewport_size({"width": 1300, "height": 1000})
    page.get_by_role("tab", name="Map").click()
    source(page, "map")
    page.locator("#map img").click()
    expect(page.locator("#nearest [data-testid=cell-11-3]")).to_be_visible()
    page.get_by_role("tab", name="Your example").click()
    page.locator("#yours input[type=file]").set_input_files(table)
    expect(page.locator("#where [data-testid=cell-0-1]")).to_have_text(re.compile(r"\d"))
    np.savetxt(table, blobs[0][:, :3], delimiter=",", header="a,b,c", comments="")
    page.locator("#yours").get_by_label("Remove").or_(
        page.locator("#yours").get_by_label("Clear")
    ).first.click()
    page.locator("#yours input[type=file]").set_input_files(table)
    expect(page.get_by_text("blobs.csv has no column 'd'")).to_be_visible()
    assert page.get_by_text("/gradio/").count() == 0


@pytest.mark.parametrize("shape", [(6,), (1, 5, 6)])
def test_a_port_that_is_taken_is_reported(shape, build_small, tmp_path):
    import socket

    from cpvae.report import app

    explorer = Explorer(build_small({"shape": shape}), None, Schema(shape), RunFolder(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"Port {port} is taken: choose another --port"):
            app.serve(app.page(explorer, "a run", lambda file: None), port, False, wait=False)
