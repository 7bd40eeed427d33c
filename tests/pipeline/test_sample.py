"""The built-in sample: same bytes everywhere, pairs of one subject, neither trivial nor noise."""

from __future__ import annotations

import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pipeline.errors import UsageError, WorkError
from pipeline.sources.sample import NOTICE, SampleSource, parse_sample
from pipeline.sources.sample_images import SIDE
from pipeline.sources.sample_subject import Subject, cast_subject

KEYS = ["faces/000000.jpg", "comics/000000.jpg", "comics/000003.jpg", "faces/000003.jpg"]
PAIRS = 40

GOLDEN = Subject(
    x=0.42340669142344123,
    y=0.49265036869924345,
    size=0.30597698234766324,
    tilt=-0.0038951265090298726,
    width=0.754142779632316,
    jaw=0.2678924344204274,
    skin=(230, 199, 176),
    hair=(148, 144, 141),
    cut="short",
    length=1.3361499892725428,
    volume=0.1523203826926033,
    forehead=0.5758155887530627,
    parting=0.3671712177457369,
    eye_gap=0.4244528637014381,
    eye_size=0.19307926857723257,
    eye_open=0.5054966464506732,
    iris=(48, 34, 30),
    brow=0.054064841600229854,
    brow_slope=0.020291378843564495,
    nose=0.31077742701914696,
    nose_width=0.14082997018213225,
    mouth=0.26034658540254185,
    smile=-0.03533163796948069,
    teeth=False,
    glasses=False,
    beard="none",
    hat="none",
    shoulders=1.4890705508729665,
    neckline=0.45294821574876354,
    clothes=(173, 121, 110),
    background=(140, 160, 162),
)


@pytest.fixture(scope="module")
def source() -> SampleSource:
    return SampleSource(count=2 * PAIRS, seed=7)


@pytest.fixture(scope="module")
def gray(source: SampleSource) -> np.ndarray:
    """uint8[PAIRS, 2, 150, 150]: of every subject the photograph and the drawing, as read to train."""
    images = [
        Image.open(io.BytesIO(source.read(f"{kind}/{number:06d}.jpg")))
        for number in range(PAIRS)
        for kind in ("faces", "comics")
    ]
    small = [np.asarray(_shrunk(image, 150)) for image in images]
    return np.stack(small).reshape(PAIRS, 2, 150, 150)


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    return image.convert("L").resize((side, side), Image.Resampling.BILINEAR)


def test_list_names_each_subject_once_as_a_photograph_and_once_as_a_drawing():
    keys = [key for key, _ in SampleSource(count=6, seed=0).list()]
    names = ["000000.jpg", "000001.jpg", "000002.jpg"]
    assert sorted(keys) == [f"comics/{n}" for n in names] + [f"faces/{n}" for n in names]


def test_every_listed_key_can_be_read_and_its_size_is_not_promised():
    source = SampleSource(count=4, seed=0)
    for key, size in source.list():
        assert size == 0
        assert source.read(key)


@pytest.mark.parametrize("key", KEYS)
def test_an_image_is_a_square_rgb_jpeg_that_says_it_is_synthetic(source: SampleSource, key: str):
    image = Image.open(io.BytesIO(source.read(key)))
    image.load()
    assert (image.format, image.size, image.mode) == ("JPEG", (SIDE, SIDE), "RGB")
    assert image.info["comment"] == NOTICE.encode()


def test_bytes_depend_on_seed_and_key_alone(source: SampleSource):
    first = {key: source.read(key) for key in KEYS}
    elsewhere = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(max_workers=2) as pool:
        again = dict(zip(reversed(KEYS), pool.map(elsewhere.read, reversed(KEYS)), strict=True))
    assert again == first
    assert len(set(first.values())) == len(KEYS)


def test_a_larger_sample_begins_with_the_smaller_one(source: SampleSource):
    larger = SampleSource(count=10 * source.count, seed=source.seed)
    assert larger.read(KEYS[1]) == source.read(KEYS[1])


@pytest.mark.parametrize("key", KEYS[:2])
def test_another_seed_draws_other_images(source: SampleSource, key: str):
    assert SampleSource(source.count, seed=source.seed + 1).read(key) != source.read(key)


def test_golden_subject():
    """If this changes, so does every image of every sample that anyone has built."""
    assert cast_subject(seed=7, number=17) == GOLDEN


def test_a_drawing_shows_the_subject_of_its_photograph(gray: np.ndarray):
    """Among the drawings of ten subjects, the one most like a photograph is mostly its own."""
    tiny = gray[:10].reshape(10, 2, 10, 15, 10, 15).mean(axis=(3, 5)).reshape(10, 2, 100)
    scaled = (tiny - tiny.mean(2, keepdims=True)) / tiny.std(2, keepdims=True)
    likeness = scaled[:, 0] @ scaled[:, 1].T
    assert (likeness.argmax(axis=1) == np.arange(10)).sum() >= 5


def test_no_simple_statistic_tells_the_classes_apart(gray: np.ndarray):
    pixels = gray.astype(np.float64)
    inner = pixels[..., 1:-1, 1:-1]
    sides = pixels[..., :-2, 1:-1] + pixels[..., 2:, 1:-1]
    sides = sides + pixels[..., 1:-1, :-2] + pixels[..., 1:-1, 2:]
    assert _best_threshold(pixels.mean(axis=(2, 3))) < 0.75
    assert _best_threshold(pixels.std(axis=(2, 3))) < 0.8
    assert _best_threshold(np.abs(4 * inner - sides).mean(axis=(2, 3))) < 0.85


def _best_threshold(values: np.ndarray) -> float:
    """The accuracy of the best single cut through `values`, float[PAIRS, 2]."""
    below = [(values <= cut).mean(axis=0) for cut in values.flat]
    shares = [(photos + 1 - drawings) / 2 for photos, drawings in below]
    return max(*shares, 1 - min(shares))


def test_flat_areas_and_thin_dark_lines_together_tell_the_classes_apart(gray: np.ndarray):
    """A linear rule learned from one half of the subjects holds for the other half."""
    features = np.array([_texture(Image.fromarray(image)) for image in gray.reshape(-1, 150, 150)])
    label = np.tile([-1.0, 1.0], PAIRS)
    seen, unseen = slice(0, PAIRS), slice(PAIRS, None)
    scaled = (features - features[seen].mean(0)) / features[seen].std(0)
    design = np.column_stack([scaled, np.ones(len(scaled))])
    weights = np.linalg.lstsq(design[seen], label[seen], rcond=None)[0]
    assert (np.sign(design[unseen] @ weights) == label[unseen]).mean() > 0.85


def _texture(image: Image.Image) -> list[float]:
    """How flat an image is at most places, how rough in the mean, how deep its thin dark lines."""
    highest, lowest = (
        image.filter(kind(3)) for kind in (ImageFilter.MaxFilter, ImageFilter.MinFilter)
    )
    span = np.asarray(highest).astype(float) - np.asarray(lowest)
    closed = image.filter(ImageFilter.MaxFilter(5)).filter(ImageFilter.MinFilter(5))
    lines = np.asarray(closed).astype(float) - np.asarray(image)
    return np.log1p([np.median(span), span.mean(), lines.mean()]).tolist()


def test_parse_reads_the_count():
    source = parse_sample("sample:2000", seed=3)
    assert source == SampleSource(count=2000, seed=3)
    assert source.uri == "sample:2000"


@pytest.mark.parametrize(
    ("text", "received"),
    [
        ("sample:abc", "abc"),  # no number
        ("sample:", ""),  # forgotten
        ("sample:0", "0"),  # nothing to train on
        ("sample:7", "7"),  # one subject would lack its twin
        ("sample:-2", "-2"),
        ("sample:2.0", "2.0"),
        ("sample:1000002", "1000002"),  # keys have six digits
        ("sample:" + "2" * 9, "2" * 9),
        ("sample:٢٠", "٢٠"),  # digits to Python, not to the reader of a manifest
        ("sample:20\n", "20\\n"),
    ],
)
def test_parse_refuses_in_one_line(text: str, received: str):
    with pytest.raises(UsageError) as refusal:
        parse_sample(text, seed=0)
    assert str(refusal.value) == (
        "--input sample:N: N must be an even number from 2 to 1000000, "
        f"received '{received}'; for example sample:2000"
    )


@pytest.mark.parametrize(
    "key",
    [
        "faces/000040.jpg",  # the first number after the last
        "faces/0.jpg",
        "Faces/000000.jpg",
        "photos/000000.jpg",
        "faces/000000.png",
        "../faces/000000.jpg",
        "faces/000000.jpg\n",
        "",
    ],
)
def test_an_unknown_key_is_an_error_that_names_the_known_ones(source: SampleSource, key: str):
    with pytest.raises(WorkError, match=r"sample:80 .*faces/000039\.jpg.*comics/000039\.jpg"):
        source.read(key)
