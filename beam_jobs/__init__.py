"""Beam jobs: wiring only; the work is done by plain functions of `pipeline`."""

import gc
import logging

# `import apache_beam` warns that its BigQuery client is missing, which no job here uses.
logging.getLogger().addFilter(lambda record: "apitools not found" not in record.getMessage())

# Nothing of Beam's modules is garbage: not looking for any saves a tenth of a second, here and later.
gc.disable()
import apache_beam  # noqa: E402, F401

gc.freeze()
gc.enable()
