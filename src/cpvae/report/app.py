"""The explorer in the browser: one page about a run, served on this machine and to it alone."""

import functools
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cpvae.choices import TABLES
from cpvae.names import titled
from cpvae.report.explorer import Explorer
from cpvae.report.guard import FOLDER, KEPT, MOST_UPLOADED, Guard, without_paths
from cpvae.report.panels import DRAWN
from cpvae.report.segments import Segment
from cpvae.text import in_markdown, printable

SHOWN = 12  # examples of a component
MOST_DRAWN = 100_000  # examples in a file
LEGEND = (
    f"<p><small>Bars: real examples of the component; <span style='color: {DRAWN}'>lines</span>: "
    f"generated from it; grey: all examples.</small></p>"
)
GRID = "display: grid; grid-template-columns: repeat(auto-fill, minmax(148px, 1fr)); gap: 1rem"

# gives examples (n, ...) and their names from a file, or all those of the run from None
Read = Callable[[str | None], tuple[Tensor, Sequence[str] | None]]


def page(explorer: Explorer, title: str, read: Read) -> Any:
    """The page as Gradio blocks, a tab for each thing to do.

    Arguments:
        explorer: what is shown
        title: of the run
        read: see `Read`
    """
    import gradio as gr

    name = f"{printable(title)} - cpvae"
    with gr.Blocks(title=name, analytics_enabled=False, delete_cache=KEPT) as blocks:
        gr.Markdown(f"# {in_markdown(title)}\n" + _summary(explorer))
        # an example that is clicked on the map becomes the one that a walk starts from
        start = gr.Number(0, label="From example", precision=0, elem_id="first", render=False)
        with gr.Tab("Components"):
            component = _components_tab(explorer, blocks)
        with gr.Tab("Map"):
            _map_tab(explorer, start)
        with gr.Tab("Walk"):
            walked = _walk_tab(explorer, start)
        with gr.Tab("Names"):
            _names_tab(explorer, read, [component, walked])
        with gr.Tab("Your example"):
            _example_tab(explorer, read)
    return blocks


# --- the tabs ------------------------------------------------------------------------------------


def _components_tab(explorer: Explorer, blocks: Any) -> Any:
    """New examples of a component beside real ones; returns the list to choose it from."""
    import gradio as gr

    def draw(component: int, seed: int) -> Any:
        return explorer.sheet(explorer.draw(component, SHOWN, seed))

    def real(component: int) -> Any:
        return explorer.sheet(explorer.real(component, SHOWN))

    def tell(component: int) -> str:
        return _profile(explorer.profile(component))

    def download(component: int, seed: int, n: int | None) -> Any:
        return gr.File(_drawn_file(explorer, component, seed, n), visible=True)

    with gr.Row(equal_height=True):
        component = _dropdown(explorer)
        again = _button("Draw again", "again")
    profile = gr.HTML(elem_id="profile")
    seed = gr.State(0)
    with gr.Row():
        new = _sheet(explorer, "New examples, drawn from the component", "drawn")
        old = _sheet(explorer, "Examples that most clearly belong to it", "real")
    with gr.Row(equal_height=True):
        n = gr.Number(1000, label="How many to download", precision=0, elem_id="many")
        get = _button("Draw them to a file", "get")
    file = gr.File(label="Drawn", interactive=False, visible=False, elem_id="file")
    again.click(_next, seed, seed).then(draw, [component, seed], new)
    get.click(_guarded(download), [component, seed, n], file)
    component.change(tell, component, profile).then(draw, [component, seed], new).then(
        real, component, old
    )
    blocks.load(tell, component, profile).then(draw, [component, seed], new).then(
        real, component, old
    )
    return component


def _map_tab(explorer: Explorer, start: Any) -> None:
    """All codes in two dimensions; the example that is clicked goes into ``start`` as well."""
    import gradio as gr

    def click(event: gr.SelectData) -> tuple[Any, ...]:
        number = explorer.at(*event.index)
        x = explorer.x[[number]]
        label = explorer.label(x)
        title = in_markdown(_title(explorer, int(label["component"][0])))
        called = in_markdown(explorer.called(number))
        text = f"{called}: **{title}**, probability {label['probability'][0]:.2f}"
        return explorer.map(x), text, _around(explorer, x), number

    gr.Markdown(
        "The codes of the examples on their first two axes, coloured by component. Click a point "
        "to see its example and those with the nearest codes."
    )
    with gr.Row():
        chart = gr.Image(
            explorer.map(), show_label=False, interactive=False, buttons=[], elem_id="map"
        )
        with gr.Column():
            clicked = gr.Markdown("No example chosen yet.", elem_id="clicked")
            nearest = _sheet(explorer, "The example, then its neighbours", "nearest")
    chart.select(click, None, [chart, clicked, nearest, start])


def _walk_tab(explorer: Explorer, start: Any) -> Any:
    """What lies between two examples, or within a component; returns the list of components."""
    import gradio as gr

    def between(first: int | None, second: int | None) -> Any:
        if first is None or second is None:
            raise ValueError("Give the numbers of two examples.")
        return explorer.sheet(explorer.between(first, second), drawn=False)

    def inside(component: int, seed: int) -> Any:
        return explorer.sheet(explorer.inside(component, seed), drawn=False)

    with gr.Row(equal_height=True):
        start.render()
        end = gr.Number(1, label="To example", precision=0, elem_id="second")
        from_to = _button("Walk from one to the other", "between")
    with gr.Row(equal_height=True):
        component = _dropdown(explorer)
        within = _button("Walk between two draws", "inside")
    walk = _sheet(
        explorer, "Generated along the straight line between the two codes, row by row", "walk"
    )
    seed = gr.State(0)
    from_to.click(_guarded(between), [start, end], walk)
    within.click(_next, seed, seed).then(inside, [component, seed], walk)
    return component


def _names_tab(explorer: Explorer, read: Read, dropdowns: Sequence[Any]) -> None:
    """Names to give to the components, which ``dropdowns`` then show, and labels to export."""
    import gradio as gr

    def rename(table: Any) -> tuple[Any, ...]:
        explorer.rename_by_number(list(table["component"]), list(table["name"]))
        count = len(set(explorer.names))
        renamed = [gr.Dropdown(choices=_choices(explorer)) for _ in dropdowns]
        return f"Kept: {count} different names.", *renamed

    def export() -> Any:
        import pandas

        x, rows = read(None)
        table = {"file": rows} if rows is not None else {}
        file = Path(tempfile.mkdtemp(dir=os.environ.get(FOLDER))) / "labels.csv"
        pandas.DataFrame({**table, **explorer.label(x)}).to_csv(file, index_label="row")
        return gr.File(str(file), visible=True)

    gr.Markdown(
        "Name the components by what you see in them: all commands then know them by their names. "
        "Components with the same name count as one."
    )
    shares = explorer.model.aggregated
    table = gr.Dataframe(
        [[k, f"{100 * shares[k]:.1f} %", explorer.names[k]] for _, k in _choices(explorer)],
        headers=["component", "share", "name"],
        datatype=["number", "str", "str"],
        static_columns=[0, 1],
        column_widths=["20%", "20%", "60%"],
        interactive=True,
        elem_id="names",
    )
    with gr.Row():
        keep = _button("Keep the names", "keep")
        out = _button("Export all labels", "export")
    kept = gr.Markdown(elem_id="kept")
    labels = gr.File(label="Labels", interactive=False, visible=False, elem_id="labels")
    keep.click(_guarded(rename), table, [kept, *dropdowns])
    out.click(_guarded(export), None, labels)


def _example_tab(explorer: Explorer, read: Read) -> None:
    """The components of examples from a file, and what is nearest to the first of them."""
    import gradio as gr

    def place(file: str) -> tuple[Any, ...]:
        import pandas

        x, rows = read(file)
        label = explorer.label(x)
        label.setdefault("name", label["component"].astype(str))
        labels = pandas.DataFrame({key: label[key] for key in ("component", "name", "probability")})
        labels.insert(0, "row", range(len(labels)) if rows is None else rows)
        labels["probability"] = labels["probability"].astype(float).round(2)
        return labels, _around(explorer, x[:1]), explorer.map(x[:1])

    what = "An image" if explorer.is_image else f"A table ({' or '.join(TABLES)})"
    file = gr.File(label=f"{what} like the data of this run", height=150, elem_id="yours")
    where = gr.Dataframe(
        label="Which component it belongs to",
        headers=["row", "component", "name", "probability"],
        interactive=False,
        elem_id="where",
    )
    beside = _sheet(explorer, "The examples nearest to the first of them", "beside")
    gr.Markdown("The first of them on the map of all examples, in a black ring")
    chart = gr.Image(show_label=False, interactive=False, buttons=[], elem_id="placed")
    file.upload(_guarded(place), file, [where, beside, chart])


# --- what they are made of -----------------------------------------------------------------------


def _sheet(explorer: Explorer, label: str, elem_id: str) -> Any:
    """A place for examples: a picture, or a table."""
    import gradio as gr

    with gr.Column(min_width=320):
        gr.Markdown(label)
        how: dict[str, Any] = {"show_label": False, "interactive": False, "elem_id": elem_id}
        if explorer.is_image:
            return gr.Image(**how, buttons=[])
        return gr.Dataframe(**how, buttons=[], headers=explorer.schema.names)


def _dropdown(explorer: Explorer) -> Any:
    """A list to choose a component from."""
    import gradio as gr

    choices = _choices(explorer)
    return gr.Dropdown(choices, value=choices[0][1], label="Component")


def _choices(explorer: Explorer) -> list[tuple[str, int]]:
    """Components with their titles and shares, the most used first."""
    shares = explorer.model.aggregated.tolist()
    order = np.argsort(shares)[::-1].tolist()
    return [(f"{_title(explorer, k)}, {100 * shares[k]:.1f} %", k) for k in order]


def _button(label: str, elem_id: str) -> Any:
    import gradio as gr

    return gr.Button(label, variant="primary", scale=0, min_width=280, elem_id=elem_id)


def _next(seed: int) -> int:
    return seed + 1


def _around(explorer: Explorer, x: Tensor) -> Any:
    """The examples nearest to one (1, ...)."""
    return explorer.sheet(explorer.x[explorer.neighbours(x)])


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Bad input shows its message on the page instead of a stack trace in the terminal."""
    import gradio as gr

    @functools.wraps(function)
    def guarded(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            raise gr.Error(_in_words(error), print_exception=False) from error

    return guarded


def _in_words(error: Exception) -> str:
    """What went wrong, for a person in a browser: files by their names alone."""
    if not isinstance(error, ValueError | OSError):
        return f"This could not be done ({type(error).__name__}): try another file or number."
    return without_paths(error)


def _profile(segment: Segment) -> str:
    """What a component is, as HTML: what sets it apart in words, and panels of its columns."""
    sure = f", {segment.sure}" if segment.sure else ""
    told = f"<p>{escape(segment.share)} of the examples{sure}.</p>"
    lines = "".join(f"<li>{escape(line)}</li>" for line in segment.words)
    panels = "".join(
        f'<figure style="margin: 0"><b>{escape(panel.name)}</b>{panel.picture}'
        f"<small>{escape(panel.words)}</small></figure>"
        for panel in segment.open
    )
    legend = LEGEND if panels else ""
    return f'{told}<ul>{lines}</ul>{legend}<div style="{GRID}">{panels}</div>'


def _drawn_file(explorer: Explorer, component: int, seed: int, n: int | None) -> str:
    """A file with new examples: of a table its rows, of images arrays."""
    if n is None or not 1 <= n <= MOST_DRAWN:
        raise ValueError(f"Give a number from 1 to {MOST_DRAWN:,}.")
    x = explorer.draw(component, n, seed)
    folder = Path(tempfile.mkdtemp(dir=os.environ.get(FOLDER)))
    if explorer.is_image:
        file = folder / f"component-{component}.npz"
        np.savez_compressed(file, x=explorer.schema.as_given(x.numpy()))
        return str(file)
    import pandas

    file = folder / f"component-{component}.csv"
    pandas.DataFrame(explorer.table_of(x)).to_csv(file, index=False)
    return str(file)


def _title(explorer: Explorer, k: int) -> str:
    return titled(k, explorer.names[k])


def _summary(explorer: Explorer) -> str:
    n = len(explorer.x)
    shown = (
        f"The data of this run was not found as it was, so {n} examples that the model generated "
        f"are shown in its place."
        if explorer.generated
        else f"{n:,} of its examples."
        if explorer.rows
        else f"{n:,} examples that the fit did not see."
    )
    return f"{explorer.model.n_components} components. {shown}"


# --- serving -------------------------------------------------------------------------------------


def serve(blocks: Any, port: int | None, browser: bool, wait: bool = True) -> str:
    """Serves a page on 127.0.0.1 until Ctrl-C, or in the background; returns its address.

    Raises:
        ValueError: the port is taken.
    """
    import gradio as gr
    from starlette.middleware import Middleware

    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    try:
        _, address, _ = blocks.launch(
            server_name="127.0.0.1",
            server_port=port,
            inbrowser=browser,
            prevent_thread_lock=True,
            quiet=True,
            theme=theme,
            share=False,
            max_file_size=MOST_UPLOADED,
            enable_monitoring=False,
            footer_links=[],
            ssr_mode=False,
            app_kwargs={"middleware": [Middleware(Guard)]},
        )
    except OSError as error:
        raise ValueError(f"Port {port or 7860} is taken: choose another --port.") from error
    with suppress(KeyboardInterrupt):  # polars' own handler has an endless wait go on
        print(f"explorer -> {address}   (Ctrl-C stops it)", flush=True)
        while wait:
            time.sleep(1)
    if wait:
        blocks.close(verbose=False)
    return address
