"""The platforms that compute an operation of ops.py in a form of their own.

A form computes the same values and gradients as the plain operation, in another way. Each file of
this folder contains the forms of one platform, or forms that several platforms share, with the
measurements that justify them. `on` sets the platform, because programs are also compiled for
platforms that this process does not run on; without `on` it is JAX's default.
"""

import contextlib
import contextvars
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

FORMS: dict[str, dict[str, str]] = {  # operation -> {platform: file}; elsewhere the plain form
    "convolution": {"cpu": "cpu"},
    "max_pool": {"cpu": "cpu", "gpu": "gpu"},
    "local_response_normalization": {"cpu": "lean", "gpu": "gpu", "tpu": "tpu"},
    "relu": {"cpu": "lean", "gpu": "gpu", "tpu": "lean"},
    "side_by_side": {"gpu": "gpu", "tpu": "gpu"},
    "to_update": {"gpu": "gpu"},
}
_platform: contextvars.ContextVar[str] = contextvars.ContextVar("platform", default="")


@contextlib.contextmanager
def on(platform: str) -> Iterator[None]:
    """Traces operations for a platform: 'cpu', 'gpu' or 'tpu'; 'any': the plain forms.

    As a decorator it applies wherever the function is traced: `jax.jit(on("gpu")(function))`.
    """
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def by_platform(plain: Callable[..., Any]) -> Callable[..., Any]:
    """The operation `plain`, in the platform's own form where FORMS lists one."""

    @functools.wraps(plain)
    def operation(*args: Any, **kwargs: Any) -> Any:
        name, platform = plain.__name__, _platform.get() or jax.default_backend()
        if platform not in FORMS[name]:
            return plain(*args, **kwargs)
        file = importlib.import_module(f"inception.kernels.{FORMS[name][platform]}")
        return getattr(file, name)(*args, **kwargs)

    return operation
