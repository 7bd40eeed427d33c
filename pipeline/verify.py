"""Is a data set still what the build made? `python -m pipeline.verify tfrecords/`

Every byte of every shard is read once and held against the manifest: sha256, the checksums of each
record, its layout and its label. All damage is named, each piece in one line. `--repair` rebuilds the
damaged shards, and only those, from the input that the data set was built from.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import struct
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.console import Parser, Progress, name_some
from pipeline.errors import UsageError, command, describe_os_error, printable
from pipeline.example import decode_example, make_layout
from pipeline.files import BUFFER_BYTES
from pipeline.manifest import MANIFEST_FILE, Manifest, Shard, load_manifest
from pipeline.publish import find_shards, locked_output
from pipeline.repair import repair_shards
from pipeline.schema import SPLITS
from pipeline.tfrecord import FOOTER_BYTES, HEADER_BYTES, masked_crc


@dataclass(frozen=True)
class Finding:
    """One piece of damage: the file it is in and what it is; records: the first and last of those
    next to each other that have it, counted from 0, or None if it is the file's.
    """

    file: str
    what: str
    records: tuple[int, int] | None = None

    def __str__(self) -> str:
        if self.records is None:
            return f"{self.file}: {self.what}"
        first, last = self.records
        numbers = f"record {first}" if first == last else f"records {first}-{last}"
        return f"{self.file}: {numbers}: {self.what}"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Verify, or repair, the data set that `argv` names; 0 if in the end all of it is good."""
    options = _parse(argv)
    folder = Path(options.folder)
    manifest = load_manifest(folder)
    if not options.repair:
        findings = verify_records(folder, manifest)
        _print_findings(findings)
    else:
        with locked_output(folder):
            manifest = load_manifest(folder)  # a build may have ended before we had the lock
            findings = _repair(folder, manifest, options.input)
    print("\n".join(map(printable, summary(folder, manifest, findings))))
    return 1 if findings else 0


def _parse(argv: Sequence[str] | None) -> Namespace:
    parser = Parser(
        "python -m pipeline.verify",
        "Hold every shard and record of a data set against its manifest; name all damage. "
        "Exit status: 0 all good, 1 damage, 2 no data set there.",
    )
    add = parser.add_argument
    add("folder", nargs="?", default="tfrecords/", help="folder that holds manifest.json")
    add(
        "--repair", action="store_true", help="rebuild the damaged shards; good ones stay untouched"
    )
    add(
        "--input",
        help="for --repair: what the data set was built from; default: as in the manifest",
    )
    options = parser.parse_strictly(argv)
    if options.input and not options.repair:
        raise UsageError("--input: goes with --repair; without it nothing is read but the records")
    return options


def _print_findings(findings: Iterable[Finding]) -> None:
    for finding in findings:
        print(printable(str(finding)), file=sys.stderr)


def verify_records(folder: Path, manifest: Manifest) -> list[Finding]:
    """All damage of the data set in `folder`: the manifest's own, each shard's in turn, stray files.

    Shards are read on all cores, each in blocks of about a mebibyte. Raises UsageError if the
    manifest is too damaged to tell where a record stands.
    """
    _check_sound(folder, manifest)
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    done = [0] * len(shards)
    megabytes = sum(shard.bytes for shard in shards) // 10**6

    def verify(number: int) -> list[Finding]:
        def advance(count: int) -> None:
            done[number] += count

        return verify_shard(folder, shards[number], manifest, advance=advance)

    with (
        Progress(lambda: sum(done) // 10**6, total=megabytes, unit="MB"),
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        found = [finding for each in pool.map(verify, range(len(shards))) for finding in each]
    return [*_check_sums(folder, manifest), *found, *_find_strays(folder, shards)]


def _check_sound(folder: Path, manifest: Manifest) -> None:
    """Raise UsageError unless the layout is the one that the image's shape and the classes ask for."""
    try:
        layout = make_layout(
            manifest.image,
            num_classes=len(manifest.classes),
            longest_key=manifest.layout.key_room,
        )
        shards = [shard for split in manifest.splits.values() for shard in split.shards]
        sound = (
            layout == manifest.layout
            and set(manifest.splits) == set(SPLITS)
            and isinstance(manifest.source["uri"], str)
            and isinstance(manifest.seed, int)
            and all(len(shard.records_per_class) == len(manifest.classes) for shard in shards)
            and all(isinstance(number, int) for shard in shards for number in _numbers(shard))
        )
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise UsageError(
            f"{folder / MANIFEST_FILE} is damaged: its layout, splits and classes do not go together; "
            f"build again: python -m beam_jobs.build_records --output {folder} --overwrite"
        )


def _numbers(shard: Shard) -> tuple[int, ...]:
    return (shard.records, shard.bytes, *shard.records_per_class)


def _check_sums(folder: Path, manifest: Manifest) -> list[Finding]:
    """Where the sums that the manifest states for a split are not those of its shards."""
    stated = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))["splits"]
    return [
        Finding(
            MANIFEST_FILE,
            f"{split}: {field} is {stated[split].get(field)}, its shards sum up to {values[field]}",
        )
        for split, values in manifest.to_json()["splits"].items()
        for field in ("records", "bytes", "records_per_class")
        if stated[split].get(field) != values[field]
    ]


def _find_strays(folder: Path, shards: Iterable[Shard]) -> list[Finding]:
    known = {shard.file for shard in shards}
    strays = sorted(path.name for path in find_shards(folder) if path.name not in known)
    return [
        Finding(name, "is named like a shard, and the manifest has none of it") for name in strays
    ]


def verify_shard(
    folder: Path, shard: Shard, manifest: Manifest, *, advance: Callable[[int], None]
) -> list[Finding]:
    """All damage of one shard; `advance` is told how many bytes have been read, again and again.

    Where the sha256 is right the file is what the build wrote, and the finding is the manifest's.
    """
    path = folder / shard.file
    if not path.is_file():
        return [Finding(shard.file, "is no file" if path.exists() else "is missing")]
    scan = _Scan(shard, manifest)
    try:
        with open(path, "rb") as file:
            while block := file.read(scan.block_bytes):
                scan.take(block)
                advance(len(block))
    except OSError as error:
        return [*scan.found, Finding(shard.file, f"cannot be read: {describe_os_error(error)}")]
    return scan.conclude()


class _Scan:
    """One pass through a shard, in blocks of whole records; the last block may be any shorter."""

    def __init__(self, shard: Shard, manifest: Manifest) -> None:
        self.found: list[Finding] = []
        self._shard, self._manifest = shard, manifest
        self._stride = manifest.layout.record_bytes
        self.block_bytes = max(1, BUFFER_BYTES // self._stride) * self._stride
        self._sha256 = hashlib.sha256()
        self._bytes = self._records = 0
        self._per_class = [0] * len(manifest.classes)

    def take(self, block: bytes) -> None:
        self._sha256.update(block)
        self._bytes += len(block)
        for start in range(0, len(block) - self._stride + 1, self._stride):
            label, faults = check_record(block[start : start + self._stride], self._manifest)
            if faults:
                self._note("; ".join(faults))
            else:
                self._per_class[label] += 1
            self._records += 1

    def _note(self, what: str) -> None:
        """The record at hand has `what`; one finding with those before it, if they have the same."""
        number = self._records
        last = self.found[-1] if self.found else None
        if last and last.records and last.records[1] == number - 1 and last.what == what:
            self.found[-1] = replace(last, records=(last.records[0], number))
        else:
            self._add(what, (number, number))

    def _add(self, what: str, records: tuple[int, int] | None = None) -> None:
        self.found.append(Finding(self._shard.file, what, records))

    def conclude(self) -> list[Finding]:
        """All findings, those about the shard as a whole last."""
        self._check_size()
        self._check_classes()
        sha256 = self._sha256.hexdigest()
        if sha256 == self._shard.sha256:
            return [Finding(MANIFEST_FILE, f"wrong about a good file: {f}") for f in self.found]
        if not self.found:
            self._add(
                "every record is sound, and they are not those that the build wrote: the sha256 is "
                f"{sha256}, the manifest says {self._shard.sha256}"
            )
        return self.found

    def _check_size(self) -> None:
        shard = self._shard
        sizes = f"the file has {self._bytes:,} bytes, the manifest says {shard.bytes:,}"
        if self._records < shard.records:
            self._add(f"missing: {sizes}", (self._records, shard.records - 1))
        elif self._bytes > shard.records * self._stride:
            self._add(f"more than {shard.records:,} records: {sizes}")
        elif self._bytes != shard.bytes:
            self._add(sizes)

    def _check_classes(self) -> None:
        """Fewer of a class than stated may be the damaged and the missing, which are named already."""
        pairs = list(zip(self._per_class, self._shard.records_per_class, strict=True))
        too_many = any(found > stated for found, stated in pairs)
        too_few = any(found < stated for found, stated in pairs)
        if too_many or (too_few and not self.found):
            per_class = zip(self._manifest.classes, pairs, strict=True)
            counts = (
                f"{found:,} {name} (manifest: {stated:,})" for name, (found, stated) in per_class
            )
            self._add(f"records per class: {', '.join(counts)}")


def check_record(framed: bytes, manifest: Manifest) -> tuple[int, list[str]]:
    """The label of one TFRecord and all that is wrong with it; only without faults is the label true.

    framed: `manifest.layout.record_bytes` bytes from where the record ought to begin.
    """
    faults = []
    data = framed[HEADER_BYTES:-FOOTER_BYTES]
    length, length_crc = struct.unpack("<QI", framed[:HEADER_BYTES])
    if masked_crc(framed[:8]) != length_crc:
        faults.append("the length does not match its checksum")
    elif length != len(data):
        faults.append(f"the length is {length:,}, the layout says {len(data):,}")
    if masked_crc(data) != struct.unpack("<I", framed[-FOOTER_BYTES:])[0]:
        return 0, [*faults, "the data do not match their checksum"]
    try:
        record = decode_example(data, manifest.layout)
    except ValueError:
        return 0, [*faults, "it is not laid out as the manifest says"]
    if record.label >= len(manifest.classes):
        faults.append(f"{record.key} has label {record.label} of {len(manifest.classes)} classes")
    return record.label, faults


def summary(folder: Path, manifest: Manifest, findings: Sequence[Finding]) -> list[str]:
    """What came of it, in lines: how much of the data set is damaged, and what to do next."""
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    if not findings:
        records = sum(shard.records for shard in shards)
        megabytes = sum(shard.bytes for shard in shards) / 1e6
        return [f"{len(shards):,} shards, {records:,} records, {megabytes:,.1f} MB: all good"]
    damaged = damaged_shards(manifest, findings)
    lines = []
    if damaged:
        lines = [
            f"{len(damaged):,} of {len(shards):,} shards damaged: {name_some(damaged)}",
            "rebuild only them: python -m pipeline.verify "
            + shlex.join([str(folder), "--repair", "--input", manifest.source["uri"]]),
        ]
    if any(finding.file == MANIFEST_FILE for finding in findings):
        lines.append(
            f"{MANIFEST_FILE} is damaged; make the data set again: python -m "
            f"beam_jobs.build_records --input … --output {shlex.quote(str(folder))} --overwrite"
        )
    strays = [f.file for f in findings if f.file not in {MANIFEST_FILE, *damaged}]
    if strays:
        lines.append(f"{len(strays):,} stray files, to be moved away by hand: {name_some(strays)}")
    return lines


def damaged_shards(manifest: Manifest, findings: Iterable[Finding]) -> list[str]:
    """The files of `manifest` that `findings` name, each once, in their order."""
    named = {finding.file for finding in findings}
    shards = (shard.file for split in manifest.splits.values() for shard in split.shards)
    return [file for file in shards if file in named]


def _repair(folder: Path, manifest: Manifest, uri: str | None) -> list[Finding]:
    """Rebuild what is damaged; the findings that are left."""
    findings = verify_records(folder, manifest)
    _print_findings(findings)
    damaged = damaged_shards(manifest, findings)
    if not damaged:
        return findings
    uri = uri or manifest.source["uri"]
    repair_shards(folder, manifest, files=damaged, uri=uri)
    print(printable(f"rebuilt {len(damaged):,} shards from {uri}: {name_some(damaged)}"))
    return [finding for finding in findings if finding.file not in damaged]


if __name__ == "__main__":
    sys.exit(main())
