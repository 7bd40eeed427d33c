"""The model leaves the house: `python -m model.export --run runs/NAME --output exported/`.

model.keras    the network and its weights, for Keras and for `model.predict`
saved_model/   a TensorFlow SavedModel: bytes of image files in, scores and labels out
model.onnx, model.tflite   on request: the network alone, prepared pixels in
model.json     classes, image spec, figures of the test, figures of the check; written last

Everything is written beside the output folder, tried on files, and moved into place in one step:
whoever looks sees a whole export, or none, or the one before.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.config import TrainConfig
from model.converters import Scorer, check_onnx_is_there, write_onnx, write_tflite
from model.exported import (
    FORMAT_VERSION,
    KERAS_FILE,
    MODEL_FILE,
    ONNX_FILE,
    SAVED_MODEL_FOLDER,
    TFLITE_FILE,
    load_exported,
    load_network,
)
from model.inputs import find_images, read_image_file
from model.openings import model_digest
from model.runs import (
    CONFIG_FILE,
    EVALUATION_FILE,
    WEIGHTS_FILE,
    TrainedOn,
    check_same_data,
    finished_result,
    load_run,
)
from model.samples import Sample, sample_files
from pipeline import __version__
from pipeline.console import Parser
from pipeline.errors import ImageRejected, UsageError, command, printable
from pipeline.files import file_sha256, write_json
from pipeline.images import DEFAULT_MAX_PIXELS
from pipeline.manifest import load_manifest
from pipeline.reader import RecordReader
from pipeline.schema import PREPROCESSING, ImageSpec

if TYPE_CHECKING:
    from model.agreement import Agreement

FORMATS = ("keras", "savedmodel", "onnx", "tflite")

_WRITERS = {"onnx": (ONNX_FILE, write_onnx), "tflite": (TFLITE_FILE, write_tflite)}
_OURS = {MODEL_FILE, KERAS_FILE, SAVED_MODEL_FOLDER, ONNX_FILE, TFLITE_FILE}
_SAMPLED_RECORDS = 256
_FIGURES = ("images", "accuracy", "accuracy_interval", "loss", "misclassified")


@dataclass(frozen=True)
class Run:
    """What an export takes from a run; evaluation: None if these weights were never tested."""

    folder: Path
    config: TrainConfig
    trained_on: TrainedOn
    image: ImageSpec
    evaluation: dict[str, Any] | None
    notice: str


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Export what `argv` asks for; 0 if the output folder holds a checked export in the end."""
    parser = Parser("python -m model.export", "Export a trained model, and check the export.")
    add = parser.add_argument
    add("--run", required=True, help="folder that model.train made")
    add("--output", required=True, help="folder for the export")
    add("--format", default="keras,savedmodel", help="onnx and tflite can be had as well")
    add("--samples", help="folder of image files to check the export on, beside our own")
    add("--records", help="folder of records for our own; default: those it was trained on")
    add("--overwrite", action="store_true", help="replace an earlier export")
    given = parser.parse_strictly(argv)
    formats = _parse_formats(given.format)
    run, output = load_for_export(Path(given.run)), Path(given.output)
    check_output(output, overwrite=given.overwrite)
    paths = _find_samples(given.samples)
    records = Path(given.records) if given.records else run.config.records
    images = _record_images(run, records, may_lack=bool(paths) and not given.records)
    ours = () if images is None else sample_files(images)
    with _published(output) as folder:
        samples = itertools.chain(ours, map(_read_sample, paths))
        agreement = export(run, folder, formats=formats, samples=samples)
    print(_summary(run, output, formats, agreement))
    return 0


def _parse_formats(text: str) -> tuple[str, ...]:
    """The further formats; model.keras and the SavedModel are always written."""
    asked = text.split(",")
    for name in asked:
        if name not in FORMATS:
            raise UsageError(f"--format: must be of {','.join(FORMATS)}, received {name!r}")
    if "onnx" in asked:
        check_onnx_is_there()
    return tuple(name for name in _WRITERS if name in asked)


def load_for_export(folder: Path) -> Run:
    """The finished run in `folder`. Raises UsageError if there is none, or of other preprocessing."""
    config, trained_on = load_run(folder)
    try:
        values = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        image = ImageSpec(**values["image"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--run: {folder / CONFIG_FILE} is damaged ({error})") from error
    if image.digest != trained_on.image_digest:
        raise UsageError(
            f"--run: {folder} was trained on images prepared in another way (digest "
            f"{trained_on.image_digest}, this program's {image.digest}): build the records again, "
            "and train again"
        )
    notice = (finished_result(folder) or {}).get("notice", "")
    return Run(folder, config, trained_on, image, _load_evaluation(folder), notice)


def _load_evaluation(folder: Path) -> dict[str, Any] | None:
    """The figures of the test, if it was these very weights that were tested."""
    try:
        values = json.loads((folder / EVALUATION_FILE).read_text(encoding="utf-8"))
        if values["opening"]["model"] != model_digest(folder / WEIGHTS_FILE):
            return None
        figures = {name: values[name] for name in _FIGURES}
        return figures | {"opening": values["opening"]["number"]}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--run: {folder / EVALUATION_FILE} is damaged ({type(error).__name__}: {error}); make it "
            f"again: python -m model.evaluate --run {folder}"
        ) from error


def check_output(folder: Path, *, overwrite: bool) -> None:
    """Raise UsageError unless `folder` is free, or holds an export and may be overwritten."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    inside = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if MODEL_FILE not in inside or inside - _OURS:
        what = f"it holds {min(inside - _OURS)}" if inside - _OURS else "it is none of ours"
        raise UsageError(f"--output: {folder} is not replaced: {what}; give another name")
    if not overwrite:
        raise UsageError(
            f"--output: {folder} is there already; give another name, or --overwrite to replace it"
        )


def _find_samples(folder: str | None) -> list[str]:
    paths = find_images([folder]) if folder and os.path.isdir(folder) else []
    if folder and not paths:
        raise UsageError(f"--samples: no image files in {folder}")
    return paths


def _record_images(run: Run, records: Path, *, may_lack: bool) -> np.ndarray | None:
    """Training images uint8[N, H, W, C]; None if there are no records, and need not be."""
    if may_lack and not records.exists():
        return None
    manifest = load_manifest(records)
    check_same_data(run.trained_on, manifest, records)
    with RecordReader(records, manifest, "train") as reader:
        return reader.read(np.arange(min(reader.records, _SAMPLED_RECORDS)))[0]


def _read_sample(path: str) -> Sample:
    try:
        return Sample(path, read_image_file(path), ours=False)
    except ImageRejected:
        return Sample(path, b"", ours=False)  # which the build rejects and the check counts


@contextlib.contextmanager
def _published(output: Path) -> Iterator[Path]:
    """A new folder beside `output` that takes its place when the block ends; gone if it raises."""
    output = output.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(f".{output.name}.{uuid.uuid4().hex}.tmp")
    aside.mkdir()
    try:
        yield aside
        if output.exists() and any(output.iterdir()):
            _exchange(aside, output)
        else:
            os.replace(aside, output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(new: Path, output: Path) -> None:
    old = new.with_suffix(".old")
    os.replace(output, old)
    try:
        os.replace(new, output)
    except OSError:
        os.replace(old, output)
        raise
    shutil.rmtree(old)


def export(
    run: Run, folder: Path, *, formats: Sequence[str], samples: Iterable[Sample]
) -> Agreement:
    """Write the export of `run` into the empty `folder`, check it on `samples`, write `model.json`.

    formats: beside the two of every export, `onnx`, `tflite`. Raises WorkError where the weights
    cannot be read or the export does not do what the run's model does.
    """
    from model.agreement import measure_agreement  # all of these load TensorFlow
    from model.network import load_trained
    from model.serving import save_serving_graph

    network = load_trained(run.config.network, run.image, run.folder / WEIGHTS_FILE)
    network.save(folder / KERAS_FILE)
    save_serving_graph(
        network,
        folder / SAVED_MODEL_FOLDER,
        spec=run.image,
        classes=run.trained_on.classes,
        max_pixels=DEFAULT_MAX_PIXELS,
    )
    others: dict[str, Scorer] = {}
    for name in formats:
        file, write = _WRITERS[name]
        others[name] = write(network, folder / file)
    facts = _model_json(run, folder)
    write_json(folder / MODEL_FILE, facts)
    reference = load_network(load_exported(folder))
    agreement = measure_agreement(
        samples,
        folder / SAVED_MODEL_FOLDER,
        spec=run.image,
        reference=lambda images: reference.predict_on_batch(images)[:, 0],
        others=others,
    )
    write_json(folder / MODEL_FILE, facts | {"check": agreement.to_json()})
    return agreement


def _model_json(run: Run, folder: Path) -> dict[str, Any]:
    import keras
    import tensorflow as tf
    from PIL import __version__ as pillow_version

    image = {**vars(run.image), "dtype": "uint8", "digest": run.image.digest}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "format_version": FORMAT_VERSION,
        "name": run.config.network.name,
        "classes": list(run.trained_on.classes),
        "score": f"from 0 to 1; above 0.5 the label is {run.trained_on.classes[1]}",
        "image": image | {"preprocessing": PREPROCESSING},
        "network": run.config.network.to_json(),
        "records_digest": run.trained_on.records_digest,
        "weights": model_digest(run.folder / WEIGHTS_FILE),
        "evaluation": run.evaluation,
        "notice": run.notice,
        "files": {
            path.relative_to(folder).as_posix(): {
                "bytes": path.stat().st_size,
                "sha256": file_sha256(path),
            }
            for path in files
        },
        "graph": _graph_facts(),
        "versions": {
            "inkling": __version__,
            "keras": keras.__version__,
            "pillow": pillow_version,
            "tensorflow": tf.__version__,
        },
    }


def _graph_facts() -> dict[str, Any]:
    from model.headers import FORMATS as DECODED
    from model.headers import REFUSALS

    return {
        "signatures": {
            "serving_default": "image_bytes string[B] -> score float32[B], label string[B]",
            "preprocess": "image_bytes string[B] -> image uint8[B, height, width, channels]",
        },
        "decodes": list(DECODED),
        "max_pixels": DEFAULT_MAX_PIXELS,
        "refuses": list(REFUSALS.values()),
        "differs": [
            "a batch with one file that is refused or damaged fails as a whole",
            "of damaged files the graph may take one that the build rejects, or the reverse",
            "model.onnx and model.tflite decode nothing: they take image uint8[B, height, width, "
            "channels] as signature preprocess, or pipeline.images.decode_image, gives it",
        ],
    }


def _summary(run: Run, output: Path, formats: Sequence[str], agreement: Agreement) -> str:
    files = [KERAS_FILE, f"{SAVED_MODEL_FOLDER}/", *(_WRITERS[name][0] for name in formats)]
    scores = ", ".join(
        f"{name} by {largest:.2g}" for name, largest in agreement.largest_score_difference.items()
    )
    lines = [
        f"exported {run.config.network.name} to {output}: {', '.join(files)}, {MODEL_FILE}",
        f"checked on {agreement.files} files: pixels differ by at most "
        f"{agreement.largest_pixel_difference} of 255 gray levels, scores: {scores}",
        f"next: python -m model.predict --model {output} FILES",
    ]
    if agreement.refused or agreement.rejected:
        lines.insert(
            2,
            f"not compared: {agreement.refused} files that the graph refuses, {agreement.rejected} "
            "that the build rejects",
        )
    if run.evaluation is None:
        lines.insert(
            0,
            "NOTICE: these weights were never tested; test them, and export again: python -m "
            f"model.evaluate --run {run.folder}",
        )
    if run.notice:
        lines.insert(0, printable(f"NOTICE: {run.notice}"))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
