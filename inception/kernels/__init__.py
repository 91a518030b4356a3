"""Which platform computes which operation of ops.py in a form of its own.

A form computes the same, values and gradients, in another way; kernels/PLATFORM.py has those of a
platform, each with the measurement that keeps it. Programs are compiled for platforms that this
process does not run on, so the platform is that of `on`, and without it JAX's default.
"""

import contextlib
import contextvars
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

FORMS: dict[str, tuple[str, ...]] = {  # platform -> operations; all others compute the plain form
    "cpu": (),
}
_platform: contextvars.ContextVar[str] = contextvars.ContextVar("platform", default="")


@contextlib.contextmanager
def on(platform: str) -> Iterator[None]:
    """Within it, operations are traced for a platform: 'cpu', 'gpu', 'tpu'; 'any': plain forms."""
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def form(operation: str) -> Callable[..., Any] | None:
    """The platform's own form of an operation of ops.py; None where the plain one does."""
    platform = _platform.get() or jax.default_backend()
    if operation not in FORMS.get(platform, ()):
        return None
    return getattr(importlib.import_module(f"inception.kernels.{platform}"), operation)
