"""The real Kaggle client against a stand-in for Kaggle on loopback: no internet, nothing mocked."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import random
import resource
import shutil
import socket
import sys
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from beam_jobs.build_records import choose_source
from beam_jobs.options import parse_build_options
from pipeline.errors import UsageError, WorkError
from pipeline.manifest import load_manifest
from pipeline.sources import kaggle
from pipeline.sources.kaggle import KaggleDataset, KaggleUnavailable, fetch, parse_kaggle
from tests.conftest import build
from tests.pipeline.kaggle_standin import API_PORT, SIGNATURE, StandIn, serve

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="Kaggle's client needs Python 3.11 or newer"
)

TOKEN = "KGAT_5f0c1dead5ecret"
FLOWERS = KaggleDataset("ada", "five-flowers")
Failing = Callable[..., str]


def zipped(seed: int = 0, size: int = 400_000) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("rose/1.jpg", random.Random(seed).randbytes(size))
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty home with a token; Kaggle is on loopback, and tries follow each other at once."""
    for name in list(os.environ):
        if name.startswith("KAGGLE_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    monkeypatch.setattr(kaggle, "_FIRST_PAUSE", 0.01)
    return tmp_path


@pytest.fixture
def flowers_zip(home: Path) -> Path:
    """Where FLOWERS belongs in the default cache."""
    return home / "cache" / "inkling" / "ada" / "five-flowers" / "latest.zip"


@pytest.fixture
def free_port() -> None:
    """Wait for the one port that Kaggle's client can be sent to: another test run may hold it."""
    deadline = time.monotonic() + 20
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                return probe.bind(("127.0.0.1", API_PORT))
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    pytest.skip(f"NOT TESTED: port {API_PORT}, Kaggle's test port: {error}")
        time.sleep(0.2)


@pytest.fixture
def server(free_port: None) -> Iterator[StandIn]:
    with serve(StandIn(zipped())) as standin:
        yield standin


@pytest.fixture
def failing(capfd: pytest.CaptureFixture[str], home: Path) -> Failing:
    """Fetch, see it fail, hand back its one line; nothing secret may show anywhere."""

    def fail(
        kind: type[Exception] = KaggleUnavailable, *, secrets: tuple[str, ...] = (TOKEN, SIGNATURE)
    ) -> str:
        with pytest.raises(kind) as caught:
            fetch(FLOWERS)
        assert caught.type is kind
        shown = "".join([*traceback.format_exception(caught.value), *capfd.readouterr()])
        cached = [file.read_text(errors="ignore") for file in home.rglob("cache/**/*.json")]
        for secret in secrets:
            assert secret not in "".join([shown, *cached])
        assert caught.value.__context__ is None  # whose text would show the address or the token
        line = str(caught.value)
        assert line.startswith("kaggle:ada/five-flowers") or "token" in line
        assert "\n" not in line
        return line

    return fail


@pytest.mark.parametrize(
    ("text", "dataset"),
    [
        ("kaggle:ada/five-flowers", FLOWERS),
        ("kaggle:Ada_1/x/3", KaggleDataset("Ada_1", "x", 3)),
    ],
)
def test_what_is_written_is_what_is_read(text: str, dataset: KaggleDataset) -> None:
    assert parse_kaggle(text) == dataset
    assert parse_kaggle(text).uri == text


@pytest.mark.parametrize(
    "text",
    [
        "kaggle:ada",
        "kaggle:/x",
        "kaggle:ada/",
        "kaggle:ada/x/",
        "kaggle:ada/x/3/4",
        "kaggle:../x",  # becomes part of a path
        "kaggle:ada/..",
        "kaggle:ada/x\n",
        "kaggle:ada/x/0",
        "kaggle:ada/x/-1",
        "kaggle:ada/x/v2",
        "kaggle:ada/x/٣",  # a digit, but not one that Kaggle writes
        "kaggle:adä/x",
        "ada/x",
    ],
)
def test_a_name_that_kaggle_does_not_have_is_bad_usage(text: str) -> None:
    with pytest.raises(UsageError, match="kaggle:owner/dataset") as caught:
        parse_kaggle(text)
    assert "\n" not in str(caught.value)


def test_a_dataset_built_by_hand_cannot_leave_the_cache() -> None:
    with pytest.raises(UsageError):
        KaggleDataset("..", "x")


def test_a_download_is_whole_and_leaves_no_part(
    server: StandIn, flowers_zip: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[int, int | None]] = []
    assert fetch(FLOWERS, progress=lambda done, total: seen.append((done, total))) == flowers_zip
    assert flowers_zip.read_bytes() == server.content
    assert not flowers_zip.with_name("latest.zip.part").exists()
    assert seen == sorted(seen)
    assert seen[-1] == (len(server.content), len(server.content))
    assert capfd.readouterr() == ("", "")


def test_a_version_is_asked_for_and_kept_apart(server: StandIn, tmp_path: Path) -> None:
    third = fetch(parse_kaggle("kaggle:ada/five-flowers/3"), cache=tmp_path)
    assert third == tmp_path / "ada" / "five-flowers" / "3.zip"
    assert server.asked("api")[0].body == {
        "ownerSlug": "ada",
        "datasetSlug": "five-flowers",
        "datasetVersionNumber": 3,
    }


def test_a_cached_zip_needs_no_network(flowers_zip: Path) -> None:
    flowers_zip.parent.mkdir(parents=True)
    flowers_zip.write_bytes(b"as it was left")
    assert fetch(FLOWERS) == flowers_zip


def test_the_token_goes_to_kaggle_and_not_to_storage(server: StandIn, flowers_zip: Path) -> None:
    server.cuts = [200_000]
    fetch(FLOWERS)
    assert {seen.headers["Authorization"] for seen in server.asked("api")} == {f"Bearer {TOKEN}"}
    assert len(server.asked("storage")) == 3  # one that is cut, one that looks, one for the rest
    for seen in server.asked("storage"):
        assert "Authorization" not in seen.headers
        assert TOKEN not in str(seen)
    kept = flowers_zip.with_name("latest.zip.json").read_text()
    assert TOKEN not in kept
    assert SIGNATURE not in kept
    assert "/sets/93/13206/archive.zip" in kept  # tells which version "latest" was


def test_a_public_set_needs_no_token(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    fetch(FLOWERS)
    assert "Authorization" not in server.asked("api")[0].headers


@pytest.mark.parametrize("place", ["environment", ".kaggle", "config/kaggle", "elsewhere"])
def test_a_name_and_key_are_found_where_kaggle_keeps_them(
    server: StandIn, monkeypatch: pytest.MonkeyPatch, home: Path, place: str
) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    if place == "environment":
        monkeypatch.setenv("KAGGLE_USERNAME", "ada")
        monkeypatch.setenv("KAGGLE_KEY", "k3y")
    else:
        (home / place).mkdir(parents=True)
        (home / place / "kaggle.json").write_text('{"username": "ada", "key": "k3y"}')
    if place == "elsewhere":
        monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(home / place))
    fetch(FLOWERS)
    basic = base64.b64encode(b"ada:k3y").decode()
    assert server.asked("api")[0].headers["Authorization"] == f"Basic {basic}"
    assert "Authorization" not in server.asked("storage")[0].headers


def test_a_login_of_the_kaggle_command_is_used(
    server: StandIn, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    login = {"refresh_token": "r", "access_token": "a", "username": "ada"}
    login["access_token_expiration"] = "2999-01-01T00:00:00+00:00"
    (home / ".kaggle").mkdir()
    (home / ".kaggle" / "credentials.json").write_text(json.dumps(login))
    fetch(FLOWERS)
    assert server.asked("api")[0].headers["Authorization"] == "Bearer a"


@pytest.mark.parametrize(
    "token",
    [
        "KGAT_two\nlines",  # refused by requests
        "KGAT_ends\n",  # refused by http.client, which quotes it
        "KGAT_…",  # in no header's alphabet
        "KGAT_" + "x" * 300,  # taken for a file's name, too long for one
    ],
)
def test_a_garbled_token_is_told_without_showing_it(
    server: StandIn, failing: Failing, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", token)
    assert "KAGGLE_API_TOKEN" in failing(secrets=(token.strip(), token[:8] + token[8:].strip()))
    assert server.seen == []


@pytest.mark.parametrize("saved", ["{", "[]", '{"username": 1'])
def test_a_garbled_key_file_is_told(
    failing: Failing, monkeypatch: pytest.MonkeyPatch, home: Path, saved: str
) -> None:
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(home))
    (home / "kaggle.json").write_text(saved)
    assert "token cannot be read" in failing()


def test_a_cut_connection_is_resumed_by_itself(server: StandIn, flowers_zip: Path) -> None:
    server.cuts = [200_000]
    fetch(FLOWERS)
    assert flowers_zip.read_bytes() == server.content
    first, look, rest = server.ranges()
    assert (first, look) == (None, None)
    assert 100_000 < int(rest.removeprefix("bytes=").removesuffix("-")) <= 200_000


def test_a_download_cut_for_good_resumes_with_the_next_call(
    server: StandIn, flowers_zip: Path, failing: Failing
) -> None:
    server.cuts = [200_000] + [0] * 100
    line = failing()
    part = flowers_zip.with_name("latest.zip.part")
    kept = part.read_bytes()
    assert f"{len(kept)} of {len(server.content)} bytes lie in {part}" in line
    assert "the same command resumes" in line
    assert not flowers_zip.exists()
    assert kept == server.content[: len(kept)]

    server.cuts, server.seen = [], []
    fetch(FLOWERS)
    assert server.ranges() == [None, f"bytes={len(kept)}-"]
    assert flowers_zip.read_bytes() == server.content


def break_off(server: StandIn) -> None:
    """As Ctrl-C does, after the first bytes."""

    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(FLOWERS, progress=stop)
    server.seen.clear()


@pytest.mark.parametrize("change", ["other bytes", "other ETag", "no ranges", "weak ETag", "note"])
def test_bytes_of_another_object_are_never_continued(
    server: StandIn, flowers_zip: Path, change: str
) -> None:
    if change == "weak ETag":  # promises the same meaning, not the same bytes
        server.etag = 'W/"1"'
    break_off(server)
    assert flowers_zip.with_name("latest.zip.part").stat().st_size > 0
    if change == "other bytes":
        server.content = zipped(seed=1)
    elif change == "other ETag":
        server.etag = '"2"'
    elif change == "no ranges":
        server.knows_ranges = False
    elif change == "note":
        flowers_zip.with_name("latest.zip.json").write_text("{")
    fetch(FLOWERS)
    assert flowers_zip.read_bytes() == server.content
    assert (server.ranges() == [None]) == (change != "no ranges")


def test_an_object_that_changes_between_the_look_and_the_rest_is_had_whole(
    server: StandIn, flowers_zip: Path
) -> None:
    break_off(server)
    server.later = new = zipped(seed=1)  # of the same size
    fetch(FLOWERS)
    assert flowers_zip.read_bytes() == new
    assert len(server.ranges()) == 2  # its answer to the second is the whole new object


def test_a_rest_that_comes_in_pieces_is_had_whole(server: StandIn, flowers_zip: Path) -> None:
    break_off(server)
    server.longest_range = 150_000
    fetch(FLOWERS)
    assert flowers_zip.read_bytes() == server.content


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "renew or remove it"),
        (403, "accept its licence and set a token"),
        (404, "no such data set or version"),
        (410, "https://www.kaggle.com/datasets/ada/five-flowers"),
    ],
)
@pytest.mark.parametrize("in_body", [False, True])
def test_a_refusal_is_told_at_once(
    server: StandIn, failing: Failing, status: int, advice: str, in_body: bool
) -> None:
    told = json.dumps({"code": status, "message": f"you sent {TOKEN}"}).encode()
    server.api_answers = [(200, told) if in_body else (status, b"<html>no</html>")]
    line = failing()
    assert f"localhost answers HTTP {status}" in line
    assert advice in line
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again_and_then_told(
    server: StandIn, failing: Failing, status: int
) -> None:
    server.api_answers = [(status, b"")] * 3
    assert f"localhost answers HTTP {status}" in failing()
    assert len(server.asked("api")) == 3
    server.api_answers = [(status, b"")]
    fetch(FLOWERS)


def test_fewer_bytes_than_announced_are_no_download(
    server: StandIn, failing: Failing, flowers_zip: Path
) -> None:
    server.promised = len(server.content) + 1000
    assert f"of {server.promised} bytes" in failing()
    assert not flowers_zip.exists()


@pytest.mark.parametrize("damage", ["short", "noise", "page"])
def test_a_damaged_zip_is_removed_and_had_anew(
    server: StandIn, failing: Failing, flowers_zip: Path, damage: str
) -> None:
    good = server.content
    if damage == "short":  # its directory, at the end, never comes
        server.promised = len(good) - 1000
    elif damage == "noise":
        server.content = b"\x00" * 5000
    else:
        server.api_answers = [(200, b"<html>please sign in</html>")]
    assert "is not a readable zip" in failing()
    assert not flowers_zip.exists()
    assert not flowers_zip.with_name("latest.zip.part").exists()
    server.promised, server.content = None, good
    assert fetch(FLOWERS).read_bytes() == good


def test_a_full_disk_is_our_own_fault_and_keeps_the_part(
    server: StandIn, failing: Failing, flowers_zip: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        line = failing(WorkError)  # and not KaggleUnavailable: no other data set would fit either
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"cannot be kept at {flowers_zip}.part: File too large" in line
    assert fetch(FLOWERS).read_bytes() == server.content
    assert server.ranges()[-1] == "bytes=100000-"


def test_no_network_is_told_in_time(
    free_port: None, failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kaggle, "_FIRST_PAUSE", 0.5)
    begun = time.monotonic()
    line = failing()
    assert f"no connection to localhost:{API_PORT} (Connection refused)" in line
    assert time.monotonic() - begun < 5


def test_a_network_that_swallows_everything_is_told_in_time(
    free_port: None, failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kaggle, "_FIRST_PAUSE", 0.5)
    with socket.socket() as deaf, socket.socket() as first, socket.socket() as second:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        deaf.bind(("127.0.0.1", API_PORT))
        deaf.listen(0)
        for caller in (first, second):  # its queue is full: who calls now hears nothing
            caller.setblocking(False)
            caller.connect_ex(("127.0.0.1", API_PORT))
        begun = time.monotonic()
        assert f"no connection to localhost:{API_PORT}" in failing()
        assert 3 < time.monotonic() - begun < 20


def test_a_name_server_that_never_answers_is_within_the_limit_too() -> None:
    tries = kaggle._TRIES_WITHOUT_A_BYTE
    assert tries * kaggle._CONNECT_SECONDS + sum(0.5 * 2**n for n in range(tries - 1)) < 20


def test_two_at_once_download_once(server: StandIn, flowers_zip: Path) -> None:
    server.seconds_before_bytes = 0.3
    threads = [threading.Thread(target=fetch, args=(FLOWERS,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert flowers_zip.read_bytes() == server.content
    assert server.ranges() == [None]


@pytest.fixture
def image_zip(image_folder: Path, tmp_path: Path) -> bytes:
    """The images of `image_folder`, as Kaggle would pack them: one folder deeper."""
    return Path(
        shutil.make_archive(
            str(tmp_path / "set"), "zip", image_folder.parent, base_dir=image_folder.name
        )
    ).read_bytes()


BUILD = ("--input", "kaggle:ada/five-flowers", "--image_size", "32x40")


def test_a_build_from_kaggle_has_the_same_images_and_no_secret(
    server: StandIn, image_zip: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    server.content = image_zip
    server.cuts = [len(image_zip) // 2]
    assert build(*BUILD, "--output", tmp_path / "out") == 0
    assert server.ranges()[-1].startswith("bytes=")  # cut off once, and resumed
    manifest = load_manifest(tmp_path / "out")
    assert manifest.source == {"uri": "kaggle:ada/five-flowers"}
    assert sum(split.records for split in manifest.splits.values()) == 240
    shown = "".join(capfd.readouterr())
    written = "".join(path.read_text(errors="ignore") for path in (tmp_path / "out").iterdir())
    for secret in (TOKEN, SIGNATURE):
        assert secret not in shown + written


def test_a_build_that_kaggle_refuses_gets_one_line(
    server: StandIn, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    server.api_answers = [(403, b"")]
    assert build(*BUILD, "--output", tmp_path / "out") == 1
    error = capfd.readouterr().err
    assert "not permitted" in error
    assert len(error.splitlines()) == 1


def test_for_remote_workers_the_archive_is_copied_once_to_the_temporary_location(
    server: StandIn, image_zip: bytes, tmp_path: Path
):
    server.content = image_zip
    remote = ("--runner", "FlinkRunner", "--temp_location", str(tmp_path / "shared"))
    options = parse_build_options([*BUILD, *remote])
    source, notice = choose_source(options)
    (copy,) = (tmp_path / "shared").iterdir()
    assert notice == ""
    assert source.path == str(copy)
    assert copy.read_bytes() == image_zip
    before = copy.stat().st_mtime_ns
    again, _ = choose_source(options)
    assert again == source
    assert copy.stat().st_mtime_ns == before
    assert sum(1 for _ in source.list()) == sum(1 for _ in zipfile.ZipFile(copy).infolist())


@pytest.mark.parametrize("location", [(), ("--temp_location", "gs://bucket/folder")], ids=str)
def test_remote_workers_need_a_place_that_they_can_read(
    server: StandIn, image_zip: bytes, location: tuple[str, ...]
):
    server.content = image_zip
    options = parse_build_options([*BUILD, "--runner", "FlinkRunner", *location])
    with pytest.raises(UsageError, match="--temp_location: .* give a folder that all of them see"):
        choose_source(options)
