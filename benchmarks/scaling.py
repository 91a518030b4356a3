"""Time and memory of plain v1 by batch size, input size and devices, as tables and plots.

    python benchmarks/scaling.py [batch] [size] [devices] [--output=docs/figures]

Each point is a separate `launch.py bench`: a training step, a step with remat, or a forward pass.
The devices are CPU devices that share this machine's cores: they show the cost of splitting a
batch, and no speed-up. Memory is that of one device, as the compiler reports it.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

from matplotlib.figure import Figure

LAUNCH = pathlib.Path(__file__).resolve().parents[1] / "launch.py"
sys.path.insert(0, str(LAUNCH.parent))
from inception.data import outputs  # noqa: E402

KINDS = {
    "training": ["--what=train"],
    "training, remat": ["--what=train", "--config.model.remat=True"],
    "forward": ["--what=eval"],
}
SERIES: dict[str, tuple[str, tuple[int, ...]]] = {
    "batch": ("images in a batch, 224 px", (1, 4, 16, 64, 256)),
    "size": ("input size, px, batches of 16", (96, 160, 224, 320, 448)),
    "devices": ("devices that share the cores, batches of 32", (1, 2, 4, 8)),
}


def flags(series: str, value: int) -> list[str]:
    if series == "batch":
        return [f"--batch_size={value}"]
    if series == "size":
        px = [f"--config.{knob}={value}" for knob in ("input_px", "data.resize_px")]
        return ["--batch_size=16", *px]
    return ["--batch_size=32"]


def measure(series: str, value: int, kind: str) -> dict[str, Any]:
    environment = dict(os.environ)
    if series == "devices":
        environment["JAX_PLATFORMS"] = "cpu"
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={value}"
    command = [sys.executable, LAUNCH, "bench", "--config=experiments/base.py", "--json"]
    done = subprocess.run(
        [*command, *KINDS[kind], *flags(series, value)],
        check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=LAUNCH.parent,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def draw(series: str, rows: dict[str, list[tuple[int, float, float]]], file: str) -> None:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, column, label in zip(panels, (1, 2), ("ms an image", "MB a device"), strict=True):
        for kind, points in rows.items():
            panel.plot([p[0] for p in points], [p[column] for p in points], "o-", label=kind)
        panel.set_xlabel(SERIES[series][0])
        panel.set_ylabel(label)
        panel.set_ylim(bottom=0)
        if series != "size":
            panel.set_xscale("log", base=2)
        panel.set_xticks(SERIES[series][1], [str(v) for v in SERIES[series][1]])
        panel.grid(alpha=0.3)
    panels[0].legend()
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("series", nargs="*", default=list(SERIES), help=", ".join(SERIES))
    parser.add_argument("--output", default="docs/figures", metavar="DIR", help="of the plots")
    args = parser.parse_args()
    if unknown := set(args.series) - SERIES.keys():
        parser.error(f"{', '.join(unknown)}: choose from {', '.join(SERIES)}")
    files = {series: f"{args.output}/scaling_{series}.svg" for series in args.series}
    outputs.check(**{series: (file, b"Matplotlib") for series, file in files.items()})
    pathlib.Path(args.output).mkdir(parents=True, exist_ok=True)
    for series in args.series:
        label, values = SERIES[series]
        head = " | ".join(f"{kind}: ms an image, MB" for kind in KINDS)
        print(f"\n| {label} | {head} |\n|{'---|' * (1 + len(KINDS))}", flush=True)
        rows: dict[str, list[tuple[int, float, float]]] = {kind: [] for kind in KINDS}
        for value in values:
            for kind in KINDS:
                found = measure(series, value, kind)
                ms, megabytes = 1e3 / found["images_per_second"], found["memory_bytes"] / 1e6
                rows[kind].append((value, ms, megabytes))
            cells = " | ".join(f"{rows[k][-1][1]:.1f}, {rows[k][-1][2]:,.0f}" for k in KINDS)
            print(f"| {value} | {cells} |", flush=True)
        draw(series, rows, files[series])


if __name__ == "__main__":
    main()
