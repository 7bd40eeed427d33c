"""The command line of `model.train`: options given one by one, taken from another run, or resumed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import DEVICES, PRECISIONS, NetworkConfig, TrainConfig
from model.runs import CONFIG_FILE, TrainedOn, load_config
from pipeline.augment import AUGMENTATIONS
from pipeline.console import Parser
from pipeline.errors import UsageError

_NETWORK = ("conv", "units", "dense", "dropout", "growth")
_OF_THE_RUN = ("run", "config", "resume", "overwrite", "checkpoint_every")


@dataclass(frozen=True)
class TrainOptions:
    """A training and where it goes.

    run: None for `runs/<model's name>`, numbered if taken; expected: the data that a configuration
    was written for, None where there was none; checkpoint_every: steps, None for each epoch.
    """

    config: TrainConfig
    run: Path | None
    overwrite: bool
    resume: bool
    checkpoint_every: int | None
    expected: TrainedOn | None


def parse_train_options(argv: Sequence[str] | None) -> TrainOptions:
    """The options in `argv` (default: the command line). Raises UsageError."""
    parser = _parser()
    given = parser.parse_strictly(argv)
    run = Path(given.run) if given.run else None
    expected = None
    if given.checkpoint_every is not None and given.checkpoint_every < 1:
        raise UsageError(
            f"--checkpoint_every: must be at least 1, received {given.checkpoint_every}"
        )
    if given.resume:
        run = _run_to_resume(run, sys.argv[1:] if argv is None else argv)
        config, expected = load_config(run / CONFIG_FILE)
    else:
        if given.config:
            known, expected = load_config(Path(given.config))
            parser.set_defaults(**_flat(known))
            given = parser.parse_strictly(argv)
        config = _config_of(given)
    return TrainOptions(
        config=config,
        run=run,
        overwrite=given.overwrite,
        resume=given.resume,
        checkpoint_every=given.checkpoint_every,
        expected=expected,
    )


def _parser() -> Parser:
    parser = Parser("python -m model.train", "Train a CNN of the study's family on records.")
    add = parser.add_argument
    add("--records", default="tfrecords/", help="folder that build_records made")
    add("--conv", type=int, default=5, help="3x3 convolutions, each with 2x2 max pooling")
    add("--units", type=int, default=32, help="kernels per convolution, units per dense layer")
    add("--dense", type=int, default=2, help="dense layers before the output")
    add("--dropout", type=float, default=0.0, help="share dropped after each dense layer")
    add("--growth", type=float, default=1.0, help="times the kernels of the convolution before")
    add("--epochs", type=int, default=10, help="passes over the training examples")
    add("--batch_size", type=int, default=64, help="images per step, over all devices")
    add("--learning_rate", type=float, default=0.001, help="of Adam")
    add("--validation_fraction", type=float, default=0.2, help="share of the groups to validate on")
    add("--examples", type=int, help="use the first N training records only; default: all")
    add("--augment", default="", help=f"change training images: some of {','.join(AUGMENTATIONS)}")
    add("--patience", type=int, help="stop after so many epochs without a lower validation loss")
    add("--seed", type=int, default=0, help="decides initial weights and the order of the epochs")
    add("--precision", default="auto", choices=PRECISIONS,
        help="auto: mixed_bfloat16 where the hardware is faster with it")  # fmt: skip
    add("--devices", default="one", choices=DEVICES, help="all: share each batch over all GPUs")
    add("--deterministic", action="store_true", help="the same bits again at each run, if slower")
    add("--run", help="folder for the results; default: runs/<name of the model>")
    add("--overwrite", action="store_true", help="replace what is in the folder of --run")
    add("--resume", action="store_true", help="go on with the unfinished training in --run")
    add("--checkpoint_every", type=int, metavar="STEPS", help="default: once an epoch")
    add("--config", help="take the options from a run's config.json, others given go before it")
    return parser


def _run_to_resume(run: Path | None, argv: Sequence[str]) -> Path:
    """Raise UsageError unless a run is named and nothing is given that its options decide."""
    if run is None:
        raise UsageError(
            "--resume: needs the folder of the training to go on with: --run runs/NAME"
        )
    flags = {argument.split("=")[0] for argument in argv if argument.startswith("--")}
    others = sorted(flags - {"--run", "--resume", "--checkpoint_every"})
    if others:
        raise UsageError(
            f"--resume: the options stand in {run / CONFIG_FILE}; received {', '.join(others)} "
            "beside it: leave them out, or train anew without --resume"
        )
    return run


def _config_of(given: argparse.Namespace) -> TrainConfig:
    values = {name: value for name, value in vars(given).items() if name not in _OF_THE_RUN}
    network = NetworkConfig(**{name: values.pop(name) for name in _NETWORK})
    augment = tuple(name for name in values["augment"].split(",") if name)
    return TrainConfig(
        **dict(values, network=network, records=Path(values["records"]), augment=augment)
    )


def _flat(config: TrainConfig) -> dict[str, Any]:
    """`config` as defaults of the command line."""
    values = config.to_json()
    return values.pop("network") | dict(values, augment=",".join(config.augment))
