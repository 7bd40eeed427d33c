"""A worker of a cluster without containers: `inkling-worker`, or `python -m beam_jobs.boot`.

A runner with `--environment_type PROCESS` starts this program on every host that works, with an id and
the address to ask for everything else: Beam's container contract. As `inkling-worker` stands in the
`bin/` of the environment that Inkling was installed in, the worker has that interpreter and those
packages. So nothing is fetched that a launcher may have staged (`--setup_file` and the like).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import grpc
from apache_beam.portability.api import (
    beam_provision_api_pb2,
    beam_provision_api_pb2_grpc,
    endpoints_pb2,
)
from google.protobuf import json_format, text_format

from pipeline.console import Parser
from pipeline.errors import WorkError, command, leave

_TIMEOUT = 60  # seconds for the runner to answer
_ENDPOINTS = ("control", "logging", "status")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Ask the runner what to do and do it until it is gone; 0 if it said goodbye."""
    parser = Parser(
        "inkling-worker", "A worker of a Beam runner, which starts it and tells it all."
    )
    parser.add_argument("--id", required=True, help="the worker's name")
    parser.add_argument("--provision_endpoint", required=True, help="host:port that knows the rest")
    for name in (*_ENDPOINTS, "artifact"):
        parser.add_argument(
            f"--{name}_endpoint", default="", help="host:port, where it is not told"
        )
    parser.add_argument("--semi_persist_dir", help="not used: nothing is fetched")
    options = parser.parse_strictly(argv)
    given = {name: getattr(options, f"{name}_endpoint") for name in _ENDPOINTS}
    worker = options.id.strip("'")  # Prism quotes it for a shell, and uses none
    info = ask_runner(options.provision_endpoint, worker)
    os.environ.update(worker_environment(worker, info, given))
    from apache_beam.runners.worker import sdk_worker_main  # reads WORKER_ID when it is imported

    try:
        sdk_worker_main.main([])
    except grpc.RpcError as error:
        raise WorkError(f"worker {worker}: the runner has gone ({_said(error)})") from error
    return 0


def ask_runner(endpoint: str, worker: str) -> beam_provision_api_pb2.ProvisionInfo:
    """What the runner at `endpoint` wants `worker` to know. Raises WorkError."""
    request = beam_provision_api_pb2.GetProvisionInfoRequest()
    with grpc.insecure_channel(endpoint) as channel:
        try:
            service = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
            named = [("worker_id", worker)]
            answer = service.GetProvisionInfo(request, metadata=named, timeout=_TIMEOUT)
        except grpc.RpcError as error:
            raise WorkError(
                f"worker {worker}: no runner answers at {endpoint} ({_said(error)}); this program is "
                "started by a runner, not by hand"
            ) from error
    return answer.info


def worker_environment(
    worker: str, info: beam_provision_api_pb2.ProvisionInfo, given: dict[str, str]
) -> dict[str, str]:
    """The environment variables that Beam's worker reads; what `info` says goes before `given`."""
    told = {name: getattr(info, f"{name}_endpoint").url or given[name] for name in _ENDPOINTS}
    if not told["control"]:
        raise WorkError(f"worker {worker}: the runner names no control endpoint")
    descriptors = {
        f"{name.upper()}_API_SERVICE_DESCRIPTOR": text_format.MessageToString(
            endpoints_pb2.ApiServiceDescriptor(url=url)
        )
        for name, url in told.items()
        if url
    }
    return descriptors | {
        "WORKER_ID": worker,
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }


def _said(error: grpc.RpcError) -> str:
    return f"{error.code().name}: {error.details()}"


def run() -> None:
    """The console command: ends at once when `main` does, so that no work outlives its runner."""
    leave(main())


if __name__ == "__main__":
    run()
