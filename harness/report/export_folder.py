"""A folder that is exported into more than once: what an export made is replaced, and nothing else is touched.

Beside its files an export leaves their checksums, in the form that `sha256sum --check` reads. A file is an export's own
while it has the bytes that stand there: a name alone could be somebody else's, and a file that was edited is theirs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from harness.records.store import StoreError, write_atomic

CHECKSUMS = "canvasbench-export.sha256"
_LINE = re.compile(r"([0-9a-f]{64})  ([^/\\\0]+)")
Made = set[tuple[str, str]]  # (checksum, name) of every file that an export may have left here


def replace_files(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write the files, by name, and take away what an earlier export made here and this one does not.

    An export that is killed leaves checksums of what it found and of what it was writing, so that the next one goes on.

    Raises:
        StoreError: the checksums are no such file, or a file is in the way that no export made, and nothing is
            changed; or the folder cannot be written.
    """
    before = _made_before(directory / CHECKSUMS)
    now = {(_checksum(content), name) for name, content in files.items()}
    _refuse_foreign(directory, before | now)
    _remember(directory, before | now)
    for name, content in files.items():
        write_atomic(directory / name, content)
    for stale in sorted({name for _, name in before} - files.keys()):
        _remove(directory / stale)
    _remember(directory, now)


def _made_before(path: Path) -> Made:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    found = [_LINE.fullmatch(line) for line in lines]
    made = {(match[1], match[2]) for match in found if match and match[2] not in (".", "..", CHECKSUMS)}
    if len(made) != len(lines):
        raise StoreError(f"{path}: is no list of an export's files\nremove it, or export into another folder")
    return made


def _refuse_foreign(directory: Path, made: Made) -> None:
    for name in sorted({name for _, name in made}):
        path = directory / name
        if not (path.exists() or path.is_symlink()):
            continue
        if path.is_symlink() or not path.is_file() or (_checksum(_bytes_of(path)), name) not in made:
            raise StoreError(
                f"{path}: is in the way: no export made it as it is now\n"
                "move it elsewhere, or export into another folder"
            )


def _remember(directory: Path, made: Made) -> None:
    lines = sorted(made, key=lambda one: (one[1], one[0]))
    write_atomic(directory / CHECKSUMS, "".join(f"{checksum}  {name}\n" for checksum, name in lines))


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from None


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path}: cannot be removed: {error.strerror or error}") from None


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
