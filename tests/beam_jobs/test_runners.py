"""Runners other than the direct one: what is asked before a job is sent, and the worker they start."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys

import pytest
from apache_beam.portability.api import beam_provision_api_pb2

from beam_jobs.boot import worker_environment
from beam_jobs.runners import first_cause
from pipeline.errors import WorkError
from tests.beam_jobs.conftest import ROOT
from tests.beam_jobs.ending import contents
from tests.beam_jobs.flink import free_ports
from tests.conftest import build

ON_FLINK = ("--runner", "FlinkRunner", "--input", "sample:20", "--image_size", "32x40")
JAVA = (
    "--job_server_java_launcher",
    sys.executable,
)  # is a program; nothing gets so far as to run it


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*JAVA, "--flink_master", "127.0.0.1:{port}"), "Connection refused); give host:port"),
        ((*JAVA, "--flink_master", "http://no.such.host.test:1"), "no Flink answers at http://no"),
        ((*JAVA, "--flink_job_server_jar", "/no/such.jar"), "there is no file /no/such.jar"),
        (
            ("--job_server_java_launcher", "/no/java"),
            "job server in Java, and finds no /no/java; install",
        ),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_what_flink_lacks_is_told_in_one_line_before_a_job_is_sent(
    tmp_path, capfd, arguments, message
):
    (port,) = free_ports(1)
    filled = [argument.format(port=port) for argument in arguments]
    assert build(*ON_FLINK, "--output", tmp_path / "out", *filled) == 2
    error = capfd.readouterr().err.splitlines()
    assert message in error[-1]
    assert [line for line in error if not line.startswith("NOTICE")] == error[-1:]


JAVA_TRACE = """Pipeline job failed in state FAILED: org.apache.flink.X: no
	at org.apache.flink.runtime.jobmaster.JobResult.toJobExecutionResult(JobResult.java:144)
Caused by: org.apache.flink.runtime.JobException: Recovery is suppressed
	at org.apache.flink.runtime.executiongraph.X(X.java:1)
Caused by: java.io.IOException: Cannot run program "/no/worker": error=2, No such file or directory
	at java.base/java.lang.ProcessBuilder.start(ProcessBuilder.java:1143)
	... 5 more
"""
PYTHON_IN_JAVA = """java.lang.RuntimeException: Error received from SDK harness for instruction 3:
  File "apache_beam/runners/common.py", line 1500, in process
    return self.do_fn_invoker.invoke_process(windowed_value)
ValueError: what happened [while running 'Place']

	at org.apache.beam.runners.fnexecution.control.FnApiControlClient.x(FnApiControlClient.java:1)
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            JAVA_TRACE,
            'java.io.IOException: Cannot run program "/no/worker": error=2, No such file or directory',
        ),
        (PYTHON_IN_JAVA, "ValueError: what happened [while running 'Place']"),
        (
            "Pipeline 1 failed in state FAILED: lost tm1",
            "Pipeline 1 failed in state FAILED: lost tm1",
        ),
        ("", "it did not say why"),
    ],
    ids=["java", "python in java", "one line", "nothing"],
)
def test_the_first_cause_is_found_in_stack_traces(text, expected):
    assert first_cause(text) == expected


def test_a_worker_that_no_runner_started_says_so(worker):
    (port,) = free_ports(1)
    command = [worker, "--id", "w", "--provision_endpoint", f"127.0.0.1:{port}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert re.fullmatch(r"error: worker w: no runner answers at 127.+by a runner.+\n", done.stderr)


def test_a_worker_goes_where_its_runner_says_and_else_where_its_options_say():
    info = beam_provision_api_pb2.ProvisionInfo(runner_capabilities=["a", "b"])
    info.control_endpoint.url = "told:1"
    given = {"control": "given:1", "logging": "given:2", "status": ""}
    assert worker_environment("w", info, given) == {
        "CONTROL_API_SERVICE_DESCRIPTOR": 'url: "told:1"\n',
        "LOGGING_API_SERVICE_DESCRIPTOR": 'url: "given:2"\n',
        "WORKER_ID": "w",
        "PIPELINE_OPTIONS": "{}",
        "RUNNER_CAPABILITIES": "a b",
    }
    info.control_endpoint.url = ""
    with pytest.raises(WorkError, match="names no control endpoint"):
        worker_environment("w", info, {**given, "control": ""})


def test_a_worker_has_its_id_before_beam_reads_it():
    """At the import of this module; without an id the runner refuses what the worker logs."""
    reader = "apache_beam.runners.worker.worker_id_interceptor"
    script = f"import sys, beam_jobs.boot; sys.exit({reader!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_the_installed_command_is_the_worker():
    (entry,) = re.findall(r'"inkling-worker=(.+?):(.+?)"', (ROOT / "setup.py").read_text())
    assert callable(getattr(importlib.import_module(entry[0]), entry[1]))


def test_a_worker_makes_the_same_bytes(worker, image_folder, records, tmp_path):
    """The program that PROCESS starts, started by Beam's worker pool: no runner needs to be fetched."""
    (port,) = free_ports(1)
    pool = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main"]
    pool += [f"--service_port={port}", f"--container_executable={worker}"]
    arguments = ("--runner", "PortableRunner", "--job_endpoint", "embed")
    arguments += ("--environment_type", "EXTERNAL", "--environment_config", f"localhost:{port}")
    arguments += ("--classes", "faces,comics", "--image_size", "32x40")
    log = tmp_path / "pool.log"
    with open(log, "wb") as file, subprocess.Popen(pool, stdout=file, stderr=file) as servers:
        try:
            job = [sys.executable, "-m", "beam_jobs.build_records", *arguments]
            job += ["--input", str(image_folder), "--output", str(tmp_path / "out")]
            done = subprocess.run(job, check=False, capture_output=True, text=True, timeout=120)
        finally:
            servers.terminate()
    assert (done.returncode, done.stderr) == (0, ""), log.read_text()
    assert contents(tmp_path / "out") == contents(records)
