"""The build on other people's engines: a real Flink cluster, and Prism. Run by `make test-flink`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import apache_beam
import pytest

from tests.beam_jobs.ending import contents
from tests.beam_jobs.flink import CACHE, Cluster, job_server_jar
from tests.conftest import SHARED, build, write_pairs

pytestmark = pytest.mark.flink

SOURCES = ["sample", "folder", "zip", "real"]


class Builds:
    """Inputs of each kind, and what DirectRunner makes of them."""

    def __init__(self, root: Path) -> None:
        folder = write_pairs(root / "images", 60)
        (folder / "faces/007.jpg").write_bytes(b"")  # refused
        archive = shutil.make_archive(str(root / "images"), "zip", folder)
        self.inputs = {"sample": "sample:200", "folder": folder, "zip": archive}
        self.inputs |= {"large": "sample:400", "real": SHARED / "images"}
        self._root = root
        self._made: dict[str, dict[str, bytes]] = {}

    def expected(self, name: str) -> dict[str, bytes]:
        """File → bytes of the data set that DirectRunner makes."""
        if name not in self._made:
            output = self._root / "direct" / name
            assert build("--input", self.inputs[name], "--output", output) == 0
            self._made[name] = contents(output)
        return self._made[name]

    def command(self, name: str, output: Path, *arguments: object) -> list[str]:
        """The build of an input, as a user types it."""
        if name == "real" and not SHARED.is_dir():
            pytest.skip("no ../shared beside the project")
        job = (sys.executable, "-m", "beam_jobs.build_records", *arguments)
        return [str(part) for part in (*job, "--input", self.inputs[name], "--output", output)]


@pytest.fixture(scope="module")
def builds(tmp_path_factory) -> Builds:
    return Builds(tmp_path_factory.mktemp("builds"))


def run(job: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(job, check=False, capture_output=True, text=True, timeout=300)


def complaints(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if not line.startswith("NOTICE")]


def wait_for_a_shard(output: Path, job: subprocess.Popen) -> None:
    """Until the first shard of a build is finished, and most are not."""
    while not list(output.glob(".building/*/*.tfrecord.json")):
        assert job.poll() is None, "the build ended before it could be disturbed"
        time.sleep(0.02)


def processes_of(program: Path) -> list[str]:
    """The command lines of those processes that run `program`."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # ended meanwhile
        if str(program) in line and f"/{os.getpid()}/" not in str(path):
            lines.append(line)
    return lines


def assert_gone(program: Path) -> None:
    """No worker outlives its runner, but for a moment."""
    end = time.monotonic() + 15
    while processes_of(program):
        assert time.monotonic() < end, processes_of(program)
        time.sleep(0.1)


# Flink


@pytest.fixture
def flink(tmp_path):
    """Begins clusters of two TaskManagers, and ends them: `flink(restarts=3)`."""
    clusters = []

    def begin(*, restarts: int = 0) -> Cluster:
        folder = tmp_path / f"cluster{len(clusters)}"
        folder.mkdir()
        clusters.append(Cluster(folder, restarts=restarts))
        for name in ("tm1", "tm2"):
            clusters[-1].add_worker(name)
        return clusters[-1]

    yield begin
    for cluster in clusters:
        cluster.stop()


@pytest.fixture
def on_flink(as_process, worker):
    """The options of a job for a cluster; none of its workers is left in the end."""
    jar = job_server_jar()

    def options(cluster: Cluster) -> tuple[object, ...]:
        server = ("--runner", "FlinkRunner", "--flink_job_server_jar", jar)
        return (*server, "--flink_master", cluster.address, "--parallelism", 2, *as_process)

    yield options
    assert_gone(worker)
    assert_gone(jar)


def test_a_cluster_of_another_version_is_refused(flink, tmp_path, capsys):
    cluster = flink()
    assert cluster.workers() == {"tm1", "tm2"}
    arguments = ("--flink_master", cluster.address, "--flink_version", "2.1")
    job = ("--runner", "FlinkRunner", "--input", "sample:20", "--output", tmp_path / "out")
    assert build(*job, *arguments) == 2
    assert (
        "runs Flink 2.2.1, the job is for 2.1; give --flink_version 2.2" in capsys.readouterr().err
    )


def test_flink_makes_the_same_bytes_with_both_taskmanagers(flink, on_flink, builds, tmp_path):
    cluster = flink()
    for name in ("sample", "folder", "zip"):
        done = run(builds.command(name, tmp_path / name, *on_flink(cluster)))
        assert (done.returncode, complaints(done.stderr)) == (0, [])
        assert contents(tmp_path / name) == builds.expected(name)
    assert cluster.who_worked() == {"tm1", "tm2"}


def test_a_job_goes_on_without_the_taskmanager_that_was_killed(flink, on_flink, builds, tmp_path):
    cluster, output = flink(restarts=3), tmp_path / "out"
    with subprocess.Popen(builds.command("large", output, *on_flink(cluster))) as job:
        wait_for_a_shard(output, job)
        cluster.kill("tm1")
        cluster.add_worker("tm3")
    assert job.returncode == 0
    assert contents(output) == builds.expected("large")


def test_a_job_that_lost_its_taskmanager_fails_in_one_line_and_is_finished_by_the_same_command(
    flink, on_flink, builds, tmp_path
):
    cluster, output = flink(), tmp_path / "out"
    again = builds.command("large", output, *on_flink(cluster))
    with subprocess.Popen(again, stderr=subprocess.PIPE, text=True) as job:
        wait_for_a_shard(output, job)
        cluster.kill("tm1")
        error = complaints(job.stderr.read())
    assert (job.returncode, len(error)) == (1, 1), error
    assert error[0].startswith("error: --runner FlinkRunner failed: ")
    cluster.add_worker("tm3")
    done = run(again)
    assert done.returncode == 0
    assert "shards kept from an unfinished run" in done.stdout
    assert contents(output) == builds.expected("large")


# Prism


@pytest.fixture(scope="session")
def prism() -> Path:
    """Beam's own portable runner, built from its source in Go the first time."""
    program = CACHE / f"prism-{apache_beam.__version__}" / "prism"
    if not program.is_file():
        if not shutil.which("go"):
            pytest.skip("NOTHING WAS RUN ON PRISM: no Go to build it: apt-get install golang")
        package = f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{apache_beam.__version__}"
        go = {**os.environ, "GOBIN": str(program.parent)}
        done = subprocess.run(
            ["go", "install", package], env=go, check=False, capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"NOTHING WAS RUN ON PRISM: {done.stderr.strip().splitlines()[-1:]}")
    return program


@pytest.fixture
def on_prism(prism, worker):
    """The options of a job for Prism; neither it nor a worker is left in the end."""
    yield ("--runner", "PrismRunner", "--prism_location", prism)
    assert_gone(worker)
    assert_gone(prism)


@pytest.mark.parametrize("name", ["sample", "folder", "zip", "real"])
def test_prism_makes_the_same_bytes(on_prism, as_process, builds, tmp_path, name):
    done = run(builds.command(name, tmp_path / "out", *on_prism, *as_process))
    assert (done.returncode, complaints(done.stderr)) == (0, [])
    assert contents(tmp_path / "out") == builds.expected(name)


def test_prism_makes_the_same_bytes_in_the_launcher_itself(on_prism, builds, tmp_path):
    done = run(builds.command("folder", tmp_path / "out", *on_prism))
    assert (done.returncode, complaints(done.stderr)) == (0, [])
    assert contents(tmp_path / "out") == builds.expected("folder")


def test_too_many_bad_images_fail_a_job_in_one_line(on_prism, as_process, builds, tmp_path):
    arguments = (*on_prism, *as_process, "--max_rejects", 0)
    done = run(builds.command("folder", tmp_path / "out", *arguments))
    assert done.returncode == 1
    (line,) = complaints(done.stderr)
    assert line.startswith(
        "error: 1 of 120 images were refused, --max_rejects allows 0: 1 zero-bytes"
    )


def test_a_job_whose_runner_is_killed_fails_in_one_line_and_is_finished_by_another_runner(
    on_prism, as_process, builds, tmp_path
):
    output = tmp_path / "out"
    again = builds.command("large", output, *on_prism, *as_process)
    with subprocess.Popen(again, stderr=subprocess.PIPE, text=True) as job:
        wait_for_a_shard(output, job)
        os.kill(child_of(job.pid, str(on_prism[-1])), signal.SIGKILL)
        error = complaints(job.stderr.read())
    assert (job.returncode, len(error)) == (1, 1), error
    assert error[0].startswith("error: --runner PrismRunner failed: ")
    done = run(builds.command("large", output))
    assert "shards kept from an unfinished run" in done.stdout
    assert contents(output) == builds.expected("large")


def child_of(parent: int, program: str) -> int:
    """The process that `parent` started to run `program`."""
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    children = [pid for task in tasks for pid in task.read_text().split()]
    (found,) = [p for p in children if program in Path(f"/proc/{p}/cmdline").read_text()]
    return int(found)
