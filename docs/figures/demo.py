"""README's curve: accuracy of the demo's three classifiers in training, and on digits held out.

python docs/figures/demo.py runs/digits docs/figures/demo.svg
"""

import sys

from matplotlib.figure import Figure

from inception.reporting.metrics import read_metrics

NAMES = {
    "top1_4a": "auxiliary head on 4a",
    "top1_4d": "auxiliary head on 4d",
    "top1": "main classifier",
}


def main(workdir: str, output: str) -> None:
    rows = read_metrics(workdir)
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    ax = figure.add_subplot()
    for key, name in NAMES.items():
        trained = [row for row in rows if row["kind"] == "train"]
        ax.plot(
            [row["step"] for row in trained],
            [100 * row[key] for row in trained],
            label=f"{name}, in training",
        )
    held_out = [row for row in rows if row["kind"] == "eval"]
    ax.plot(
        [row["step"] for row in held_out],
        [100 * row["top1"] for row in held_out],
        "ko",
        label="360 digits held out",
    )
    ax.annotate(f"{100 * held_out[-1]['top1']:.1f}%", (held_out[-1]["step"], 100 * held_out[-1]["top1"]),
                xytext=(4, -12), textcoords="offset points")  # fmt: skip
    ax.set(xlabel="step (32 images)", ylabel="top-1, %", ylim=(0, 104))
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(output, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main(*sys.argv[1:])
