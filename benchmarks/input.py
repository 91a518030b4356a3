#!/usr/bin/env python3
"""Measures the speed of training batches from our loader, tf.data, FFCV and Pillow, in turns.

    python benchmarks/input.py PHOTOS [--ffcv_python=PYTHON]

PHOTOS is any folder of JPEGs, of which the first 1,000 are used. Each contender is a process,
pinned to one core before it imports anything. It makes batches of 64 random resized crops (224 px,
mirrored half the time, uint8) for a second per turn. Then ours uses all cores. The files are in the
page cache, those of tf.data and Pillow in memory. tf.data needs TensorFlow, and FFCV an environment
of its own; missing contenders are left out.

Our sampler draws the boxes for all but FFCV, which uses the same ranges: TensorFlow's sampler draws
smaller boxes. tf.data and Pillow receive them for free. Memory and start-up are measured as well.
"""

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

BATCH, PX = 64, 224
RANGES: dict[str, tuple[float, float]] = {"area_range": (0.08, 1.0), "aspect_range": (3 / 4, 4 / 3)}
ROOT = pathlib.Path(__file__).resolve().parents[1]

# Title, ours, peer, floor and aim of each comparison.
COMPARISONS = (
    ("original JPEGs, against tf.data", "ours original", "tf.data original", 1.0, 1.15),
    ("JPEG store, against tf.data on it", "ours jpeg", "tf.data jpeg", 1.2, 1.4),
    ("pixel store, against tf.data on the JPEG store", "ours rgb", "tf.data jpeg", 3.5, 5.0),
    ("pixel store, against tf.data on the originals", "ours rgb", "tf.data original", 7.0, 10.0),
    ("JPEG store, against FFCV's", "ours jpeg", "ffcv jpeg", 2.0, 3.0),
    ("pixel store, against FFCV's", "ours rgb", "ffcv rgb", 2.0, 3.0),
    ("original JPEGs, against Pillow", "ours original", "Pillow original", 1.7, 2.0),
    ("JPEG store, against Pillow", "ours jpeg", "Pillow jpeg", 1.7, 2.0),
    ("originals: fast against exact decoder", "ours original", "ours original, exact", None, None),
    ("JPEG store: fast against exact", "ours jpeg", "ours jpeg, exact", None, None),
    ("pixel store: fast against exact", "ours rgb", "ours rgb, exact", None, None),
    ("JPEG store: bilinear against all four", "ours jpeg", "ours jpeg, mixed", None, None),
    ("pixel store: bilinear against all four", "ours rgb", "ours rgb, mixed", None, None),
    ("JPEG store: without against RandAugment", "ours jpeg", "ours jpeg, augmented", None, None),
    ("pixel store: without against RandAugment", "ours rgb", "ours rgb, augmented", None, None),
)


def ours(folder: str, kind: str, how: str, batch: int = BATCH) -> Iterator[np.ndarray]:
    """The pipeline of training, with the paper's crops."""
    from inception.config import load_config
    from inception.data import pipeline

    config = load_config(
        "experiments/base.py",
        [
            f"--config.data.source={'folder' if kind == 'original' else 'store'}",
            f"--config.data.path={folder}/{kind}",
            f"--config.data.decoder={'exact' if how == 'exact' else 'fast'}",
            f"--config.data.randaugment.layers={2 if how == 'augmented' else 0}",
            f"--config.optim.batch_size={batch}",
        ],
    )
    if how != "mixed":
        config.data.interpolations = ("bilinear",)
    source = pipeline.open_split(config, "train")
    config.model.classes = len(source.classes)
    for made, _ in pipeline.training_batches(config, source, start_step=0, total_steps=10**6):
        yield made["image"]


def _encoded(folder: str, kind: str) -> list[bytes]:
    from inception.data import sources

    opened = sources.open_source(
        "folder" if kind == "original" else "store", path=f"{folder}/{kind}", split="train"
    )
    return [opened[i][0] for i in range(len(opened))]  # type: ignore[misc]


def _boxes(encoded: list[bytes]) -> np.ndarray:
    """One box per image, int32 [n, 4]: top, left, height, width."""
    import io

    from PIL import Image

    from inception.data import cropping

    rng, boxes = np.random.default_rng(0), []
    for data in encoded:
        size = Image.open(io.BytesIO(data)).size
        left, top, right, bottom = cropping.inception_crop(
            *size, rng.random(cropping.UNIFORMS), **RANGES
        )
        top, left = int(top), int(left)
        boxes.append((top, left, int(np.ceil(bottom)) - top, int(np.ceil(right)) - left))
    return np.asarray(boxes, np.int32)


def tf_data(folder: str, kind: str, how: str) -> Iterator[np.ndarray]:
    """decode_and_crop_jpeg, bilinear resize, flip."""
    del how
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    def crop(data: Any, box: Any) -> Any:
        image = tf.io.decode_and_crop_jpeg(data, box, channels=3)
        image = tf.image.resize(image, (PX, PX), method="bilinear")
        return tf.cast(tf.image.random_flip_left_right(image), tf.uint8)

    encoded = _encoded(folder, kind)
    threads = len(os.sched_getaffinity(0))
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.deterministic = False
    pairs = tf.data.Dataset.from_tensor_slices((encoded, _boxes(encoded))).cache().repeat()
    batches = pairs.map(crop, num_parallel_calls=threads).batch(BATCH).prefetch(2)
    yield from batches.with_options(options).as_numpy_iterator()


def pillow(folder: str, kind: str, how: str) -> Iterator[np.ndarray]:
    """torchvision's order: decode the whole image, crop, resize, flip."""
    del how
    import io

    from PIL import Image

    encoded = _encoded(folder, kind)
    boxes = _boxes(encoded)
    rng = np.random.default_rng(0)
    while True:
        rows = []
        for i in rng.integers(0, len(encoded), BATCH):
            top, left, height, width = boxes[i].tolist()
            image = Image.open(io.BytesIO(encoded[i])).convert("RGB")
            image = image.crop((left, top, left + width, top + height))
            image = image.resize((PX, PX), Image.Resampling.BILINEAR)
            if rng.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            rows.append(np.asarray(image))
        yield np.stack(rows)


def ffcv(folder: str, kind: str, how: str) -> Iterator[np.ndarray]:
    """FFCV's loader on its own file, short side 256: JPEGs of quality 90, or pixels.

    Its indices are repeated five times, because an epoch of 1,000 images starts too slowly.
    """
    del how
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor
    from ffcv.writer import DatasetWriter
    from PIL import Image

    files = sorted(pathlib.Path(folder, "original").rglob("*.JPEG"))

    class Photos:
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            image = Image.open(files[index]).convert("RGB")
            scale = min(1.0, 256 / min(image.size))
            size = round(image.width * scale), round(image.height * scale)
            return np.asarray(image.resize(size, Image.Resampling.BICUBIC)), 0

    path = f"{folder}/{kind}.beton"
    field = RGBImageField(write_mode="jpg" if kind == "jpeg" else "raw", jpeg_quality=90)
    writer = DatasetWriter(path, {"image": field, "label": IntField()}, num_workers=1)
    writer.from_indexed_dataset(Photos())
    crop = RandomResizedCropRGBImageDecoder(
        (PX, PX), scale=RANGES["area_range"], ratio=RANGES["aspect_range"]
    )
    batches = Loader(
        path,
        batch_size=BATCH,
        num_workers=len(os.sched_getaffinity(0)),
        os_cache=True,
        order=OrderOption.RANDOM,
        drop_last=True,
        indices=np.tile(np.arange(len(files), dtype="uint64"), 5),
        pipelines={
            "image": [crop, RandomHorizontalFlip(), ToTensor()],
            "label": [IntDecoder(), ToTensor()],
        },
    )
    while True:
        for image, _ in batches:
            yield image.numpy()


MAKERS = {"ours": ours, "tf.data": tf_data, "Pillow": pillow, "ffcv": ffcv}


def contend(contender: str, folder: str) -> None:
    """A contender's process: each line of stdin gives the seconds for which to make batches."""
    out = os.dup(1)
    os.dup2(2, 1)  # stdout is for answers only
    sys.path.insert(0, str(ROOT))
    maker, kind, *how = contender.replace(",", "").split()
    batches = MAKERS[maker](folder, kind, *(how or [""]))
    for _ in range(5):
        assert next(batches).shape == (BATCH, PX, PX, 3)
    os.write(out, b"ready\n")
    for line in sys.stdin:
        count, start = 0, time.perf_counter()
        while time.perf_counter() < start + float(line):
            count += len(next(batches))
        os.write(out, f"{count / (time.perf_counter() - start)}\n".encode())


class Contender:
    """A process that makes batches on request."""

    def __init__(self, name: str, folder: str, cores: set[int], python: str):
        command = [python, "-W", "ignore", __file__, folder, f"--contender={name}"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        self.rates: list[float] = []
        self.missing = ""
        assert self._process.stdout
        if self._process.stdout.readline() != "ready\n":
            assert self._process.stderr
            self.missing = self._process.stderr.read().strip().rsplit("\n", 1)[-1]
        self._process.send_signal(signal.SIGSTOP)

    def round(self, seconds: float) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.send_signal(signal.SIGCONT)
        print(seconds, file=self._process.stdin, flush=True)
        self.rates.append(float(self._process.stdout.readline()))
        self._process.send_signal(signal.SIGSTOP)  # else it would continue prefetching

    def stop(self) -> None:
        self._process.kill()


def ratio(a: Contender, b: Contender) -> str:
    """The median of the rounds' ratios, and their range."""
    every = [x / y for x, y in zip(a.rates, b.rates, strict=True)]
    return f"{statistics.median(every):5.2f} ({min(every):.2f}-{max(every):.2f})"


def compare(folder: str, ffcv_python: str, rounds: int, seconds: float, only: str) -> None:
    """Prints every contender's rate on one core, the ratios, and our rate on all cores."""
    cores = sorted(os.sched_getaffinity(0))
    names = dict.fromkeys(name for row in COMPARISONS for name in row[1:3])
    everyone: dict[str, Contender] = {}
    for name in names:
        python = ffcv_python if name.startswith("ffcv") else sys.executable
        if python and only in name:
            print(f"starting {name} ...", file=sys.stderr)
            everyone[name] = Contender(name, folder, {cores[-1]}, python)
    for name in [n for n, c in everyone.items() if c.missing]:
        print(f"{name} is left out: {everyone.pop(name).missing}")
    for i in range(rounds):
        print(f"round {i + 1} of {rounds}", file=sys.stderr)
        for contender in everyone.values():
            contender.round(seconds)
    print(f"\nOne core, images/s, median of {rounds} rounds of {seconds:g} s:\n")
    for name, contender in everyone.items():
        print(f"    {name:24} {statistics.median(contender.rates):8.0f}")
    print("\nRatios, median (lowest-highest of the rounds):\n")
    for title, mine, peer, floor, aim in COMPARISONS:
        if mine in everyone and peer in everyone:
            goal = f"   floor {floor:g}, aim {aim:g}" if floor else ""
            print(f"    {title:50} {ratio(everyone[mine], everyone[peer])}{goal}")
    for contender in everyone.values():
        contender.stop()

    print(f"\n{len(cores)} cores against one, of linear (floor 0.9, aim 1):\n")
    for kind in ("original", "jpeg", "rgb"):
        one = Contender(f"ours {kind}", folder, {cores[-1]}, sys.executable)
        many = Contender(f"ours {kind}", folder, set(cores), sys.executable)
        for _ in range(rounds):
            one.round(seconds)
            many.round(seconds)
        every = [b / a / len(cores) for a, b in zip(one.rates, many.rates, strict=True)]
        print(
            f"    ours {kind:10} {statistics.median(many.rates):8.0f} images/s   "
            f"{statistics.median(every):.2f} ({min(every):.2f}-{max(every):.2f})"
        )
        one.stop()
        many.stop()


MEMORY = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from benchmarks import input
batches = input.ours(sys.argv[2], sys.argv[3], "", batch=256)
for _ in range(60):
    held = next(batches)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""

START = """
import sys, time
sys.path.insert(0, sys.argv[1])
from benchmarks import input
next(input.ours(sys.argv[2], "tiny", "", batch=256))
"""


def memory_and_start(folder: str) -> None:
    """Prints the loader's peak memory and its time to the first batch of 1.28 million records."""
    print("\nPeak memory of a process that makes batches of 256 on all cores, MB:\n")
    for kind in ("original", "jpeg", "rgb"):
        command = [sys.executable, "-c", MEMORY, str(ROOT), folder, kind]
        print(f"    {kind:10} {subprocess.check_output(command, text=True).strip():>6}")
    count = 1_281_167
    tiny = pathlib.Path(folder, "tiny")
    tiny.mkdir()
    (tiny / "train.bin").write_bytes(np.random.default_rng(0).bytes(12 * count))
    np.savez(
        tiny / "train.npz",
        offsets=np.arange(count + 1, dtype=np.int64) * 12,
        labels=np.zeros(count, np.int32),
        shapes=np.full((count, 2), 2, np.int32),
    )
    about = {"version": 1, "format": "rgb", "splits": {"train": count}, "classes": ["one"]}
    (tiny / "store.json").write_text(json.dumps(about))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", START, str(ROOT), folder], check=True)
        times.append(time.perf_counter() - start)
    print(
        f"\nFrom the start of the process to the first batch of a store of {count:,} records: "
        f"{statistics.median(times):.1f} s ({min(times):.1f}-{max(times):.1f})"
    )


def main() -> None:
    """Writes the stores into a temporary folder, then measures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", metavar="PHOTOS")
    parser.add_argument("--ffcv_python", default="", help="interpreter that can import ffcv")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--only", default="", help="only contenders whose name contains this")
    parser.add_argument("--contender", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        contend(args.contender, args.photos)
        return
    files = sorted(
        p for p in pathlib.Path(args.photos).rglob("*") if p.suffix.lower() in (".jpeg", ".jpg")
    )[:1000]
    if not files:
        parser.error(f"{args.photos}: no JPEG in it")
    if args.ffcv_python:
        found = subprocess.run([args.ffcv_python, "-c", "import ffcv"], stderr=subprocess.DEVNULL)
        if found.returncode:
            parser.error(f"--ffcv_python={args.ffcv_python} has no ffcv: pip install ffcv there")
    with tempfile.TemporaryDirectory() as folder:
        split = pathlib.Path(folder, "original", "train", "photo")
        split.mkdir(parents=True)
        for i, file in enumerate(files):
            (split / f"{i:04}.JPEG").symlink_to(file.resolve())
        for kind in ("jpeg", "rgb"):
            command = [sys.executable, str(ROOT / "launch.py"), "prepare", "--short_side=256"]
            command += [f"--source={folder}/original", f"--output={folder}/{kind}"]
            subprocess.run([*command, f"--format={kind}"], check=True, stderr=subprocess.DEVNULL)
        compare(folder, args.ffcv_python, args.rounds, args.seconds, args.only)
        memory_and_start(folder)


if __name__ == "__main__":
    main()
