"""The house keeps its floors: who may import whom, and that every public function explains itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "model", "beam_jobs")

# A room may import rooms of lower floors, and its neighbours only if they are named in NEIGHBOURS.
FLOORS = [
    {"pipeline"},  # __version__
    {"pipeline.errors"},
    {
        "pipeline.blocks",
        "pipeline.buffers",
        "pipeline.console",
        "pipeline.files",
        "pipeline.hashing",
        "pipeline.scattered",
        "pipeline.schema",
    },
    {"pipeline.duplicates", "pipeline.example", "pipeline.listing", "pipeline.plan"}
    | {"pipeline.tfrecord"},
    {"pipeline.augment", "pipeline.manifest", "pipeline.images", "pipeline.order"}
    | {"pipeline.sources"},
    {"pipeline.sources.sample_subject"},
    {"pipeline.sources.sample_images"},
    {
        *("pipeline.sources.archive", "pipeline.sources.folder", "pipeline.sources.kaggle"),
        *("pipeline.sources.sample", "pipeline.reader"),
    },
    {"pipeline.decoding", "pipeline.predictions"},
    {"pipeline.build", "pipeline.batches"},
    {"pipeline.dataset", "pipeline.sequential"},
    {"pipeline.publish", "pipeline.repair", "pipeline.preview"},
    {"pipeline.verify"},
    {"pipeline.classify"},
    {"pipeline.publish_predictions"},
    {"beam_jobs", "model"},
    {"beam_jobs.boot", "beam_jobs.flink"},
    {"beam_jobs.options", "beam_jobs.runners", "beam_jobs.transforms", "model.config"},
    {"beam_jobs.build_records", "model.network", "model.runs", "model.hardware", "model.watch"}
    | {"model.curves", "model.checkpoint"}
    | {"model.converters", "model.headers", "model.inputs", "model.samples"}
    | {"model.charts", "model.gallery", "model.metrics", "model.openings", "model.pages"},
    {"model.history", "model.parallel", "model.studies"},
    {
        f"model.studies.{name}"
        for name in ("board", "costs", "hparams", "owners", "plans", "storages")
    },
    {f"model.studies.{name}" for name in ("folder", "plan_files")},
    {f"model.studies.{name}" for name in ("claims", "reading")},
    {f"model.studies.{name}" for name in ("page", "rounds", "trials")},
    {"model.studies.forecast"},
    {"model.studies.engine"},
    {"model.options", "model.fit", "model.report"}
    | {"model.agreement", "model.exported", "model.serving"},
    {"model.train", "model.evaluate"} | {"model.export", "model.predict"} | {"beam_jobs.inference"},
    {"model.search", "model.studies.child", "beam_jobs.classify_images"},
]
NEIGHBOURS = {("pipeline.example", "pipeline.tfrecord")}
UPWARDS = {  # `open_source` is the one place that knows every source
    ("pipeline.sources", f"pipeline.sources.{name}")
    for name in ("archive", "folder", "kaggle", "sample")
}
BRIDGES = {  # batch prediction alone may load a network, and knows of the model's wing its exports
    ("beam_jobs.inference", "model.exported"),
    ("beam_jobs.classify_images", "model.exported"),
}
NEVER = {
    "pipeline": {"apache_beam", "keras", "beam_jobs", "model"},
    "beam_jobs": {"tensorflow", "keras", "model", "pipeline.batches", "pipeline.dataset"}
    | {"pipeline.reader", "pipeline.sequential"},
    "model": {"apache_beam", "beam_jobs", "pipeline.sources", "pipeline.build"},
}
TENSORFLOW_ROOMS = {"pipeline.dataset", "pipeline.sequential"} | {
    f"model.{name}"
    for name in (
        *("agreement", "converters", "curves", "evaluate", "export", "exported", "fit", "hardware"),
        *("headers", "network", "predict", "serving", "watch"),
    )
}


def modules() -> dict[str, ast.Module]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imports(module: str) -> set[str]:
    """Everything that `module` imports anywhere in its file; our own modules by their full name."""
    names = set()
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {
                f"{node.module}.{alias.name}"
                if f"{node.module}.{alias.name}" in MODULES
                else node.module
                for alias in node.names
            }
    return names - {module}


def floor(module: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) if module in rooms)


def test_every_room_has_its_floor():
    assert set(MODULES) == set.union(*FLOORS)


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_lower_floors_only(module):
    for other in imports(module) & set(MODULES):
        allowed = (module, other) in NEIGHBOURS | UPWARDS
        assert floor(other) < floor(module) or allowed, f"{module} may not import {other}"


@pytest.mark.parametrize("module", MODULES)
def test_the_wings_meet_on_disk_only(module):
    for other in imports(module):
        if (module, other) in BRIDGES:
            continue
        for forbidden in NEVER[module.split(".")[0]]:
            assert other != forbidden and not other.startswith(forbidden + "."), other
        if other.split(".")[0] in ("tensorflow", "keras"):
            assert module in TENSORFLOW_ROOMS


def test_the_build_job_crosses_no_bridge():
    """Nothing that it imports, however far down, stands on either side of one."""
    reached, new = set(), {"beam_jobs.build_records"}
    while new:
        reached |= new
        new = set().union(*(imports(room) & set(MODULES) for room in new)) - reached
    assert not reached & {room for bridge in BRIDGES for room in bridge}


@pytest.mark.parametrize("module", MODULES)
def test_what_is_public_is_annotated_and_explained(module):
    tree = MODULES[module]
    assert ast.get_docstring(tree), f"{module} has no docstring"
    for owner, node in public_definitions(tree):
        where = f"{module}.{owner}{node.name}"
        assert ast.get_docstring(node) or node.name == "__init__", f"{where} has no docstring"
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            unnamed = [
                a.arg for a in arguments if not a.annotation and a.arg not in ("self", "cls")
            ]
            assert not unnamed, f"{where}: {unnamed} not annotated"
            assert node.returns or node.name == "__init__", f"{where}: result not annotated"


def public_definitions(tree: ast.Module):
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield "", node
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield f"{node.name}.", inner


def test_only_evaluate_opens_the_test_split():
    """Law 10, as far as words can show it: nobody else in the model's wing says `"test"`."""
    for module in MODULES:
        if module.startswith("model") and module != "model.evaluate":
            texts = {n.value for n in ast.walk(MODULES[module]) if isinstance(n, ast.Constant)}
            assert "test" not in texts, module


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")])
def test_ruff_is_content(arguments):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments, "."],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
