"""Fits MNIST in two processes and in one: the bounds of all epochs beside one another.

    CPVAE_DATA=... python tests/soak/processes.py [EPOCHS]

It takes minutes on two idle cores. Fails where the final bounds are further apart than MOST.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

EPOCHS, MOST = 5, 0.05  # nats
BUILD, RESULT = Path("build/soak/processes"), Path("results/soak/processes.json")
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
FIT = ("-m", "cpvae", "fit", "mnist", "--set", "anneal_epochs=3", "--set", "pretraining_epochs=1")


def fitted(name: str, launch: tuple[str, ...], epochs: int) -> tuple[list[dict[str, Any]], float]:
    """The history of a fit, and its seconds; one that was ended before is not run again."""
    out = BUILD / f"{name}-{epochs}"
    took = out.with_suffix(".seconds")
    if not took.is_file():
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *launch, *FIT, "--max-epochs", str(epochs)]
        started = time.monotonic()
        again = (*("--resume",) * out.is_dir(),)
        subprocess.run([*command, "--out", str(out), *again], check=True, env=environment)
        took.write_text(f"{time.monotonic() - started:.1f}")
    lines = (out / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], float(took.read_text())


def main() -> None:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else EPOCHS
    BUILD.mkdir(parents=True, exist_ok=True)
    two, seconds_of_two = fitted("two", TWO, epochs)
    one, seconds_of_one = fitted("one", (), epochs)
    bounds = [[each["valid_elbo_nats"] for each in history] for history in (two, one)]
    result = {
        "epochs": epochs,
        "valid_elbo_nats": {"two": bounds[0], "one": bounds[1]},
        "final_difference_nats": bounds[0][-1] - bounds[1][-1],
        "seconds": {"two": seconds_of_two, "one": seconds_of_one},
    }
    print(json.dumps(result, indent=2))
    if abs(result["final_difference_nats"]) > MOST or len(two) != len(one):  # type: ignore[arg-type]
        sys.exit(f"the bounds are further apart than {MOST} nats")
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
