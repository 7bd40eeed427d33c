"""A real Flink cluster on loopback: a JobManager and TaskManagers, each in a Java machine of its own.

Neither Docker nor Flink's scripts: its jars come from PyPI and Beam's job server from Maven, both kept
in the user's cache. What cannot be had skips the test and says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pytest
from apache_beam.utils.subprocess_server import JavaJarServer

FLINK = "2.2.1"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inkling"
_JOB_SERVER = ":runners:flink:2.2:job-server:shadowJar"
_OPENED = (  # what Flink's own scripts open of Java's inside for its serializers
    *(
        "java.lang",
        "java.lang.reflect",
        "java.net",
        "java.io",
        "java.nio",
        "java.text",
        "java.time",
    ),
    *("java.util", "java.util.concurrent", "java.util.concurrent.atomic"),
    *("java.util.concurrent.locks", "sun.nio.ch"),
)
_LOG4J = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %-5p %c - %m%n
"""
_MEMORY = {
    "task": {"heap": {"size": "256m"}, "off-heap": {"size": "0m"}},
    "framework": {"heap": {"size": "128m"}, "off-heap": {"size": "128m"}},
    "network": {"min": "128m", "max": "128m"},
    "managed": {"size": "256m"},
    "jvm-metaspace": {"size": "512m"},
    "jvm-overhead": {"min": "192m", "max": "192m"},
}


def find_java() -> str:
    """The program; without one the test is skipped."""
    return shutil.which("java") or pytest.skip("no Java: apt-get install default-jre-headless")


def flink_jars() -> Path:
    """The folder of Flink's jars, from PyPI the first time."""
    jars = CACHE / f"flink-{FLINK}"
    if not jars.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            package = f"apache-flink-libraries=={FLINK}"
            pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")
            done = subprocess.run(
                [*pip, "--dest", folder, package], check=False, capture_output=True, text=True
            )
            if done.returncode:
                pytest.skip(f"cannot have {package}: {done.stderr.strip().splitlines()[-1:]}")
            with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
                wheel.extractall(
                    folder, [n for n in wheel.namelist() if n.startswith("pyflink/lib/")]
                )
            os.replace(Path(folder) / "pyflink/lib", jars)
    return jars


def job_server_jar() -> Path:
    """Beam's job server for this Flink, its sha1 checked, from Maven the first time."""
    url = JavaJarServer.path_to_beam_jar(_JOB_SERVER)
    jar = CACHE / url.rsplit("/", 1)[1]
    if not jar.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        try:
            with urllib.request.urlopen(f"{url}.sha1", timeout=60) as answer:
                expected = answer.read().decode().split()[0]
            with tempfile.TemporaryDirectory(dir=CACHE) as folder:
                part = Path(folder) / jar.name
                with urllib.request.urlopen(url, timeout=60) as answer, open(part, "wb") as file:
                    shutil.copyfileobj(answer, file, 1 << 20)
                assert hashlib.sha1(part.read_bytes()).hexdigest() == expected
                os.replace(part, jar)
        except OSError as error:
            pytest.skip(f"NO FLINK JOB WAS RUN: cannot have {jar.name} from Maven: {error}")
    return jar


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Cluster:
    """A JobManager, and TaskManagers of one slot each as they are added; `stop` ends them all.

    restarts: how often a job is begun again when a TaskManager is lost.
    """

    def __init__(self, folder: Path, *, restarts: int = 0) -> None:
        self.folder = folder
        rpc, rest = free_ports(2)
        self.address = f"127.0.0.1:{rest}"
        self.processes: dict[str, subprocess.Popen] = {}
        self._configure(rpc=rpc, rest=rest, restarts=restarts)
        entrypoint = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
        self._start("jobmanager", "-Xmx896m", entrypoint, "--executionMode", "cluster")

    def _configure(self, *, rpc: int, rest: int, restarts: int) -> None:
        loopback = "127.0.0.1"
        retried = {"type": "fixed-delay", "fixed-delay": {"attempts": restarts, "delay": "1 s"}}
        config = {
            "jobmanager": {
                "rpc": {"address": loopback, "port": rpc},
                "bind-host": loopback,
                "memory": {"process": {"size": "1600m"}},
            },
            "rest": {"address": loopback, "bind-address": loopback, "port": rest},
            "taskmanager": {
                "host": loopback,
                "bind-host": loopback,
                "numberOfTaskSlots": 1,
                "cpu": {"cores": 1.0},
                "memory": _MEMORY,
            },
            "heartbeat": {"interval": 1000, "timeout": 10000},
            "restart-strategy": retried if restarts else {"type": "none"},
            "io": {"tmp": {"dirs": str(self.folder)}},
        }
        (self.folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
        (self.folder / "log4j.properties").write_text(_LOG4J)

    def _start(self, name: str, *arguments: str) -> None:
        memory, entrypoint, *more = arguments
        command = [
            find_java(),
            *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED),
            f"-Dlog4j.configurationFile={self.folder / 'log4j.properties'}",
            *("-XX:MaxMetaspaceSize=512m", memory),
            *("-cp", f"{flink_jars()}/*", entrypoint, "--configDir", str(self.folder), *more),
        ]
        with open(self.folder / f"{name}.log", "wb") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def add_worker(self, name: str) -> None:
        """Start a TaskManager and wait until the JobManager knows it."""
        entrypoint = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
        identity = ("-D", f"taskmanager.resource-id={name}")
        self._start(name, "-Xmx384m", entrypoint, *identity)
        end = time.monotonic() + 60
        while name not in self.workers():
            assert time.monotonic() < end, (self.folder / f"{name}.log").read_text()[-3000:]
            time.sleep(0.2)

    def workers(self) -> set[str]:
        """The names of the TaskManagers that the JobManager knows."""
        try:
            known = self.ask("/v1/taskmanagers")["taskmanagers"]
        except urllib.error.URLError:
            return set()  # not up yet
        return {worker["id"] for worker in known}

    def ask(self, path: str) -> dict[str, Any]:
        """What Flink's REST server answers."""
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=30) as answer:
            return json.load(answer)

    def who_worked(self) -> set[str]:
        """The TaskManagers that ran any part of any job."""
        found = set()
        for job in self.ask("/v1/jobs")["jobs"]:
            for vertex in self.ask(f"/v1/jobs/{job['id']}")["vertices"]:
                parts = self.ask(f"/v1/jobs/{job['id']}/vertices/{vertex['id']}/taskmanagers")
                found |= {part["taskmanager-id"] for part in parts["taskmanagers"]}
        return found

    def kill(self, name: str) -> None:
        """End one of the processes as a power cut would."""
        self.processes[name].kill()
        self.processes.pop(name).wait()

    def stop(self) -> None:
        """End all processes."""
        for name in list(self.processes):
            self.kill(name)
