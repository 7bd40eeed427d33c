"""The limit: nothing but read, decode, resize and write raw bytes, on every core.

No labels, no order, no records, no checksums: no program that does this work in this way can be
faster, so everything else is measured as a share of it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.pool
import os
import threading
from pathlib import Path

from benchmarks.peers.shrink import labelled_files, shrink

_here = threading.local()


def start_worker(folder: str) -> None:
    """Give this worker, a process or a thread, a file of its own."""
    name = f"{os.getpid()}-{threading.get_ident()}.raw"
    _here.file = os.open(Path(folder, name), os.O_CREAT | os.O_WRONLY)


def work(path: str) -> None:
    """One image, raw."""
    os.write(_here.file, shrink(path))


def main() -> None:
    """Shrink every image below --input into raw files in --output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--threads", action="store_true", help="threads in place of processes")
    options = parser.parse_args()
    os.makedirs(options.output)
    paths = [path for path, _ in labelled_files(options.input)]
    make = multiprocessing.pool.ThreadPool if options.threads else multiprocessing.Pool
    with make(os.cpu_count(), start_worker, (options.output,)) as pool:
        for _ in pool.imap_unordered(work, paths, chunksize=16):
            pass


if __name__ == "__main__":
    main()
