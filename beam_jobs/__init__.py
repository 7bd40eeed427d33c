"""Beam jobs: wiring only; the work is done by plain functions of `pipeline`."""

import logging

# `import apache_beam` warns that its BigQuery client is missing, which no job here uses.
logging.getLogger().addFilter(lambda record: "apitools not found" not in record.getMessage())
