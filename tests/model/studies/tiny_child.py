"""A small real command in the place of `model.studies.child`: quick, and it can be told to go wrong.

It leaves the files of a run, one epoch after another, and goes on where it was cut off. TINY_SECONDS:
of an epoch; TINY_FAULTS: JSON, fault by model name; TINY_LOG: a file that gets a line for each start
and each end of a training.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from model.config import TrainConfig
from model.openings import model_digest
from model.studies.child import _end_with_parent

COLUMNS = ("epoch", "seconds", "images_per_second", "loss", "val_loss", "val_accuracy")
KINDS = {"killed": signal.SIGKILL, "terminated": signal.SIGTERM}


def main() -> int:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    work, _, run = sys.argv[1:4]
    return train(Path(run)) if work == "train" else evaluate(Path(run))


def log(*words: object) -> None:
    if "TINY_LOG" in os.environ:
        with open(os.environ["TINY_LOG"], "a") as file:
            file.write(" ".join(map(str, words)) + "\n")


def train(run: Path) -> int:
    values = json.loads((run / "config.json").read_text())
    config = TrainConfig.from_json(values["training"])
    name = f"{run.parent.name}/{run.name}"
    log("begin", name, os.getpid())
    network = config.network
    fault = json.loads(os.environ.get("TINY_FAULTS", "{}")).get(network.name, "")
    rows = []
    if (run / "history.csv").exists():
        rows = list(csv.DictReader((run / "history.csv").open()))
    for epoch in range(len(rows) + 1, config.epochs + 1):
        time.sleep(float(os.environ.get("TINY_SECONDS", "0")))
        if fault in KINDS:
            os.kill(os.getpid(), KINDS[fault])
            time.sleep(60)
        if fault == "nan":
            print("error: the loss is no finite number from step 7 on", file=sys.stderr)
            return 1
        if fault == "crash":
            raise RuntimeError("something is wrong")
        loss = 1 / (1 + network.conv * network.units) + 1 / epoch + config.seed % 7 / 1000
        rows.append(dict(zip(COLUMNS, (epoch, epoch / 10, 100, loss, loss, 0.5), strict=True)))
        write_history(run, rows)
        print(f"epoch {epoch}/{config.epochs}  loss {loss:.4f}", flush=True)
    best = {name: float(value) for name, value in rows[-1].items()}
    (run / "best.weights.h5").write_text(f"{network.name} {config.seed}")
    result = {**best, "parameters": 7, "epochs": config.epochs, "best_epoch": config.epochs}
    aside = run / ".result"
    aside.write_text(json.dumps(result))
    aside.replace(run / "result.json")
    log("end", name, os.getpid())
    return 0


def write_history(run: Path, rows: list[dict]) -> None:
    aside = run / ".history"
    with aside.open("w") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    aside.replace(run / "history.csv")


def evaluate(run: Path) -> int:
    log("evaluate", run.name)
    if os.environ.get("TINY_EVALUATION_FAILS"):
        print("error: a record is damaged", file=sys.stderr)
        return 1
    figures = {
        "opening": {"model": model_digest(run / "best.weights.h5")},
        **{"accuracy": 0.75, "accuracy_interval": [0.6, 0.9], "loss": 0.5},
        **{"misclassified": 1, "images": 4},
    }
    (run / "evaluation.json").write_text(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
