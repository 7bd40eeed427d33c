"""Training, testing and choosing a CNN on records; nothing here knows how they were built."""

import os

# TensorFlow greets with a page of notes about GPUs that are not there, some of them as errors. What
# really goes wrong is raised as well.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
