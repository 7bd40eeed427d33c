"""How a pipeline is run: quietly on all local cores, or by whichever runner Beam is told to use."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import TextIO

import apache_beam as beam
import grpc
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, WorkerOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.runners.runner import PipelineResult

from beam_jobs.flink import check_flink
from pipeline.errors import UsageError, WorkError, find_user_error

_FN_API_RUNNERS = ("DirectRunner", "FnApiRunner")
_TELLING_RUNNERS = ("DataflowRunner",)  # their log is worth reading
_ALL_CORES = 0
_CAUSE = re.compile(r"Caused by: (.+)|((?:\w+\.)*\w*(?:Error|Exception): .+)")


def make_pipeline(runner: str, arguments: Sequence[str]) -> beam.Pipeline:
    """An empty pipeline for `runner` with Beam's own `arguments`. Raises UsageError.

    `DirectRunner` is Beam's FnApiRunner on all cores, chosen here by hand: left to itself Beam would
    first try to download another runner. Its workers are threads unless `arguments` say otherwise:
    decoding lets go of the interpreter lock, and threads need no start-up.
    """
    options = PipelineOptions(list(arguments))
    if runner not in _TELLING_RUNNERS:
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # errors are raised as well
        threading.excepthook = _say_what_nobody_raises
    if runner == "FlinkRunner":
        check_flink(options)
    if runner in _FN_API_RUNNERS:
        return beam.Pipeline(runner=_fn_api_runner(options, arguments), options=options)
    try:
        return beam.Pipeline(options=options)
    except (ValueError, ImportError) as error:  # Beam says what it lacks for this runner
        raise UsageError(f"--runner {runner}: {error}") from error


def run_pipeline(pipeline: beam.Pipeline, runner: str) -> PipelineResult:
    """Run to the end. Raises what the work raised, or WorkError with what a remote runner says."""
    try:
        result = pipeline.run()
        result.wait_until_finish()
        return result
    except Exception as error:
        if runner in _FN_API_RUNNERS or find_user_error(error):
            raise
        why = first_cause(str(error))
        if isinstance(error, grpc.RpcError):
            why = f"its job server has gone ({error.details()})"
        raise WorkError(
            f"--runner {runner} failed: {why}; the finished shards are kept, the same command goes on "
            "from them"
        ) from error


def _say_what_nobody_raises(failed: threading.ExceptHookArgs) -> None:
    """Beam listens to its job server in a thread of its own, which fails where `run_pipeline` does."""
    if not issubclass(failed.exc_type, grpc.RpcError):
        threading.__excepthook__(failed)


def first_cause(text: str) -> str:
    """The line of `text`, which may hold stack traces of Java and of Python, that tells why.

    Both put the first cause last: Java after "Caused by:", Python below the frames of a traceback.
    """
    lines = text.strip().splitlines() or ["it did not say why"]
    causes = [match[1] or match[2] for match in map(_CAUSE.match, lines) if match]
    return causes[-1] if causes else lines[0]


@contextlib.contextmanager
def quiet_workers(runner: str) -> Iterator[TextIO]:
    """The stream of standard error for ourselves, while what local workers and job servers write
    there is dropped: decoders' notes on broken files, and tracebacks of errors that are raised here
    as well.
    """
    if runner in _TELLING_RUNNERS:
        yield sys.stderr
        return
    sys.stderr.flush()
    with (
        os.fdopen(os.dup(2), "w") as screen,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stderr(nowhere),
    ):
        os.dup2(nowhere.fileno(), 2)  # for C libraries and worker processes
        try:
            yield screen
        finally:
            os.dup2(screen.fileno(), 2)


def _fn_api_runner(options: PipelineOptions, arguments: Sequence[str]) -> FnApiRunner:
    given = {argument.split("=")[0] for argument in arguments}
    direct = options.view_as(DirectOptions)
    if "--direct_running_mode" not in given:
        direct.direct_running_mode = "multi_threading"
    if "--direct_num_workers" not in given:
        in_memory = direct.direct_running_mode == "in_memory"
        direct.direct_num_workers = 1 if in_memory else _ALL_CORES
    if "--default_sdk_harness_log_level" not in given:
        options.view_as(WorkerOptions).default_sdk_harness_log_level = "CRITICAL"
    # workers in processes of their own see no options unless they are handed over like this
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    info = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    return FnApiRunner(provision_info=ExtendedProvisionInfo(info))


def counter_value(result: PipelineResult, name: str) -> int:
    """The committed value of one of our counters; 0 where the runner keeps none."""
    counters = result.metrics().query(MetricsFilter().with_name(name))["counters"]
    return sum(counter.committed or counter.attempted or 0 for counter in counters)
