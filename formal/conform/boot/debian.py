"""Kernels from Debian's packages: the newest arm64 "cloud" image of a series, such as 6.1, fetched once and kept.

The machine's own apt configuration says where Debian's archive is; its package state is neither read nor changed. Only
the boot image is kept, in DIRECTORY/SERIES/vmlinuz-RELEASE, and it appears there complete or not at all.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from formal.common.files import write_file
from formal.common.lifetime import Scratch, bound, run
from formal.common.places import cache_folder

NEWEST = "newest"
_META = "linux-image-cloud-arm64"  # depends on the newest image of its suite
_SUITES = ("bullseye", "bookworm", "trixie", "trixie-backports")
_SECURED = ("bullseye", "bookworm", "trixie")
_KEY = "/usr/share/keyrings/debian-archive-keyring.gpg"
_SECONDS = 300.0


class MissingKernelError(Exception):
    """A kernel that cannot be had; the message is one line."""


@dataclass(frozen=True)
class Image:
    """A kernel that QEMU can boot."""

    series: str
    path: Path


def default_directory() -> Path:
    """Where kernels are kept: in the user's cache directory."""
    return cache_folder() / "formal-conform" / "kernels"


def image(series: str, directory: Path) -> Image:
    """The kernel of a series: "6.1", or "newest" for the newest packaged one; a path names an image of one's own.

    Raises:
        MissingKernelError: if it is neither there nor to be fetched.
    """
    if "/" in series:
        if not Path(series).is_file():
            raise MissingKernelError(f"there is no kernel image {series}")
        return Image(Path(series).name, Path(series))
    if found := sorted((directory / series).glob("vmlinuz-*")):
        return Image(series, found[-1])
    return Image(series, _fetch(series, directory))


def _fetch(series: str, directory: Path) -> Path:
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise MissingKernelError(f"no kernel {series} in {directory}, and no {tool} to fetch it with")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with Scratch("fetch-") as scratch:
            archive = Archive(scratch)
            problems = []
            for version in archive.versions(series):
                try:
                    found = archive.boot_image(version)
                except MissingKernelError as e:  # the archive names packages that are gone; an older one may be there
                    problems.append(str(e))
                    continue
                target = directory / series / found.name
                write_file(target, found.read_bytes())
                return target
    except OSError as e:
        raise MissingKernelError(f"cannot keep kernels in {directory}: {e.strerror}") from None
    raise MissingKernelError(problems[0] if problems else f"Debian has no package of a kernel {series} for arm64")


class Archive:
    """Debian's archive as apt sees it, with lists of its own in a scratch directory."""

    def __init__(self, scratch: Path) -> None:
        """Reads the lists of packages.

        Raises:
            MissingKernelError: if apt knows no Debian archive, or it cannot be reached.
        """
        self._scratch = scratch
        sources = scratch / "sources.list"
        sources.write_text("\n".join(sources_list(_archives())) + "\n")
        for folder in ("lists/partial", "cache/archives/partial"):
            (scratch / folder).mkdir(parents=True)
        self._options = [
            f"Dir::Etc::sourcelist={sources}",
            "Dir::Etc::sourceparts=-",
            f"Dir::State::Lists={scratch / 'lists'}",
            f"Dir::Cache={scratch / 'cache'}",
            "Dir::State::status=/dev/null",
            "APT::Architecture=arm64",
            "APT::Architectures=arm64",
            "APT::Sandbox::User=root",
        ]
        self._apt("apt-get", "-qq", "update")

    def versions(self, series: str) -> list[str]:
        """The versions of the kernel package that belong to a series, the newest first."""
        rows = [line.split("|") for line in self._apt("apt-cache", "madison", _META).splitlines()]
        found = {row[1].strip() for row in rows if len(row) > 1}
        wanted = [v for v in found if series == NEWEST or v.startswith(f"{series}.")]
        return sorted(wanted, key=lambda v: [int(n) for n in re.findall(r"\d+", v)], reverse=True)

    def boot_image(self, version: str) -> Path:
        """The boot image of one version of the kernel package, downloaded and unpacked into the scratch directory.

        Raises:
            MissingKernelError: if a package is missing, or has no boot image.
        """
        shown = self._apt("apt-cache", "show", f"{_META}={version}")
        depends = re.search(r"^Depends:.*\blinux-image-(\d[^ ,]*)", shown, re.M)
        if depends is None:
            raise MissingKernelError(f"{_META} {version} names no kernel")
        release = depends[1]
        for package in (f"linux-image-{release}", f"linux-binary-{release}"):  # the second from v7 on
            folder = self._scratch / package
            folder.mkdir(exist_ok=True)
            self._apt("apt-get", "-qq", "download", package, cwd=folder)
            for deb in folder.glob("*.deb"):
                for member in self._images_in(deb):
                    return self._unpack(deb, member, self._scratch / f"vmlinuz-{release}")
        raise MissingKernelError(f"the packages of {release} have no boot image")

    def _images_in(self, deb: Path) -> Iterator[str]:
        for line in self._apt("dpkg-deb", "--contents", str(deb)).splitlines():
            *_, size, _date, _time, name = line.split(None, 5)
            if re.search(r"/vmlinuz[^/]*$", name) and int(size):
                yield name

    def _unpack(self, deb: Path, member: str, target: Path) -> Path:
        with target.open("wb") as file:
            unpack = ["dpkg-deb", "--fsys-tarfile", str(deb)]
            tar = subprocess.Popen(unpack, stdout=subprocess.PIPE, preexec_fn=bound())
            done = run(["tar", "-xOf", "-", member], stdin=tar.stdout, stdout=file, check=False)
            tar.communicate()
        if done.returncode or tar.returncode or not target.stat().st_size:
            raise MissingKernelError(f"cannot unpack {member} of {deb.name}")
        return target

    def _apt(self, tool: str, *arguments: str, cwd: Path | None = None) -> str:
        options = [] if tool == "dpkg-deb" else [word for option in self._options for word in ("-o", option)]
        command = [tool, *options, *arguments]
        try:
            done = run(command, capture_output=True, text=True, timeout=_SECONDS, check=False, cwd=cwd)
        except subprocess.TimeoutExpired:
            raise MissingKernelError(f"{tool} {arguments[0]} did not end within {_SECONDS:g} s") from None
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise MissingKernelError(f"{tool} {' '.join(arguments)}: {said[0]}")
        return str(done.stdout)


def _archives() -> list[str]:
    """The addresses in the machine's own lists of package sources."""
    apt = Path("/etc/apt")
    files = [apt / "sources.list", *apt.glob("sources.list.d/*.list"), *apt.glob("sources.list.d/*.sources")]
    found = []
    for path in files:
        if path.is_file():
            found += uris(path.read_text(encoding="utf-8", errors="replace"))
    return found


def uris(text: str) -> list[str]:
    """The addresses in a list of package sources, of either format (sources.list(5))."""
    found = [word for line in re.findall(r"^URIs:(.*)$", text, re.M) for word in line.split()]
    return found + re.findall(r"^deb(?:-src)?\s+(?:\[[^]]*\]\s+)?(\S+)", text, re.M)


def sources_list(archives: list[str]) -> list[str]:
    """Lines of a sources.list(5) for the suites that have kernels, given the addresses that the machine uses.

    Raises:
        MissingKernelError: if none of them is Debian's archive.
    """
    main = next((a for a in archives if re.search(r"/debian/?$", a)), None)
    security = next((a for a in archives if re.search(r"/debian-security/?$", a)), None)
    if main is None:
        raise MissingKernelError("apt knows no Debian archive to fetch kernels from")
    lines = [f"deb [signed-by={_KEY}] {main} {suite} main" for suite in _SUITES]
    if security:
        lines += [f"deb [signed-by={_KEY}] {security} {suite}-security main" for suite in _SECURED]
    return lines
