"""Training that survives: resumed to the bit, stopped where it must, the same on several devices."""

from __future__ import annotations

import csv
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from model.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from model.hardware import cpu_flags, resolve_precision
from model.train import main as train
from pipeline.errors import WorkError

SMALL = ("--conv", 1, "--units", 4, "--dense", 1, "--batch_size", 16)
FIGURES = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy")

KILL_AT_STEP = """
import os, signal, sys
from model import watch

steps, report = int(sys.argv[1]), watch.StepWatch.on_train_batch_end

def kill_at_step(self, batch, logs=None):
    global steps
    report(self, batch, logs)
    steps -= 1
    if steps == 0:
        os.kill(os.getpid(), signal.SIGKILL)

watch.StepWatch.on_train_batch_end = kill_at_step
from model.train import main
sys.exit(main(sys.argv[2:]))
"""

ON_TWO_DEVICES = """
import sys
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from model.train import main
sys.exit(main(sys.argv[1:]))
"""


def run_train(*arguments: object) -> int:
    return train([str(argument) for argument in arguments])


def run_script(script: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def figures(run: Path) -> list[tuple[float, ...]]:
    """What an epoch came to, without what depends on the clock."""
    with (run / "history.csv").open() as file:
        return [tuple(float(row[name]) for name in FIGURES) for row in csv.DictReader(file)]


def weights(run: Path) -> list[np.ndarray]:
    import keras

    from model.network import build_network
    from pipeline.schema import ImageSpec

    config = json.loads((run / "config.json").read_text())
    from model.config import NetworkConfig

    image = {name: config["image"][name] for name in ("height", "width", "channels")}
    network = build_network(NetworkConfig(**config["training"]["network"]), ImageSpec(**image))
    network.load_weights(run / "best.weights.h5")
    assert keras.backend.backend() == "tensorflow"
    return network.get_weights()


def test_killed_at_five_random_steps_it_ends_in_the_same_bits(records, tmp_path):
    """Each resumed process is killed again, some steps on, five times; the sixth gets through."""
    options = ("--records", records, *SMALL, "--epochs", 4, "--deterministic", "--dropout", 0.3)
    assert run_script("from model.train import main; import sys; sys.exit(main(sys.argv[1:]))",
                      *options, "--run", tmp_path / "whole").returncode == 0  # fmt: skip
    chance = random.Random(5)
    every = ("--checkpoint_every", 2)
    arguments = (*options, "--run", tmp_path / "cut", *every)
    for steps in (13, *(chance.randint(3, 9) for _ in range(4))):  # 13: one after a whole epoch
        killed = run_script(KILL_AT_STEP, steps, *arguments)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        arguments = ("--run", tmp_path / "cut", "--resume", *every)
    finished = run_script(KILL_AT_STEP, 0, *arguments)
    assert finished.returncode == 0, finished.stderr
    assert figures(tmp_path / "cut") == figures(tmp_path / "whole")
    pairs = zip(weights(tmp_path / "cut"), weights(tmp_path / "whole"), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)
    assert not (tmp_path / "cut/checkpoint.npz").exists()


def test_two_devices_learn_what_one_learns(records, tmp_path):
    options = ("--records", records, *SMALL, "--epochs", 3, "--precision", "float32")
    assert run_train(*options, "--run", tmp_path / "one") == 0
    done = run_script(ON_TWO_DEVICES, *options, "--run", tmp_path / "two", "--devices", "all")
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(figures(tmp_path / "two"), figures(tmp_path / "one"), rtol=2e-3)


def test_two_devices_share_an_epoch_that_ends_with_one_image(records, tmp_path):
    options = ("--records", records, *SMALL, "--epochs", 2, "--devices", "all")
    odd = ("--examples", 33, "--validation_fraction", 0, "--run", tmp_path / "odd")
    done = run_script(ON_TWO_DEVICES, *options, *odd)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "odd/result.json").read_text())["epochs"] == 2


@pytest.mark.parametrize("steps", [1, 5, 1000])
def test_several_steps_in_one_call_change_nothing(records, tmp_path, monkeypatch, capsys, steps):
    monkeypatch.setattr(
        "model.fit.compile_options",
        lambda *_, **__: {"jit_compile": False, "steps_per_execution": steps},
    )
    options = ("--records", records, *SMALL, "--seed", 5)
    assert run_train(*options, "--epochs", 2, "--run", tmp_path / "run") == 0
    monkeypatch.undo()
    assert run_train(*options, "--epochs", 2, "--run", tmp_path / "plain") == 0
    assert figures(tmp_path / "run") == figures(tmp_path / "plain")


def test_a_finished_run_is_not_trained_again(records, tmp_path, capsys):
    options = ("--records", records, *SMALL, "--epochs", 1, "--run", tmp_path / "run")
    assert run_train(*options) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    capsys.readouterr()
    assert run_train("--run", tmp_path / "run", "--resume") == 0
    assert "best epoch 1 of 1" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--resume",), "needs the folder of the training to go on with"),
        (("--resume", "--run", "nowhere"), "nowhere has no config.json"),
        (("--resume", "--run", "x", "--epochs=3", "--seed", 1), "received --epochs, --seed"),
        (("--config", "nowhere.json"), "has no nowhere.json"),
        (("--checkpoint_every", 0), "at least 1, received 0"),
        (("--learning_rate", 0), "above 0, received 0.0"),
        (("--learning_rate", "nan"), "above 0, received nan"),
        (("--patience", 0), "at least 1, received 0"),
        (("--augment", "flip,turn"), "'turn'"),
        (("--precision", "float16"), "invalid choice: 'float16'"),
    ],
    ids=str,
)
def test_a_mistake_in_the_options_gets_one_clear_line(arguments, message, capsys):
    assert run_train(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_the_options_of_another_run_train_the_same_network(records, tmp_path, capsys):
    options = (*SMALL, "--epochs", 2, "--seed", 7, "--augment", "flip,brightness")
    assert run_train("--records", records, "--run", tmp_path / "one", *options) == 0
    config = tmp_path / "one/config.json"
    assert run_train("--config", config, "--run", tmp_path / "two") == 0
    assert figures(tmp_path / "two") == figures(tmp_path / "one")
    assert run_train("--config", config, "--run", tmp_path / "three", "--epochs", 1) == 0
    assert figures(tmp_path / "three") == figures(tmp_path / "one")[:1]
    config.write_text(config.read_text().replace('"records_digest": "', '"records_digest": "0'))
    capsys.readouterr()
    assert run_train("--config", config, "--run", tmp_path / "four") == 2
    assert "the options were written for records of digest 0" in capsys.readouterr().err


@pytest.mark.parametrize("steps", [1, 8])
def test_nan_stops_the_training_and_names_the_images(records, tmp_path, monkeypatch, capsys, steps):
    monkeypatch.setattr(
        "model.fit.compile_options",
        lambda *_, **__: {"jit_compile": False, "steps_per_execution": steps},
    )
    options = ("--records", records, *SMALL, "--run", tmp_path / "run", "--learning_rate", 1e30)
    assert run_train(*options, "--precision", "float32") == 1
    error = capsys.readouterr().err
    assert "the loss is no finite number from step 2 on (epoch 1)" in error
    assert "lower --learning_rate, now 1e+30" in error
    assert error.count(".jpg") == 16  # the batch
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run/result.json").exists()


def test_patience_ends_a_training_that_gets_no_better(records, tmp_path):
    options = ("--records", records, *SMALL, "--epochs", 40, "--learning_rate", 1e-12)
    assert run_train(*options, "--patience", 2, "--run", tmp_path / "run") == 0
    result = json.loads((tmp_path / "run/result.json").read_text())
    losses = [row[3] for row in figures(tmp_path / "run")]
    assert result["stopped_early"]
    assert len(losses) - 1 - losses.index(min(losses)) == 2


def test_the_curves_hold_what_was_promised(records, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = ("--records", records, *SMALL, "--epochs", 2, "--run", tmp_path / "run")
    assert run_train(*options) == 0
    tags = {}
    for part in ("train", "validation"):
        events = EventAccumulator(str(tmp_path / "run/tensorboard" / part), {"tensors": 0})
        events.Reload()
        found = events.Tags()["tensors"]
        tags[part] = {tag: [event.step for event in events.Tensors(tag)] for tag in found}
    steps = tags["train"].pop("step_loss")
    assert steps == sorted(set(steps))
    assert tags["train"].pop("step_accuracy") == steps
    assert tags["train"].pop("training images") == [0]
    names = ("loss", "accuracy", "images_per_second", "input_wait", "seconds")
    assert tags["train"] == {f"epoch_{name}": [1, 2] for name in names}
    assert tags["validation"] == {"epoch_loss": [1, 2], "epoch_accuracy": [1, 2]}


def test_a_full_disk_leaves_the_last_good_checkpoint(small_disk):
    path = small_disk("size=256k") / "checkpoint.npz"
    state = TrainingState(7, 1.5, [{"epoch": 1, "loss": 0.5}], [np.arange(3.0)])
    save_checkpoint(path, state, [np.ones((2, 2), np.float32), np.int64(9)])
    with pytest.raises(WorkError, match="No space left on device.*--resume"):
        save_checkpoint(path, TrainingState(8), [np.ones(10**6)])
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.npz"]
    found, variables = load_checkpoint(path)
    assert (found.step, found.seconds, found.epochs) == (7, 1.5, [{"epoch": 1, "loss": 0.5}])
    np.testing.assert_array_equal(found.best[0], [0, 1, 2])
    assert [value.tolist() for value in variables] == [[[1, 1], [1, 1]], 9]


@pytest.mark.parametrize("damage", [lambda d: b"", lambda d: b"PK", lambda d: d[: len(d) // 2]])
def test_a_damaged_checkpoint_is_named(tmp_path, damage):
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(path, TrainingState(), [np.ones(3)])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WorkError, match="checkpoint.npz is damaged"):
        load_checkpoint(path)


def test_a_checkpoint_is_never_unpickled(tmp_path):
    path = tmp_path / "checkpoint.npz"
    np.savez(path, progress=np.array([print], dtype=object))
    with pytest.raises(WorkError, match="damaged"):
        load_checkpoint(path)


def test_waiting_for_input_is_told_from_waiting_for_the_network():
    import tensorflow as tf

    from model.watch import InputMeter

    def slow(seconds):
        def wait(x):
            time.sleep(seconds)
            return x

        return lambda x: tf.numpy_function(wait, [x], tf.int64)

    numbers = tf.data.Dataset.range(10)
    starved, fed = InputMeter(), InputMeter()
    assert len(list(starved.watch(numbers.map(slow(0.02))))) == 10
    for _ in fed.watch(numbers.map(slow(0.002)).prefetch(4)):
        time.sleep(0.02)
    assert starved.seconds > 0.19
    assert fed.seconds < 0.05


def test_the_first_step_without_a_finite_loss_is_counted_exactly():
    from model.watch import SoundSteps

    metric = SoundSteps()
    for answers in ([0.1, 0.9], [0.2, 0.3], [0.1, np.nan], [0.5, 0.5]):
        metric.update_state(np.array([0, 1]), np.array(answers)[:, None])
    assert float(metric.result()) == 2
    metric.reset_state()
    metric.update_state(np.array([0, 1]), np.full((2, 1), 0.5))
    assert float(metric.result()) == 1


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_weights_and_the_last_layer_are_float32_in_every_precision(precision):
    from model.config import NetworkConfig
    from model.network import build_network
    from pipeline.schema import ImageSpec

    network = build_network(NetworkConfig(2, 4, 1), ImageSpec(32, 32, 1), precision=precision)
    assert {weight.dtype for weight in network.weights} == {"float32"}
    *computing, last = (layer.compute_dtype for layer in network.layers)
    assert set(computing) == {precision.removeprefix("mixed_")}
    assert last == "float32"


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [([7.5], "float32"), ([8.0], "mixed_bfloat16"), ([9.0, 7.0], "float32"), ([0.0], "float32")],
)
def test_bfloat16_is_chosen_where_every_gpu_multiplies_it(capabilities, precision, monkeypatch):
    monkeypatch.setattr("model.hardware.gpu_capabilities", lambda: capabilities)
    assert resolve_precision("auto") == precision
    assert resolve_precision("float32") == "float32"


def test_flags_of_the_processor(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu sse avx512_bf16\nflags : other\n")
    assert {"fpu", "avx512_bf16"} <= cpu_flags(cpuinfo)
    assert "other" not in cpu_flags(cpuinfo)
    assert cpu_flags(tmp_path / "none") == set()
