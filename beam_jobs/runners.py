"""How a pipeline is run: quietly on all local cores, or by whichever runner Beam is told to use."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, WorkerOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.runners.runner import PipelineResult
from apache_beam.transforms import environments

from pipeline.errors import UsageError, WorkError, find_user_error

_FN_API_RUNNERS = ("DirectRunner", "FnApiRunner")
_ALL_CORES = 0
_WORKER_PROCESS = f"{sys.executable} -m apache_beam.runners.worker.sdk_worker_main 2>/dev/null"


def make_pipeline(runner: str, arguments: Sequence[str]) -> beam.Pipeline:
    """An empty pipeline for `runner` with Beam's own `arguments`. Raises UsageError.

    `DirectRunner` is Beam's FnApiRunner on all cores, chosen here by hand: left to itself Beam would
    first try to download another runner. Its workers are threads unless `arguments` say otherwise:
    decoding lets go of the interpreter lock, and threads need no start-up.
    """
    options = PipelineOptions(list(arguments))
    if runner in _FN_API_RUNNERS:
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # errors are raised as well
        return beam.Pipeline(runner=_fn_api_runner(options, arguments), options=options)
    try:
        return beam.Pipeline(options=options)
    except (ValueError, ImportError) as error:  # Beam says what it lacks for this runner
        raise UsageError(f"--runner {runner}: {error}") from error


def run_pipeline(pipeline: beam.Pipeline, runner: str) -> PipelineResult:
    """Run to the end. Raises what the work raised, or WorkError with what a remote runner says."""
    local = runner in _FN_API_RUNNERS
    # a worker in this process prints the traceback of an error that is raised here as well
    quiet = contextlib.redirect_stderr(io.StringIO()) if local else contextlib.nullcontext()
    try:
        with quiet:
            result = pipeline.run()
            result.wait_until_finish()
        return result
    except Exception as error:
        if local or find_user_error(error):
            raise
        raise WorkError(f"--runner {runner} failed: {type(error).__name__}: {error}") from error


def _fn_api_runner(options: PipelineOptions, arguments: Sequence[str]) -> FnApiRunner:
    given = {argument.split("=")[0] for argument in arguments}
    direct = options.view_as(DirectOptions)
    threads = "--direct_running_mode" not in given
    mode = "multi_threading" if threads else direct.direct_running_mode
    direct.direct_running_mode = "in_memory"  # or the runner would replace our environment
    if "--direct_num_workers" not in given:
        direct.direct_num_workers = 1 if mode == "in_memory" else _ALL_CORES
    if "--default_sdk_harness_log_level" not in given:
        options.view_as(WorkerOptions).default_sdk_harness_log_level = "CRITICAL"
    # workers in processes of their own see no options unless they are handed over like this
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    info = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    return FnApiRunner(_environment(mode), provision_info=ExtendedProvisionInfo(info))


def _environment(mode: str) -> environments.Environment:
    if mode == "multi_processing":
        return environments.SubprocessSDKEnvironment.from_command_string(_WORKER_PROCESS)
    if mode == "multi_threading":
        return environments.EmbeddedPythonGrpcEnvironment.default()
    return environments.EmbeddedPythonEnvironment.default()


def counter_value(result: PipelineResult, name: str) -> int:
    """The committed value of one of our counters; 0 where the runner keeps none."""
    counters = result.metrics().query(MetricsFilter().with_name(name))["counters"]
    return sum(counter.committed or counter.attempted or 0 for counter in counters)
