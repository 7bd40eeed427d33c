"""Packaging. `pip install .` gives the packages pipeline, model and beam_jobs and their needs."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "pipeline/__init__.py").read_text())[1]

# tensorflow-io 0.37.1, its last release, works up to TensorFlow 2.17; on Python 3.13 there is
# neither, and paths that need tensorflow-io get a clear error.
WITH_TENSORFLOW_IO = 'python_version < "3.13"'
WITHOUT_TENSORFLOW_IO = 'python_version >= "3.13"'

POSTGRESQL = "psycopg[binary]>=3.2"

setup(
    name="inkling",
    version=VERSION,
    description="Labelled images to globally shuffled TFRecords to an honestly chosen model",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["pipeline*", "model*", "beam_jobs*"]),
    entry_points={"console_scripts": ["inkling-worker=beam_jobs.boot:run"]},
    package_data={"model": ["plans/*.toml", "templates/*.html"]},
    install_requires=[
        "apache-beam>=2.77,<2.78",
        "google-crc32c>=1.6",
        "jinja2>=3.1",
        'kaggle>=2.2,<3; python_version >= "3.11"',  # there is none for 3.10: a clear line says so
        'kagglesdk>=0.1.35,<1; python_version >= "3.11"',
        "markupsafe>=3",
        "numpy>=1.26,<3",
        "optuna>=5,<6",
        "pillow>=11.3",
        "plotly>=7,<8",
        "pyarrow>=14.0.1",  # Beam's too, and within its limits
        "requests>=2.32",
        "scikit-learn>=1.7",
        "scipy>=1.15",
        "sqlalchemy>=2",
        f"tensorflow==2.17.1; {WITH_TENSORFLOW_IO}",
        f"tensorflow-io==0.37.1; {WITH_TENSORFLOW_IO}",
        f"tensorflow>=2.20; {WITHOUT_TENSORFLOW_IO}",
        "keras>=3.5,<4",
        "tensorboard>=2.17",  # TensorFlow 2.21 no longer brings it
        'tomli>=2; python_version < "3.11"',
    ],
    extras_require={
        "test": [POSTGRESQL, "hypothesis>=6.100", "pytest>=8", "ruff>=0.8"],
        "postgresql": [POSTGRESQL],
        "gpu": [
            f"tensorflow[and-cuda]==2.17.1; {WITH_TENSORFLOW_IO}",
            f"tensorflow[and-cuda]>=2.20; {WITHOUT_TENSORFLOW_IO}",
        ],
        # onnx 1.19 asks for ml_dtypes 0.5 at import, TensorFlow 2.17 for 0.4.
        "onnx": ["onnx>=1.17,<1.19", "onnxruntime>=1.20", "tf2onnx>=1.17"],
        # Not apache-beam[gcp]: it asks for BigTable's client, which asks for protobuf 6, and
        # TensorFlow 2.17 for protobuf 4. This is the part of it that Dataflow and buckets need.
        "gcp": [
            "google-apitools>=0.5.31,<0.6",
            "google-auth>=2,<3",
            "google-auth-httplib2>=0.1,<0.4",
            "google-cloud-core>=2,<3",
            "google-cloud-dataflow-client>=0.8.6,<1",
            "google-cloud-storage>=2.18.2,<4",
        ],
    },
)
