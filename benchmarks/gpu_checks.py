"""gpu.py's step `correctness`: compares the device with the CPU, and forms with plain operations.

A step is a function(sizes, tell, scratch) that returns lines about errors. `tell(title, row, ...)`
reports a table as soon as it is known; `scratch` is an empty folder.
"""

import concurrent.futures
import functools
import os
import pathlib
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import step_sides


def correctness(sizes: Any, tell: Callable, _scratch: pathlib.Path) -> list[str]:
    """Checks the kernels' forms, a training step and an evaluation, on the device and the CPU."""
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")
    with concurrent.futures.ThreadPoolExecutor(3) as threads:  # each compilation takes a core
        checks = (_forms, _step, _evaluation)
        found = threads.map(lambda check: check(sizes, tell), checks)
    return [line for lines in found for line in lines]


def _apart(found: Any, expected: Any) -> float:
    """The norm of the difference, relative to the norm of `expected`."""
    found, expected = (np.asarray(v, np.float32).ravel() for v in (found, expected))
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-30))


OF_A_STEP = {"side_by_side", "to_update"}  # `_step` compares these forms


def _cases() -> dict[str, list[tuple[Any, ...]]]:
    """{operation: [(function, the odd shapes of its inputs, ...)]}."""
    from inception import ops

    def convolution(stride: int, padding: int) -> Callable:
        around = ((padding, padding),) * 2
        layouts = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
        return lambda x, k: ops.convolution(x, k, (stride, stride), around, **layouts)

    pool = functools.partial(functools.partial, ops.max_pool)
    lrn = ops.local_response_normalization
    return {
        "convolution": [
            (convolution(2, 3), (3, 37, 29, 3), (7, 7, 3, 13)),
            (convolution(1, 1), (3, 15, 9, 24), (3, 3, 24, 17)),
            (convolution(1, 0), (1, 7, 7, 33), (1, 1, 33, 5)),
        ],
        "max_pool": [
            (pool(stride=1), (3, 15, 9, 7)),
            (pool(stride=2), (3, 29, 56, 64)),
            (pool(stride=2, window=2), (1, 7, 8, 3)),
        ],
        "local_response_normalization": [(lrn, (3, 9, 7, 65)), (lrn, (1, 1, 1, 3))],
        "relu": [(ops.relu, (3, 9, 7, 5))],
    }


def _form_apart(
    form: str, dtype: str, function: Callable, *shapes: tuple[int, ...]
) -> tuple[float, float]:
    """Relative differences (values, gradients) of a platform's form from the plain form."""
    import jax
    import jax.numpy as jnp

    from inception import kernels

    def computed(*inputs: Any) -> Any:
        y, back = jax.vjp(function, *inputs)
        return y, *back(jnp.asarray(np.random.default_rng(1).normal(size=y.shape), y.dtype))

    rng = np.random.default_rng(0)  # whole numbers, so that some are 0 and some are equal
    inputs = [jnp.asarray(np.round(64 * rng.normal(size=shape)), dtype) for shape in shapes]
    own, plain = (jax.jit(kernels.on(name)(computed))(*inputs) for name in (form, "any"))
    values, *gradients = map(_apart, own, plain)
    return values, max(gradients)


def _forms(_sizes: Any, tell: Callable) -> list[str]:
    """Compares each form of this platform with the plain form."""
    import jax

    from inception import kernels

    here, cases, rows, wrong = jax.default_backend(), _cases(), [], []
    own = {name for name, forms in kernels.FORMS.items() if here in forms}
    for operation in sorted(own - OF_A_STEP):
        if operation not in cases:
            wrong.append(f"{operation} has no case in {pathlib.Path(__file__).name}")
        for dtype, most in (("float32", 1e-5), ("bfloat16", 0.02)):
            found = [_form_apart(here, dtype, *case) for case in cases.get(operation, [])]
            if found:
                values, gradients = np.max(found, 0).tolist()
                row = {"operation": operation, "form": kernels.FORMS[operation][here]}
                rows.append({**row, "dtype": dtype, "values": values, "gradients": gradients})
                if not max(values, gradients) < most:
                    wrong.append(f"{operation} in {dtype} is not what the plain form computes")
    tell("Relative difference of forms from the plain ones", *rows)
    return wrong


def _mesh(device: Any) -> Any:
    import jax

    auto = (jax.sharding.AxisType.Auto,)
    return jax.sharding.Mesh(np.asarray([device]), ("data",), axis_types=auto)


def _step(sizes: Any, tell: Callable) -> list[str]:
    """Compares loss and gradients of a step without dropout with the CPU's in float32."""
    import jax

    @functools.cache  # the device may be the CPU
    def begun(device: Any, dtype: str) -> concurrent.futures.Future[Any]:
        build = functools.partial(step_sides.Ours, "train", dtype, sizes.checked, sizes.px)
        return threads.submit(lambda: build(dropout=False, mesh=_mesh(device)).stepped())

    kinds = [(place, dtype) for dtype in ("float32", "bfloat16") for place in ("CPU", "device")]
    places = {"CPU": jax.devices("cpu")[0], "device": jax.devices()[0]}
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        futures = [begun(places[place], dtype) for place, dtype in kinds]
    results = [future.result() for future in futures]
    paths = [path for path in results[0] if path != "loss"]
    rows = []
    for (place, dtype), found in zip(kinds, results, strict=True):
        apart = {path: _apart(found[path], results[0][path]) for path in paths}
        whole, expected = (
            np.concatenate([r[p].ravel() for p in paths]) for r in (found, results[0])
        )
        row = {"step on": place, "dtype": dtype, "loss": _apart(found["loss"], results[0]["loss"])}
        row |= {"gradient": _apart(whole, expected), "median": statistics.median(apart.values())}
        worst = max(apart, key=apart.__getitem__)
        rows.append(row | {"worst": apart[worst], "of": worst.removeprefix("velocity/")})
    tell(
        "Relative difference of a step from the CPU's in float32; median, worst: of parameters",
        *rows,
    )
    _, exact, cpu, half = rows
    wrong = []
    if not (exact["loss"] < 1e-4 and exact["gradient"] < 1e-3 and exact["worst"] < 0.01):
        wrong.append("the float32 step is not the CPU's")
    # Rounding differs: require only the distance of the CPU's bfloat16 from float32.
    near = all(half[key] < 1.5 * cpu[key] + 0.01 for key in ("loss", "gradient", "median"))
    return wrong if near else [*wrong, "the bfloat16 step is further from float32 than the CPU's"]


def _evaluation(sizes: Any, tell: Callable) -> list[str]:
    """Checks in float32 that every image counts once, and the top five of each image."""
    import jax

    from inception.config import load_config
    from inception.evaluation.evaluator import Evaluator
    from inception.runtime import sharding

    knobs = {"data.source": "synthetic", "data.examples": sizes.evaluated, "input_px": sizes.px,
             "data.normalization": "mean", "run.eval_batch_size": sizes.batch}  # fmt: skip
    overrides = [f"--config.{knob}={value}" for knob, value in knobs.items()]
    config = load_config("experiments/base.py", overrides)
    cpu, device = (_mesh(jax.devices(platform)[0]) for platform in ("cpu", None))
    variables = jax.device_get(step_sides.Ours("eval", "float32", 1, sizes.px, mesh=cpu).state)
    expected, found = (
        Evaluator(config, mesh, split="val")(sharding.replicate(variables, mesh))
        for mesh in (cpu, device)
    )
    same = int((found.top == expected.top).all(1).sum())
    apart = float(np.abs(found.probabilities / expected.probabilities - 1).max())
    row = {"images": sizes.evaluated, "counted": found.count, "same top five": same}
    tell("Evaluation against the CPU's, float32", row | {"probabilities apart": apart})
    wrong = [] if found.count == sizes.evaluated else ["evaluation did not count each image once"]
    # Equally likely classes may swap places; then the probabilities agree.
    alike = same >= 0.99 * found.count and apart < 1e-4
    return wrong if alike else [*wrong, "evaluation's top five differ"]
