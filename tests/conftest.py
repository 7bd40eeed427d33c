"""Tiny real things: image files in a folder, a data set built from them by the real job."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from beam_jobs.build_records import main as build_records

settings.register_profile("no deadline", deadline=None)  # machines of many speeds
settings.load_profile("no deadline")

SHARED = Path(__file__).resolve().parents[2] / "shared"


def jpeg(seed: int, *, size: tuple[int, int] = (80, 64), light: int = 0) -> bytes:
    """A small real JPEG, smooth and different for each seed; `light` raises its brightness."""
    coarse = np.random.default_rng(seed).integers(0, 156, (6, 6, 3)) + light
    image = Image.fromarray(coarse.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def write_pairs(root: Path, pairs: int) -> Path:
    """`faces/NNN.jpg` and the lighter `comics/NNN.jpg` for each number below `pairs`."""
    for label, name in enumerate(("faces", "comics")):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(pairs):
            data = jpeg(2 * number + label, light=90 * label)
            (root / name / f"{number:03d}.jpg").write_bytes(data)
    return root


def build(*arguments: object) -> int:
    """Run the build job in this process; its exit status."""
    return build_records([str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """120 pairs of small JPEGs in two class folders; not to be changed."""
    return write_pairs(tmp_path_factory.mktemp("images"), 120)


@pytest.fixture(scope="session")
def records(image_folder, tmp_path_factory) -> Path:
    """`image_folder` as records of 40x32 gray pixels; not to be changed."""
    folder = tmp_path_factory.mktemp("built") / "tfrecords"
    status = build(
        *("--input", image_folder, "--output", folder, "--classes", "faces,comics"),
        *("--image_size", "32x40"),
    )
    assert status == 0
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images beside the project; the tests that want it skip without it."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside the project")
    return SHARED


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of its own: `small_disk("size=1m")`."""
    mounted = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("needs the right to mount a tmpfs")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)
