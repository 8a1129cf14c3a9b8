"""The command line: its commands, and how it ends. Each command imports what it needs."""

import os
import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from cpvae.cli import fit, share, use
from cpvae.experiments.commands import app as reproduce

app = typer.Typer(
    name="cpvae",
    help="Learn a mixture from data, and generate from any one of its components.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

STOPPED = "stopped; a run in progress goes on with the same command and --resume"
# options of `fit` that are settings of --set now
MOVED = {
    "noise_scale": "noise_scale",
    "latent_dim": "latent_dim",
    "network": "network",
    "covariance": "covariance",
    "gate": "gate",
    "pseudo_inputs": "pseudo_inputs",
    "estimator": "expectation",
    "batch_size": "batch_size",
    "learning_rate": "learning_rate",
    "precision": "precision",
    "start_epochs": "pretraining_epochs",
    "kl_z_start": "kl_z_start",
    "kl_c_start": "kl_c_start",
    "anneal_epochs": "anneal_epochs",
    "patience": "patience",
}
RENAMED = {"--weights": "--mixing-weights", "--whole": "--merge-connected"}


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        from cpvae import __version__

        print(f"cpvae {__version__}")
        raise typer.Exit


for part in (fit, use, share):
    app.add_typer(part.commands)
app.add_typer(reproduce, name="reproduce")


def main() -> None:
    """Runs the command line; bad input ends with one line and exit code 2."""
    # libgomp's threads spin while they wait: for long, it costs a factor of five on a busy machine;
    # for too short a time, a quarter on an idle one (see docs/speed.md)
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    try:
        code = app(standalone_mode=False)
    except TyperException as error:  # an unknown option, a missing argument
        message = f"{error.format_message()} (see `cpvae --help` and `cpvae COMMAND --help`)"
        _fail(_moved(getattr(error, "option_name", "")) or message, 2)
    except ValueError as error:
        _fail(str(error), 2)
    except ModuleNotFoundError as error:
        if "cpvae[" not in str(error):  # not an optional package
            raise
        _fail(str(error), 2)
    except OSError as error:
        _fail(f"{error.strerror or error}: {error.filename}", 2)
    except (KeyboardInterrupt, typer.Abort):
        _fail(STOPPED, 130)
    except RuntimeError as error:
        if type(error).__name__ != "Diverged":
            raise
        _fail(str(error), 1)
    else:
        if code == 130:  # Ctrl-C, as typer reports it
            _fail(STOPPED, 130)
        sys.exit(code or 0)


def _fail(message: str, code: int) -> None:
    print("cpvae: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


def _moved(option: str) -> str | None:
    """Where an option of an earlier version is to be found now."""
    name = option.lstrip("-").replace("-", "_")
    if option in RENAMED:
        return f"There is no option {option}: it is {RENAMED[option]} now."
    if name in MOVED:
        return f"There is no option {option}: it is --set {MOVED[name]}=VALUE now."
    return None
