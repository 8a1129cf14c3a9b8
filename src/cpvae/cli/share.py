"""What leaves this machine or this project: ONNX files, and runs on the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer

from cpvae.cli.read import Run, model_of
from cpvae.cli.write import Overwrite, OverwriteFile, beside, check_output, out_option
from cpvae.text import printable

commands = typer.Typer()


@commands.command()
def export(
    run: Run,
    out: Annotated[
        Path | None,
        out_option("FOLDER", "Folder to write to.", "RUN/onnx"),
    ] = None,
    overwrite: OverwriteFile = False,
) -> None:
    """Export encoder (with component probabilities) and decoder as ONNX, the rest as JSON."""
    from cpvae.checkpoint import ONNX, PARTS, RunFolder
    from cpvae.models.onnx import export_onnx

    folder = RunFolder(run)
    model = model_of(folder, folder.read_info())
    place = out or run / ONNX
    for name in PARTS[ONNX]:
        check_output(place / name, overwrite, run)
    for file in export_onnx(model, folder.read_schema(), place, overwrite):
        print(f"{file.stem} -> {printable(file)}")


@commands.command()
def share(
    run: Run,
    out: Annotated[
        Path | None,
        out_option("FOLDER", "Folder to write to: a new or an empty one.", "RUN-shared"),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="USER/NAME",
            help="Upload to this repository instead of writing; log in first with `hf auth login`.",
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="With --push: make the repository private.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a run as a Hugging Face repository with a README, or upload it.

    Its picture shows real examples beside generated ones.
    """
    from cpvae import hub

    if private and not push:
        raise ValueError("--private is about the repository of --push: name one, or leave it out.")
    if push and out:
        raise ValueError("--push uploads and --out writes a folder: use one of them.")
    if push:
        address = hub.push_to_hub(run, push, private)
    else:
        address = str(hub.save_pretrained(run, out or beside(run, "shared"), overwrite))
    print(f"shared run -> {printable(address)}")
