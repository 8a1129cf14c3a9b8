"""What leaves this machine or this project: ONNX files, and runs on the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer

from cpvae.cli.read import Run, model_of

commands = typer.Typer()


@commands.command()
def export(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to.", show_default="RUN/onnx")
    ] = None,
) -> None:
    """Export encoder, categories, decoder and prior as ONNX, to use them without torch."""
    from cpvae.checkpoint import RunFolder
    from cpvae.models.onnx import export_onnx

    folder = RunFolder(run)
    model = model_of(folder, folder.read_info())
    for file in export_onnx(model, folder.read_schema(), out or run / "onnx"):
        print(f"{file.stem} -> {file}")


@commands.command()
def share(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to.", show_default="RUN-shared")
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="USER/NAME", help="Upload to this repository instead of writing."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private.")
    ] = False,
) -> None:
    """Write a run in the layout of the Hugging Face Hub, with a card, or upload it."""
    from cpvae import hub

    if push and out:
        raise ValueError("--push uploads and --out writes a folder: use one of them.")
    if push:
        address = hub.push_to_hub(run, push, private)
    else:
        address = str(
            hub.save_pretrained(run, out or run.with_name(f"{run.resolve().name}-shared"))
        )
    print(f"shared run -> {address}")
