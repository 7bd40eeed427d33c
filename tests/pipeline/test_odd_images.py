"""Strange and broken files as they are met in the wild: decoded or rejected, never a crash."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ImageRejected
from pipeline.images import decode_image
from pipeline.manifest import load_manifest
from pipeline.schema import ImageSpec
from tests.conftest import build, write_pairs

SPEC = ImageSpec(150, 150, 1)


@pytest.fixture(scope="module")
def odd(shared):
    """(file, expectation) of every odd file: decode, reject or either."""
    with (shared / "odd/INDEX.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [(shared / "odd" / row["file"], row["expect(sane_decoder)"]) for row in rows]


def test_each_is_decoded_or_rejected_as_a_sane_decoder_would(odd):
    surprises = []
    for path, expected in odd:
        try:
            pixels = decode_image(path.read_bytes(), SPEC)
            assert pixels.shape == (150, 150, 1)
            found = "decode"
        except ImageRejected as verdict:
            assert verdict.reason in REASONS, (path, verdict)
            found = "reject"
        if expected not in (found, "either"):
            surprises.append((path.name, expected, found))
    assert surprises == []
    assert len(odd) == 129


REASONS = {"zero-bytes", "not-an-image", "too-large", "truncated", "unreadable", "unsupported"}


@pytest.mark.parametrize(
    ("one", "other"),
    [  # the same picture stored in two ways
        (
            "exif-orientation-examples__Portrait_1.jpg",
            f"exif-orientation-examples__Portrait_{n}.jpg",
        )
        for n in (3, 4, 6, 7)
    ]
    + [("sharp__Landscape_6.jpg", "sharp__Landscape_8.jpg")],
)
def test_a_turned_camera_makes_no_other_picture(shared, one, other):
    spec = ImageSpec(32, 32, 1)
    upright, turned = (
        decode_image((shared / "odd" / name).read_bytes(), spec).astype(int)
        for name in (one, other)
    )
    assert np.abs(upright - turned).mean() < 6  # each was compressed anew


def test_a_build_of_them_all_is_in_order(shared, odd, tmp_path):
    """Every file in one class, among good pairs; each stands in the records or in rejects.jsonl."""
    folder = write_pairs(tmp_path / "images", 40)
    for path, _ in odd:
        (folder / "faces" / path.name).write_bytes(path.read_bytes())
    out = tmp_path / "out"
    assert build("--input", folder, "--output", out, "--max_rejects", 60) == 0
    manifest = load_manifest(out)
    rejected = [json.loads(line)["key"] for line in (out / "rejects.jsonl").open()]
    records = sum(split.records for split in manifest.splits.values())
    assert records + len(rejected) == 80 + len(odd)
    assert sum(manifest.rejects.values()) == len(rejected)
    must = {f"faces/{path.name}" for path, expected in odd if expected == "reject"}
    may = {f"faces/{path.name}" for path, expected in odd if expected == "either"}
    assert must <= set(rejected) <= must | may


PEAK_OF = """
import sys
from pathlib import Path
from pipeline.errors import ImageRejected
from pipeline.images import decode_image
from pipeline.schema import ImageSpec

for name in sys.argv[1:]:
    try:
        decode_image(Path(name).read_bytes(), ImageSpec(150, 150, 1))
    except ImageRejected:
        pass
status = Path("/proc/self/status").read_text()  # getrusage would count what pytest had before
print(int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""


def peak_bytes(*paths: Path) -> int:
    """Peak memory of a process that decodes `paths` in turn."""
    command = [sys.executable, "-c", PEAK_OF, *map(str, paths)]
    return int(subprocess.run(command, check=True, capture_output=True).stdout)


def test_memory_stays_below_500_mb(odd):
    assert peak_bytes(*(path for path, _ in odd)) < 500e6


@pytest.mark.parametrize("mode", ["RGBA", "RGB", "L"])
def test_the_largest_image_allowed_stays_below_500_mb(tmp_path, mode):
    """64 megapixels; with alpha they are the dearest there are."""
    path = tmp_path / "large.png"
    Image.new(mode, (8000, 8000)).save(path, compress_level=1)
    assert peak_bytes(path) < 500e6
