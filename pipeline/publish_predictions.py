"""The moment at which shards of scores become predictions: moved into place, `predictions.json` last.

A reader sees all predictions or none; what was there before stays until the new ones are complete; and
a publication that was cut off is finished by the same command.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.build import STAGING_FOLDER, Reject, is_whole
from pipeline.classify import Classification, Classified, Scored, write_scored
from pipeline.errors import UsageError, WorkError, describe_os_error
from pipeline.files import write_json, write_lines
from pipeline.manifest import MANIFEST_FILE, REJECTS_FILE
from pipeline.predictions import PREDICTIONS_FILE, Predictions, find_shards, load_predictions
from pipeline.publish import move_into_place


def publish_predictions(work: Classification, results: Iterable[Classified]) -> Predictions:
    """Move the finished shards into place together and write `predictions.json`, last.

    Raises WorkError if no image is left, or the output cannot be written; in the first case what was
    there before stays as it was.
    """
    by_name = {result.shard.file: result for result in results}
    for shard in range(work.shards):
        if work.shard_name(shard) not in by_name:  # no image fell here
            result = write_scored(Scored(shard, (), (), ()), work)
            by_name[result.shard.file] = result
    ordered = [by_name[name] for name in sorted(by_name)]
    rejects = sorted((r for result in ordered for r in result.rejects), key=lambda r: r.key)
    _check_some_left(work, rejects)
    predictions = _describe(work, ordered, rejects)
    try:
        if not _stands(work.output, predictions):
            (work.output / PREDICTIONS_FILE).unlink(missing_ok=True)
        old = find_shards(work.output)
        move_into_place(work.staging, work.output, sorted(by_name), old=old)
        write_lines(work.output / REJECTS_FILE, map(asdict, rejects))
        write_json(work.output / PREDICTIONS_FILE, predictions.to_json())
    except OSError as error:
        raise WorkError(f"cannot publish the predictions: {describe_os_error(error)}") from error
    shutil.rmtree(work.output / STAGING_FOLDER, ignore_errors=True)
    return predictions


def _stands(output: Path, predictions: Predictions) -> bool:
    """Whether these very predictions are published already; old ones are gone from here on."""
    with contextlib.suppress(UsageError):  # none, or none that we can read
        return load_predictions(output) == predictions
    return False


def _check_some_left(work: Classification, rejects: Sequence[Reject]) -> None:
    if len(rejects) < work.total:
        return
    reasons = Counter(reject.reason for reject in rejects)
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    keys = ", ".join(reject.key for reject in rejects[:10])
    raise WorkError(
        f"all {work.total} images were refused: {counts}; the first: {keys}; nothing was published"
    )


def _describe(
    work: Classification, results: Sequence[Classified], rejects: Sequence[Reject]
) -> Predictions:
    source = {"uri": work.source.uri}
    options = {"format": work.form, "shards": work.shards, "batch_size": work.batch_size}
    return Predictions(
        digest=work.digest,
        source=source | {"notice": work.notice} if work.notice else source,
        model=work.model,
        image=work.spec,
        classes=work.classes,
        options=options,
        shards=tuple(result.shard for result in results),
        rejects=dict(sorted(Counter(reject.reason for reject in rejects).items())),
        ignored=work.ignored,
        versions=work.versions,
    )


def find_predicted(work: Classification, *, overwrite: bool) -> Predictions | None:
    """What the output holds, if it is this very work, whole; None if that is still to be done.

    Raises UsageError where the output holds something else, and `overwrite` does not allow it.
    """
    output = work.output
    if (output / MANIFEST_FILE).exists():
        raise UsageError(f"--output: {output} holds a data set of records; give another folder")
    if overwrite:
        return None
    if not (output / PREDICTIONS_FILE).exists():
        if find_shards(output) and not work.staging.exists():
            raise UsageError(
                f"--output: {output} holds predictions without a {PREDICTIONS_FILE}: not ours to "
                "replace; give another folder, or --overwrite"
            )
        return None
    found = load_predictions(output)
    if found.digest != work.digest:
        raise UsageError(
            f"--output: {output} holds other predictions ({_describe_briefly(found)}; these are "
            f"{_describe_briefly(_describe(work, (), ()))}); give another folder, or --overwrite to "
            "replace them once these are complete"
        )
    whole = all(is_whole(output / shard.file, shard) for shard in found.shards)
    return found if whole else None


def _describe_briefly(predictions: Predictions) -> str:
    model, source = predictions.model, predictions.source["uri"]
    options = ", ".join(f"{name} {value}" for name, value in predictions.options.items())
    return f"{source} by {model['name']} {model['sha256'][:8]}, {options}, {predictions.digest}"
