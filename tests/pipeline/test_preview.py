"""The contact sheet shows the right pixels above the right keys, and the numbers are numpy's."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline import preview as preview_module
from pipeline.images import decode_image
from pipeline.manifest import load_manifest
from pipeline.preview import (
    GAP,
    HEADING_HEIGHT,
    MARGIN,
    TITLE_HEIGHT,
    ClassSample,
    bars,
    contact_sheet,
    draw_samples,
    main,
    row_height,
    thumbnail,
)
from pipeline.reader import RecordReader
from pipeline.schema import ImageSpec
from tests.conftest import build, jpeg

ENLARGED = 4  # 32x40 pixels in a box of 128x192
EVIL = "ev\x1b[2Jil"


def preview(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def draw(folder, *, per_class=8, sample=2000, seed=0) -> list[ClassSample]:
    manifest = load_manifest(folder)
    return draw_samples(folder, manifest, per_class=per_class, sample=sample, seed=seed)


@pytest.fixture(scope="module")
def colourful(tmp_path_factory):
    """RGB records of three classes, no test split; a class, and each key in it, tries to steer."""
    root = tmp_path_factory.mktemp("colourful")
    for label, name in enumerate(("apples", "pears", EVIL)):
        (root / "images" / name).mkdir(parents=True)
        for number in range(label + 2):
            (root / "images" / name / f"{label}{number}\x1b]0;x\x07.jpg").write_bytes(jpeg(number))
    status = build(
        *("--input", root / "images", "--output", root / "records", "--image_size", "32x40"),
        *("--channels", 3, "--test_fraction", 0, "--shards", 2),
    )
    assert status == 0
    return root


def test_statistics_are_those_of_numpy(records):
    for one in draw(records):
        with RecordReader(records, load_manifest(records), one.split) as reader:
            images, labels = reader.read(np.arange(reader.records))
        pixels = images[labels == one.label]
        assert one.sampled == one.records == len(pixels)
        assert one.mean == pytest.approx(pixels.mean(), abs=1e-9)
        assert one.std == pytest.approx(pixels.std(), abs=1e-9)
        assert one.histogram.tolist() == np.histogram(pixels, 16, (0, 256))[0].tolist()


def test_a_sample_is_a_sample_and_the_table_says_how_large(records, tmp_path, capsys):
    samples = draw(records, sample=10)
    assert [one.sampled for one in samples] == [10] * 4
    whole = draw(records)
    assert samples[0].levels.sum() == 10 * 32 * 40
    assert (samples[0].levels <= whole[0].levels).all()
    assert preview(records, "--output", tmp_path / "p.png", "--sample", 10) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    one, manifest = samples[0], load_manifest(records)
    count = manifest.splits["train"].records_per_class[0]
    assert lines[1] == [
        *("train", "faces", "0", str(count), "50.0", "10", f"{one.mean:.1f}", f"{one.std:.1f}"),
        bars(one.histogram),
    ]


def test_classes_of_other_brightness_have_other_bars(records):
    dark, bright = draw(records)[:2]
    dark_bars, bright_bars = bars(dark.histogram), bars(bright.histogram)
    assert len(dark_bars) == len(bright_bars) == 16
    assert dark_bars[:5] > bright_bars[:5] == "▁▁▁▁▁"  # 90 levels brighter, as conftest made them
    assert bright_bars[12:] > dark_bars[12:] == "▁▁▁▁"


@pytest.mark.parametrize(
    ("counts", "drawn"),
    [([0, 7], "▁█"), ([0, 0], "▁▁"), ([3, 6, 7, 7000], "▁▁▁█"), (range(8), "▁▂▃▄▅▆▇█")],
)
def test_bars_are_as_tall_as_the_largest_count_allows(counts, drawn):
    assert bars(np.array(counts)) == drawn


def headings(sheet: Image.Image) -> list[int]:
    """Where the gray bands begin that stand above the rows."""
    edge = np.asarray(sheet.convert("L"))[:, 0]
    return [y for y in range(1, len(edge)) if edge[y] == 0xE4 != edge[y - 1]]


@pytest.mark.parametrize("per_class", [1, 3, 8])
def test_the_picture_has_a_row_for_each_split_and_class(records, tmp_path, per_class):
    path = tmp_path / "preview.png"
    assert preview(records, "--output", path, "--per_class", per_class) == 0
    with Image.open(path) as sheet:
        sheet.load()
    samples = draw(records, per_class=per_class)
    assert [len(one.pictures) for one in samples] == [per_class] * 4
    assert sheet.format == "PNG"
    tops = headings(sheet)
    assert tops == [TITLE_HEIGHT + sum(map(row_height, samples[:row])) for row in range(4)]
    assert sheet.height == tops[-1] + row_height(samples[-1]) + MARGIN
    assert sheet.width >= 2 * MARGIN + per_class * 40 * ENLARGED
    assert [entry.name for entry in tmp_path.iterdir()] == ["preview.png"]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_the_pixels_are_those_of_the_key_beneath(records, image_folder, colourful, channels, mode):
    folder = records if channels == 1 else colourful / "records"
    source = image_folder if channels == 1 else colourful / "images"
    samples = draw(folder, per_class=2)
    sheet = contact_sheet(samples, title="")
    assert sheet.mode == mode
    top = TITLE_HEIGHT + HEADING_HEIGHT + GAP
    for column, (key, _) in enumerate(samples[0].pictures):
        left = MARGIN + column * (40 * ENLARGED + GAP)
        shown = sheet.crop((left, top, left + 40 * ENLARGED, top + 32 * ENLARGED))
        pixels = decode_image((source / key).read_bytes(), ImageSpec(32, 40, channels))
        small = np.asarray(shown)[::ENLARGED, ::ENLARGED].reshape(32, 40, channels)
        assert (small == pixels).all()
        assert key.startswith(f"{samples[0].name}/")


def test_images_are_drawn_by_the_seed_alone(records, tmp_path):
    files = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for path, seed in zip(files, (0, 0, 1), strict=True):
        assert preview(records, "--output", path, "--seed", seed) == 0
    a, b, c = (path.read_bytes() for path in files)
    assert a == b != c
    keys = [{key for one in draw(records, seed=seed) for key, _ in one.pictures} for seed in (0, 1)]
    assert len(keys[0]) == len(keys[1]) == 32
    assert keys[0] != keys[1]


def test_an_empty_split_and_names_that_steer_terminals(colourful, tmp_path, capsys):
    path = tmp_path / "preview.png"
    assert preview(colourful / "records", "--output", path) == 0
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    escaped = EVIL.replace("\x1b", "\\x1b")
    lines = captured.out.splitlines()
    assert [line.split()[:4] for line in lines[1:4]] == [
        ["train", "apples", "0", "2"],
        ["train", escaped, "1", "4"],
        ["train", "pears", "2", "3"],
    ]
    assert lines[4] == f"no records: test/apples, test/{escaped}, test/pears"
    with Image.open(path) as sheet:
        gaps = np.diff(headings(sheet))
        assert sheet.mode == "RGB"
    assert len(gaps) == 5
    assert gaps[3:].tolist() == [HEADING_HEIGHT] * 2


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((32, 40, 1), (160, 128)),
        ((1, 1, 1), (128, 128)),
        ((150, 150, 3), (128, 128)),
        ((100, 100, 1), (100, 100)),  # enlarged by whole numbers only
        ((4096, 4096, 1), (128, 128)),
        ((1, 40, 1), (160, 8)),  # a row of pixels is still to be seen
        ((1, 4096, 3), (192, 8)),
        ((1000, 10, 3), (8, 128)),
    ],
)
def test_a_thumbnail_fits_its_box_and_can_be_seen(shape, size):
    picture = thumbnail(np.full(shape, 77, np.uint8))
    assert picture.size == size
    assert set(np.asarray(picture).ravel()) == {77}


def written(text: str, room: int = 150) -> bytes:
    """The pixels of `text`, on a sheet that has more room than it may take."""
    sheet = Image.new("L", (300, 20), "white")
    preview_module._write(ImageDraw.Draw(sheet), (0, 0), text, size=12, room=room)
    assert (np.asarray(sheet)[:, room + 2 :] == 255).all()
    return sheet.tobytes()


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a漢b", "a\\u6f22b"),  # no such letter in the font
        ("a\x1bb", "a\\x1bb"),
        ("a\u202eb", "a\\x202eb"),  # turns the writing around
    ],
)
def test_what_cannot_be_drawn_is_escaped(text, same):
    assert written(text) == written(same)


def test_long_keys_lose_their_middle():
    font = preview_module._font(12)
    clipped = preview_module._clip("folder/" + "m" * 2_000_000 + "/0001.jpg", font, 150)
    start, end = clipped.split("…")
    assert start.startswith("folder/")
    assert end.endswith("/0001.jpg")
    assert 130 < font.getlength(clipped) <= 150
    assert preview_module._clip("faces/0001.jpg", font, 150) == "faces/0001.jpg"
    assert written("m" * 1000) != written("n" * 1000)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_picture_goes_into_the_current_folder_by_default(records, here):
    assert preview(records) == 0
    assert [entry.name for entry in here.iterdir()] == ["preview.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is no finished data set"),
        (["{}", "--per_class", "0"], "received 0"),
        (["{}", "--per_class", "many"], "many"),
        (["{}", "--sample", "3"], "at least --per_class, 8, received 3"),
        (["{}", "--seed", str(2**70)], "must fit 64 bits"),
        (["{}", "--output", "nowhere/p.png"], "a folder that is there"),
        (["{}", "--output", "p.jpg"], "must be a .png"),
        (["{}", "--output", "folder.png"], "must be a .png file"),
        (["{}", "--per_clas", "3"], "did you mean --per_class?"),
    ],
)
def test_a_mistake_gets_one_clear_line_and_no_picture(records, here, capsys, arguments, message):
    (here / "folder.png").mkdir()
    assert preview(*(argument.replace("{}", str(records)) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert [entry.name for entry in here.rglob("*")] == ["folder.png"]


def test_reading_stops_when_there_is_enough_and_batches_do_not_matter(records, monkeypatch):
    in_one_batch = draw(records, per_class=2, sample=3)
    numbers = []
    read = RecordReader.read
    monkeypatch.setattr(
        RecordReader, "read", lambda self, given: numbers.extend(given) or read(self, given)
    )
    monkeypatch.setattr(preview_module, "_BATCH_BYTES", 1)
    one_by_one = draw(records, per_class=2, sample=3)
    assert len(numbers) < 60  # of 240
    for one, other in zip(in_one_batch, one_by_one, strict=True):
        assert one.levels.tolist() == other.levels.tolist()
        assert [key for key, _ in one.pictures] == [key for key, _ in other.pictures]


def test_a_label_out_of_range_fails_in_one_line(records, tmp_path, monkeypatch, capsys):
    read = RecordReader.read
    monkeypatch.setattr(
        RecordReader, "read", lambda self, given: (read(self, given)[0], np.full(len(given), 2))
    )
    assert preview(records, "--output", tmp_path / "p.png") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "a record has label 2" in line


def test_a_full_disk_leaves_the_old_picture(records, here, monkeypatch, capsys):
    def save(self, file, kind):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    (here / "preview.png").write_bytes(b"old")
    monkeypatch.setattr(Image.Image, "save", save)
    assert preview(records) == 1
    assert capsys.readouterr().err == "error: No space left on device\n"
    assert [entry.read_bytes() for entry in here.iterdir()] == [b"old"]


def test_a_damaged_record_fails_in_one_line_and_leaves_the_old_picture(records, tmp_path, capsys):
    folder = shutil.copytree(records, tmp_path / "damaged")
    path = tmp_path / "preview.png"
    path.write_bytes(b"old")
    shard = folder / "train-00000-of-00016.tfrecord"
    data = bytearray(shard.read_bytes())
    data[500] ^= 1
    shard.write_bytes(data)
    assert preview(folder, "--output", path) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{shard}: record 0" in line
    assert path.read_bytes() == b"old"


def test_preview_never_loads_tensorflow(records, tmp_path):
    script = (
        "import sys; from pipeline.preview import main; status = main(sys.argv[1:]);"
        "heavy = {'tensorflow', 'keras', 'apache_beam'} & set(sys.modules);"
        "sys.exit(f'{status} {heavy}')"
    )
    command = [sys.executable, "-c", script, str(records), "--output", str(tmp_path / "p.png")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stderr.splitlines() == ["0 set()"]
