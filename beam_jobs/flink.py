"""What a job needs of Flink, asked before it is sent: Flink's own answer would be slow and long.

The launcher talks to Beam's job server, a Java program that Beam starts here, and that to Flink.
"""

from __future__ import annotations

import http.client
import json
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
)
from apache_beam.runners.portability.flink_runner import MAGIC_HOST_NAMES, FlinkRunner

from pipeline.errors import UsageError

_TIMEOUT = 30  # seconds for Flink to answer


def check_flink(options: PipelineOptions) -> None:
    """Raise UsageError if the job server cannot be started, or if no fitting Flink is there."""
    if options.view_as(PortableOptions).job_endpoint:
        return  # a job server that runs already knows its own Flink
    flink = options.view_as(FlinkRunnerOptions)
    _check_jar(flink.flink_job_server_jar)
    has_cluster = flink.flink_master not in MAGIC_HOST_NAMES
    if not (flink.flink_submit_uber_jar and has_cluster):
        _check_java(options.view_as(JobServerOptions).job_server_java_launcher)
    if has_cluster:
        _check_version(FlinkRunner.add_http_scheme(flink.flink_master), flink.flink_version)


def _check_jar(jar: str | None) -> None:
    if jar and "://" not in jar and not Path(jar).is_file():
        raise UsageError(
            f"--flink_job_server_jar: there is no file {jar}; leave the option out to have Beam "
            "download the jar, or fetch beam-runners-flink-VERSION-job-server from Maven Central"
        )


def _check_java(launcher: str) -> None:
    if not shutil.which(launcher):
        raise UsageError(
            f"--runner FlinkRunner starts Beam's job server in Java, and finds no {launcher}; "
            "install a Java runtime (Debian: default-jre-headless), name one by "
            "--job_server_java_launcher, or a job server that runs already by --job_endpoint HOST:PORT"
        )


def _check_version(url: str, wanted: str) -> None:
    try:
        with urllib.request.urlopen(f"{url}/v1/config", timeout=_TIMEOUT) as answer:
            version = json.load(answer)["flink-version"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        why = getattr(error, "reason", error)
        raise UsageError(
            f"--flink_master: no Flink answers at {url} ({why}); give host:port of its web interface"
        ) from error
    if version.split(".")[:2] != wanted.split("."):
        raise UsageError(
            f"--flink_version: the cluster at {url} runs Flink {version}, the job is for {wanted}; "
            f"give --flink_version {'.'.join(version.split('.')[:2])}"
        )
