"""What fills TensorBoard's HParams tab: one small event file beside the curves of a run.

Written without TensorFlow, so that it costs the search neither time nor memory.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from pipeline.tfrecord import write_records

HPARAMS_FILE = "events.out.tfevents.0000000000.hparams"


def write_hparams(folder: Path, params: Mapping[str, float], *, name: str) -> None:
    """Say in `folder` that its curves, and those below it, are of the session `name` with `params`.

    Raises OSError.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb

    now = time.time()
    summary = hparams_pb(dict(params), trial_id=name, start_time_secs=now)
    events = (
        Event(wall_time=now, file_version="brain.Event:2"),
        Event(wall_time=now, step=0, summary=summary),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_records(folder / HPARAMS_FILE, (event.SerializeToString() for event in events))
