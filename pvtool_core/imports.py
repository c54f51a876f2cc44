"""Import torch, diffusers and transformers without the libraries that pv does not use.

A process that has called `hide_unused_libraries` starts in half the time. Large imports are also a
fifth faster without garbage collection: see `quick_imports`.
"""

import gc
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

_HIDDEN = ("bitsandbytes",)
"""Optional packages that PEFT and diffusers import if they are installed."""


def _unchanged(
    function: Callable[..., Any] | None = None, *_: object, **__: object
) -> Callable[..., Any]:
    """Replace decorators that instruct the compiler of torch."""
    return _unchanged if function is None else function


def _nothing(*_: object, **__: object) -> None:
    """Replace functions that have an effect on the compiler only."""


def _no(*_: object) -> bool:
    return False


class _Absent:
    """Replaces classes without objects, such as compiled modules."""


_POSTPONED: Mapping[str, Mapping[str, Any]] = {
    "torch._dynamo": {
        "allow_in_graph": _unchanged,
        "assume_constant_result": _unchanged,
        "disable": _unchanged,
        "eval_frame": SimpleNamespace(OptimizedModule=_Absent),
        "graph_break": _nothing,
    },
    "torch._dynamo.utils": {"is_compile_supported": _no},
    "scipy.stats": {},
}
"""Modules that other libraries import for compiled models or rare schedulers, with the attributes
that they use otherwise. A module is loaded when any other attribute is used.
"""


class _Postponed(ModuleType):
    """A module that is loaded once an attribute is needed that it does not have yet."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_load(self), name)


def _load(module: ModuleType) -> ModuleType:
    """Load a postponed module in place, after its package, if that has not happened yet."""
    if package := sys.modules.get(module.__name__.rpartition(".")[0]):
        _load(package)
    if isinstance(module, _Postponed) and module.__spec__ and module.__spec__.loader:
        for known in _POSTPONED[module.__name__]:
            module.__dict__.pop(known, None)
        module.__class__ = ModuleType  # pyright: ignore[reportAttributeAccessIssue] - no longer postponed
        module.__spec__.loader.exec_module(module)
    return module


def hide_unused_libraries() -> None:
    """Keep this process from importing libraries that pv does not use, from now on.

    Call it before diffusers and transformers are imported, and only in a process of pv: it changes
    what these libraries can do. Without torch.distributed, no model is split between devices;
    bitsandbytes is hidden until `reveal`.
    """
    with quick_imports():
        import torch.distributed
    gc.freeze()  # later collections do not look through what was created so far
    torch.distributed.is_available = lambda: False
    # diffusers would read the file lists of all packages for three versions that pv does not use
    importlib.metadata.packages_distributions = dict
    for package in _HIDDEN:
        sys.modules.setdefault(package, None)  # type: ignore[arg-type] # Python's mark for "not installed"
    for name, values in _POSTPONED.items():
        spec = None if name in sys.modules else importlib.util.find_spec(name)
        if spec:
            module = importlib.util.module_from_spec(spec)
            module.__dict__.update(values)
            module.__class__ = _Postponed
            sys.modules[name] = module
            parent, _, child = name.rpartition(".")
            setattr(sys.modules[parent], child, module)


def reveal(package: str) -> None:
    """Make a hidden package importable again, if it is installed."""
    if package in sys.modules and sys.modules[package] is None:  # pyright: ignore[reportUnnecessaryComparison]
        del sys.modules[package]


@contextmanager
def without_cuda() -> Generator[None]:
    """Keep imports from initialising CUDA, which would be unusable in processes forked afterwards.

    diffusers asks whether there is a GPU. torch then asks the driver's management library, NVML;
    without it, the answer is no, and only imports hear it.
    """
    import torch

    extension: Any = vars(torch)["_C"]
    name, count = "PYTORCH_NVML_BASED_CUDA_CHECK", "_cuda_getDeviceCount"
    before, ask_driver = os.environ.get(name), getattr(extension, count, None)
    os.environ[name] = "1"
    if ask_driver:
        setattr(extension, count, lambda: 0)
    try:
        yield
    finally:
        if ask_driver:
            setattr(extension, count, ask_driver)
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


@contextmanager
def quick_imports() -> Generator[None]:
    """Switch garbage collection off while libraries are imported: what they create stays."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
