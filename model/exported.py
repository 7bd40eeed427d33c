"""A folder that `model.export` made, read as data from strangers: nothing in it is run.

`model.json` gives the shape of the network, in a few numbers; the network is built by our own code and
`model.keras` gives its weights alone. So the layers that a `.keras` file describes are never made, not
even looked at: no lambda, no class of another package, no setting of a layer can do anything here,
whatever Keras' safe mode lets pass. The SavedModel is for servers: its graph may hold any operation of
TensorFlow, those that read and write files among them, so it is not loaded either.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.config import NetworkConfig
from model.runs import WEIGHTS_FILE
from pipeline.errors import UsageError, WorkError
from pipeline.files import file_sha256
from pipeline.schema import ImageSpec, check_class_names

if TYPE_CHECKING:
    import keras

MODEL_FILE = "model.json"
KERAS_FILE = "model.keras"
SAVED_MODEL_FOLDER = "saved_model"
ONNX_FILE = "model.onnx"
TFLITE_FILE = "model.tflite"

FORMAT_VERSION = 1
"""Version of `model.json`. A reader refuses any other."""

_LARGEST_NUMBER = 4096  # of layers, units, pixels: more of them is damage or mischief


@dataclass(frozen=True)
class Exported:
    """One exported model: its folder, classes in label order, images, network, and where the data are
    not what they seem, a notice; keras_sha256: of its weights' file, hexadecimal.
    """

    folder: Path
    classes: tuple[str, ...]
    image: ImageSpec
    network: NetworkConfig
    keras_sha256: str
    notice: str


def load_exported(folder: Path) -> Exported:
    """Read and check `model.json`. Raises UsageError: no export, damaged, or of another version."""
    path = folder / MODEL_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values["format_version"]
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"--model: {folder} {_not_an_export(folder)}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, error) from error
    if version != FORMAT_VERSION:
        raise UsageError(
            f"--model: {path} has format version {version!r}; this program reads {FORMAT_VERSION}: "
            "export the run again"
        )
    try:
        exported = _parse(values, folder)
        digest = values["image"]["digest"]
    except (ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise _damaged(path, error) from error
    if digest != exported.image.digest:
        raise UsageError(
            f"--model: {folder} was trained on images prepared in another way (digest {digest!r}, "
            f"this program's {exported.image.digest}): use the version that exported it"
        )
    return exported


def _not_an_export(folder: Path) -> str:
    if (folder / WEIGHTS_FILE).exists():
        return (
            f"is a run; export it first: python -m model.export --run {folder} --output exported/"
        )
    return f"has no {MODEL_FILE}; give a folder that python -m model.export made"


def _damaged(path: Path, error: Exception) -> UsageError:
    return UsageError(f"--model: {path} is not ours or damaged ({type(error).__name__}: {error})")


def _parse(values: dict[str, Any], folder: Path) -> Exported:
    classes = check_class_names([_checked(name, str) for name in _checked(values["classes"], list)])
    if len(classes) != 2:
        raise ValueError(f"{len(classes)} classes, a network has 2")
    image = ImageSpec(*(_number(values["image"][name]) for name in ("height", "width", "channels")))
    network = _parse_network(dict(values["network"]))
    network.check_fits(image)
    digest = _checked(values["files"][KERAS_FILE]["sha256"], str)
    return Exported(folder, classes, image, network, digest, _checked(values["notice"], str))


def _parse_network(values: dict[str, Any]) -> NetworkConfig:
    """From what `NetworkConfig.to_json` gave; a field that is not known raises TypeError."""
    layers = {name: _number(values.pop(name)) for name in ("conv", "units", "dense")}
    beyond = {name: _checked(value, float, int) for name, value in values.items()}
    return NetworkConfig(**layers, **beyond)


def _checked(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:  # not isinstance: a bool is an int there
        raise TypeError(f"{value!r:.40} is no {kinds[0].__name__}")
    return value


def _number(value: Any) -> int:
    if not 0 <= _checked(value, int) <= _LARGEST_NUMBER:
        raise ValueError(f"{value} is not from 0 to {_LARGEST_NUMBER}")
    return value


def check_weights(exported: Exported) -> Path:
    """The file of the weights. Raises WorkError if it is missing, damaged or too short.

    All that can be known of it without TensorFlow.
    """
    path = exported.folder / KERAS_FILE
    if not path.is_file():
        raise WorkError(f"{path} is missing; export the run again")
    if file_sha256(path) != exported.keras_sha256:
        raise WorkError(f"{path} is damaged: not the file that {MODEL_FILE} names; export again")
    if 4 * parameters(exported.network, exported.image) > path.stat().st_size:
        raise _no_weights(exported, "too short")
    return path


def load_network(exported: Exported) -> keras.Model:
    """The network, uint8[B, H, W, C] → float32[B, 1], with the weights of `model.keras`.

    Raises WorkError if these are missing, damaged, or do not fit.
    """
    path = check_weights(exported)

    from model.network import build_network  # loads TensorFlow: after all that can be refused

    network = build_network(exported.network, exported.image)
    try:
        network.load_weights(path)
    except Exception as error:  # HDF5's readers raise whatever a broken file makes them trip over
        raise _no_weights(exported, type(error).__name__) from error
    return network


def parameters(network: NetworkConfig, image: ImageSpec) -> int:
    """How many weights `build_network` makes, without making them."""
    height, width, channels = image.height, image.width, image.channels
    count = 0
    for kernels in network.kernels:
        count += (9 * channels + 1) * kernels
        height, width, channels = (height - 2) // 2, (width - 2) // 2, kernels
    features = height * width * channels
    for _ in range(network.dense):
        count += (features + 1) * network.units
        features = network.units
    return count + features + 1


def _no_weights(exported: Exported, why: str) -> WorkError:
    return WorkError(
        f"{exported.folder / KERAS_FILE} does not hold the weights of {exported.network.name} ({why}); "
        "export the run again"
    )
