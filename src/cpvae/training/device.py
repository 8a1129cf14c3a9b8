"""What a model is trained on: the processor or an accelerator, and what it can do."""

import torch


def choose_device(accelerator: str) -> torch.device:
    """The device of that name; ``auto`` is a CUDA device where there is one, or else the processor.

    Raises:
        ValueError: an unknown name, or a device that this machine does not have.
    """
    here = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if accelerator == "auto":
        return torch.device("cuda" if here["cuda"] else "cpu")
    if accelerator not in here:
        raise ValueError(f"accelerator={accelerator!r} is unknown: use auto, {', '.join(here)}.")
    if not here[accelerator]:
        raise ValueError(f"accelerator={accelerator!r}: torch finds none here; use auto or cpu.")
    return torch.device(accelerator)


def has_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16 numbers."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
