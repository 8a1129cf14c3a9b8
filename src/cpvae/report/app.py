"""The explorer in the browser: one page about a run, served on this machine and to it alone."""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cpvae.report.explorer import Explorer

SHOWN = 12  # examples of a category

# The page must not load anything from elsewhere, whatever the library's templates link to
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"

Read = Callable[[str | None], tuple[Tensor, Sequence[str] | None]]


def page(explorer: Explorer, title: str, read: Read) -> Any:
    """The page as Gradio blocks.

    Arguments:
        explorer: what is shown
        title: of the run
        read: gives examples (n, ...) and their names from a file, or all those of the run from None
    """
    import gradio as gr

    def choices() -> list[tuple[str, int]]:
        shares = explorer.model.aggregated.tolist()
        order = np.argsort(shares)[::-1].tolist()
        return [(f"{_titled(explorer, k)}, {100 * shares[k]:.1f} %", k) for k in order]

    def shown(label: str, place: str) -> Any:
        with gr.Column(min_width=320):
            gr.Markdown(label)
            kind = gr.Image if explorer.is_image else gr.Dataframe
            return kind(show_label=False, interactive=False, buttons=[], elem_id=place)

    def chooser(label: str) -> Any:
        return gr.Dropdown(choices(), value=choices()[0][1], label=label)

    def button(label: str, place: str) -> Any:
        return gr.Button(label, variant="primary", scale=0, min_width=280, elem_id=place)

    def draw(component: int, seed: int) -> Any:
        return explorer.sheet(explorer.draw(component, SHOWN, seed))

    def real(component: int) -> Any:
        return explorer.sheet(explorer.real(component, SHOWN))

    def around(x: Tensor) -> Any:
        return explorer.sheet(explorer.x[explorer.neighbours(x)])

    def click(event: gr.SelectData) -> tuple[Any, ...]:
        number = explorer.at(*event.index)
        x = explorer.x[[number]]
        found = explorer.label(x)
        told = f"**{_titled(explorer, int(found['component'][0]))}**"
        told = f"Example {number}: {told}, probability {found['probability'][0]:.3f}"
        return explorer.map(number), told, around(x), number

    def guard(function: Callable[..., Any]) -> Callable[..., Any]:
        """Bad input shows its message on the page instead of a stack trace in the terminal."""

        def guarded(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except (ValueError, OSError) as error:
                raise gr.Error(str(error), print_exception=False) from error

        return guarded

    def between(first: int | None, second: int | None) -> Any:
        if first is None or second is None:
            raise ValueError("Give the numbers of two examples.")
        return explorer.sheet(explorer.between(first, second))

    def rename(table: Any) -> tuple[Any, ...]:
        explorer.rename(list(table.sort_values("component")["name"]))
        count = len(set(explorer.names))
        return f"Kept: {count} different names.", *(
            gr.Dropdown(choices=choices()) for _ in choosers
        )

    def export() -> str:
        import pandas

        x, rows = read(None)
        table = {"file": rows} if rows is not None else {}
        file = Path(tempfile.mkdtemp(prefix="cpvae-")) / "labels.csv"
        pandas.DataFrame({**table, **explorer.label(x)}).to_csv(file, index_label="row")
        return str(file)

    def place(file: str) -> tuple[Any, ...]:
        import pandas

        x, _ = read(file)
        return pandas.DataFrame(explorer.label(x)).reset_index(names="row"), around(x[:1])

    with gr.Blocks(title=f"{title} - cpvae", analytics_enabled=False) as blocks:
        gr.Markdown(f"# {title}\n" + _summary(explorer))
        with gr.Tab("Categories"):
            with gr.Row(equal_height=True):
                category = chooser("Category")
                again = button("Draw again", "again")
            seed = gr.State(0)
            with gr.Row():
                new = shown("New, drawn from the category", "drawn")
                old = shown("Examples that are most surely of it", "real")
            again.click(lambda s: s + 1, seed, seed).then(draw, [category, seed], new)
            category.change(draw, [category, seed], new).then(real, category, old)
        with gr.Tab("Map"):
            gr.Markdown(
                "The codes of the examples on their first two axes, coloured by category; "
                "click one to see it and those with the nearest codes."
            )
            with gr.Row():
                chart = gr.Image(
                    explorer.map(), label="Codes", interactive=False, elem_id="map", buttons=[]
                )
                with gr.Column():
                    clicked = gr.Markdown("No example chosen yet.", elem_id="clicked")
                    nearest = shown("The example, then its neighbours", "nearest")
        with gr.Tab("Walk"):
            with gr.Row(equal_height=True):
                first = gr.Number(0, label="From example", precision=0, elem_id="first")
                second = gr.Number(1, label="To example", precision=0, elem_id="second")
                go = button("Walk from one to the other", "between")
            with gr.Row(equal_height=True):
                within = chooser("Category")
                wander = button("Walk between two draws of it", "inside")
            walk = shown("From the first to the last, row by row", "walk")
            go.click(guard(between), [first, second], walk)
            walked = gr.State(0)
            wander.click(lambda s: s + 1, walked, walked).then(
                lambda k, s: explorer.sheet(explorer.inside(k, s)), [within, walked], walk
            )
        chart.select(click, None, [chart, clicked, nearest, first])
        with gr.Tab("Names"):
            gr.Markdown(
                "Name the categories by what you see in them. Categories with the same name are "
                "merged: the labels that you export count them as one."
            )
            table = gr.Dataframe(
                [
                    [k, f"{100 * explorer.model.aggregated[k]:.1f} %", explorer.names[k]]
                    for _, k in choices()
                ],
                headers=["component", "share", "name"],
                datatype=["number", "str", "str"],
                static_columns=[0, 1],
                interactive=True,
                elem_id="names",
            )
            with gr.Row():
                keep = button("Keep the names", "keep")
                out = button("Export all labels", "export")
            kept = gr.Markdown(elem_id="kept")
            labels = gr.File(label="Labels", interactive=False, height=90, elem_id="labels")
            out.click(guard(export), None, labels)
        with gr.Tab("Your example"):
            kind = "An image" if explorer.is_image else "A table (.csv or .parquet)"
            file = gr.File(label=f"{kind} like the data of this run", height=150, elem_id="yours")
            where = gr.Dataframe(
                label="Where it falls",
                headers=["row", "component", "name", "probability"],
                interactive=False,
                elem_id="where",
            )
            beside = shown("The examples nearest to the first of them", "beside")
            file.upload(guard(place), file, [where, beside])
        choosers = [category, within]
        keep.click(guard(rename), table, [kept, *choosers])
        blocks.load(draw, [category, seed], new).then(real, category, old)
    return blocks


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
            footer_links=[],
            ssr_mode=False,
            app_kwargs={"middleware": [Middleware(_OnlyHere)]},
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


class _OnlyHere:
    """Adds to every answer the header that keeps the browser from asking other machines."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"content-security-policy", POLICY.encode()))
            await send(message)

        await self.app(scope, receive, with_policy)


def _titled(explorer: Explorer, k: int) -> str:
    name = explorer.names[k]
    return f"component {k}" if name == str(k) else f"{name} (component {k})"


def _summary(explorer: Explorer) -> str:
    model = explorer.model
    n = len(explorer.x)
    seen = (
        f"The data of this run is not at its place, so {n} examples that the model generated stand "
        f"for it."
        if explorer.generated
        else f"{n} examples that the fit did not see."
    )
    return f"{model.n_components} components. {seen}"
