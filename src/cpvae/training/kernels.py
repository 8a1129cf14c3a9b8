"""How a step runs without Python between its kernels: recorded, compiled, or captured on a GPU.

A step here is a function of a list of tensors that gives a list of tensors; what each of them is,
the engine knows. FitRun on a CPU takes two seconds and gives the same floats.
Compiling fuses the kernels, takes some ten seconds and may round otherwise.
"""

import hashlib
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from cpvae.training.adam import Adam
from cpvae.training.batches import Batch
from cpvae.training.recipe import Recipe

ENOUGH_TO_RECORD = 3_000  # steps of a run from which recording one pays on a CPU
ENOUGH_TO_COMPILE = {"cpu": 8_000, "cuda": 50_000}  # and compiling one; 3x if the model is small

Function = Callable[..., Sequence[Tensor]]
_PROGRAMS: dict[bytes, Function] = {}  # restarts in a process share them
_MAKING = threading.Lock()  # torch records and compiles for one thread at a time


def choose_kernels(device: torch.device, recipe: Recipe, n: int, small: bool) -> str:
    """``plain``, ``recorded`` or ``compiled``: what a run is long enough for and this machine can.

    Arguments:
        device: that trains
        recipe: with the number of epochs
        n: training examples
        small: whether the model is small
    """
    steps = recipe.max_epochs * n / recipe.batch_size
    compiler = {
        "cpu": os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++"),
        "cuda": find_spec("triton"),
    }
    if compiler.get(device.type) and steps >= ENOUGH_TO_COMPILE[device.type] * (3 if small else 1):
        return "compiled"
    return "recorded" if steps >= ENOUGH_TO_RECORD and device.type == "cpu" else "plain"


def trace(function: Function, example: Sequence[Tensor]) -> Function:
    """A function that replays the kernels that another one calls, with the same floats."""
    with _MAKING, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript
        recorded = torch.jit.trace(
            _graph(function, example), tuple(t.detach() for t in example), check_trace=False
        )

    def replay(*inputs: Tensor) -> Sequence[Tensor]:
        # Without its optimiser the recording gives the same floats as the kernels themselves
        with torch.no_grad(), torch.jit.optimized_execution(False):
            return recorded(*inputs)

    return replay


def compile_with_adam(function: Function, adam: Adam, example: Sequence[Tensor]) -> Function | None:
    """A function, and Adam's step with the gradients it gives, as one C++ program.

    Arguments:
        function: takes the parameters first, and gives their gradients last
        adam: of those parameters
        example: inputs of the function

    Returns:
        A function of the same inputs that gives all but the gradients and moves the parameters; or
        None, with a warning, where that cannot be had.
    """
    count = len(adam.parameters)
    moments = [*adam.mean, *adam.square]

    def whole(*inputs: Tensor) -> Sequence[Tensor]:
        means, squares = inputs[:count], inputs[count : 2 * count]
        scale, floor, *given = inputs[2 * count :]
        results = function(*given)
        moved = zip(given, means, squares, results[-count:], strict=False)
        with torch.no_grad():
            adam.move(list(moved), scale, floor)
        return results[:-count]

    def copies() -> list[Any]:  # a step moves what it is given
        given = (*moments, torch.ones(()), torch.ones(()), *example)
        return [t.detach().clone().requires_grad_(t.requires_grad) for t in given]

    try:
        with _MAKING, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the compiler's own ways
            program = _compile(whole, copies)
    except Exception as error:  # whatever compiler, linker and their files may raise
        warnings.warn(f"The step could not be compiled and is recorded: {error}", stacklevel=2)
        return None

    def step(*inputs: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            return program(*moments, *adam.next_factors(), *inputs)

    return step


def _compile(function: Function, copies: Callable[[], list[Tensor]]) -> Function:
    from torch._inductor import config

    graph = _graph(function, copies())
    for node in graph.graph.nodes:
        node.meta.clear()  # what tracing noted there stands in the way of a C++ wrapper
    key = _digest(graph, copies())
    program = _PROGRAMS.get(key)
    if not program:
        with torch.no_grad(), config.patch(cpp_wrapper=True):
            program = torch._inductor.compile(graph, list(copies()))
            program(*copies())  # compiles what is left to compile
        _PROGRAMS.clear()  # one is enough: restarts come one after another
        _PROGRAMS[key] = program
    return program


def _digest(graph: Any, inputs: Sequence[Tensor]) -> bytes:
    """A digest that two graphs share if they are the same program of inputs of the same shapes."""
    digest = hashlib.sha256(graph.code.encode())
    for tensor in inputs:
        digest.update(f"{tensor.shape} {tensor.dtype} {torch.get_num_threads()}".encode())
    for node in graph.graph.find_nodes(op="get_attr"):  # constants that were traced
        digest.update(getattr(graph, node.target).detach().numpy().tobytes())
    return digest.digest()


def _graph(function: Function, inputs: Sequence[Tensor]) -> Any:
    """The kernels that a function calls, gradients included."""
    from torch.fx.experimental.proxy_tensor import make_fx  # takes a second or two

    return make_fx(function)(*inputs)


class Captured:
    """Blocks of steps on a GPU: the first of a size as they come, then as a CUDA graph.

    Arguments:
        steps: takes a block, and reads and writes the same memory each time
    """

    def __init__(self, steps: Callable[[Batch], None]):
        self.steps = steps
        self._graphs: dict[tuple[int, ...], tuple[Any, Batch] | None] = {}

    def clear(self) -> None:
        """Forgets the graphs, as the kernels have changed."""
        self._graphs.clear()

    def __call__(self, block: Batch) -> None:
        """All steps of a block."""
        size = tuple(block.normal.shape)
        if size not in self._graphs:  # capturing needs a first run that is not captured
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self.steps(block)
            torch.cuda.current_stream().wait_stream(side)
            self._graphs[size] = None
            return
        found = self._graphs[size]
        if found is None:
            graph, memory = torch.cuda.CUDAGraph(), Batch(**_cloned(block))
            with torch.cuda.graph(graph):
                self.steps(memory)
            found = self._graphs[size] = graph, memory
        graph, memory = found
        for mine, given in zip(memory.present().values(), block.present().values(), strict=True):
            mine.copy_(given)
        graph.replay()


def _cloned(block: Batch) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in block.present().items()}
