"""Studies: what is trained and compared, by which workers, and what came of it (`model.search`)."""
