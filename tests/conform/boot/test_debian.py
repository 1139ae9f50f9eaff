"""Kernels from Debian's packages: which are chosen, and what is said when there are none."""

import pytest

from formal.conform.boot import debian
from formal.conform.boot.debian import Archive, MissingKernelError, image, sources_list, uris

DEB822 = """Types: deb
URIs: http://deb.debian.org/debian
Suites: bookworm bookworm-updates

Types: deb
URIs: http://one.example/x http://two.example/debian-security/
"""
ONE_LINE = """# deb http://commented.example/debian bookworm main
deb [arch=amd64 signed-by=/x] https://mirror.example/debian bookworm main
deb-src http://sources.example/debian bookworm main
"""
MADISON = """linux-image-cloud-arm64 |  6.1.176-1 | http://a bookworm/main arm64 Packages
linux-image-cloud-arm64 |  6.1.192-2 | http://a bookworm-security/main arm64 Packages
linux-image-cloud-arm64 | 6.12.107-1 | http://a trixie/main arm64 Packages
linux-image-cloud-arm64 | 7.3.4-1~bpo13+1 | http://a trixie-backports/main arm64 Packages
linux-image-cloud-arm64 |  6.9.10-1 | http://a trixie/main arm64 Packages
"""


class Scripted(Archive):
    """An archive whose tools say what they are told to."""

    def __init__(self, scratch, answers):
        self._scratch, self.answers = scratch, answers

    def _apt(self, tool, *arguments, cwd=None):
        answer = self.answers.get((tool, arguments[-1]), self.answers.get(tool, ""))
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            answer(cwd)
            return ""
        return answer


def test_addresses_of_both_formats():
    assert uris(DEB822) == [
        "http://deb.debian.org/debian",
        "http://one.example/x",
        "http://two.example/debian-security/",
    ]
    assert uris(ONE_LINE) == ["https://mirror.example/debian", "http://sources.example/debian"]


def test_suites_and_where_they_come_from():
    lines = sources_list(["http://x.example/node", *uris(DEB822)])
    assert all("signed-by=" in line and line.endswith(" main") for line in lines)
    assert any("http://deb.debian.org/debian trixie-backports" in line for line in lines)
    assert any("http://two.example/debian-security/ bookworm-security" in line for line in lines)
    with pytest.raises(MissingKernelError, match="apt knows no Debian archive"):
        sources_list(["http://x.example/ubuntu"])


def test_versions_are_ordered_as_numbers(tmp_path):
    archive = Scripted(tmp_path, {"apt-cache": MADISON})
    assert archive.versions("6.1") == ["6.1.192-2", "6.1.176-1"]  # 6.12 is another series
    assert archive.versions("newest")[0] == "7.3.4-1~bpo13+1"
    assert archive.versions("newest")[-1] == "6.1.176-1"
    assert archive.versions("4.19") == []


def test_the_image_may_be_in_a_second_package(tmp_path):
    def download(folder):
        (folder / "a.deb").touch()

    answers = {
        "apt-cache": "Version: 7.3.4\nDepends: linux-base (= 1), linux-image-7.3.4+deb13-cloud-arm64 (= 7.3.4-1)\n",
        "apt-get": download,
        ("dpkg-deb", str(tmp_path / "linux-image-7.3.4+deb13-cloud-arm64/a.deb")): "drwxr-xr-x root/root 0 a b ./\n",
        ("dpkg-deb", str(tmp_path / "linux-binary-7.3.4+deb13-cloud-arm64/a.deb")): (
            "drwxr-xr-x root/root 0 2026-11-15 22:30 ./usr/\n"
            "-rw-r--r-- root/root 7 2026-11-15 22:30 ./usr/lib/modules/7.3.4/vmlinuz\n"
        ),
    }
    archive = Scripted(tmp_path, answers)
    unpacked = []
    archive._unpack = lambda deb, member, target: unpacked.append((deb.parent.name, member, target.name))
    archive.boot_image("7.3.4-1")
    assert unpacked == [
        (
            "linux-binary-7.3.4+deb13-cloud-arm64",
            "./usr/lib/modules/7.3.4/vmlinuz",
            "vmlinuz-7.3.4+deb13-cloud-arm64",
        )
    ]
    with pytest.raises(MissingKernelError, match="names no kernel"):
        Scripted(tmp_path, {"apt-cache": "Depends: nothing\n"}).boot_image("1")


def test_an_older_version_where_the_newest_is_gone(tmp_path, monkeypatch):
    gone = MissingKernelError("apt-get: 404")

    class Partly(Scripted):
        def __init__(self, scratch):
            super().__init__(scratch, {"apt-cache": MADISON})

        def boot_image(self, version):
            if version == "6.1.192-2":
                raise gone
            found = self._scratch / "vmlinuz-old"
            found.write_text(version)
            return found

    monkeypatch.setattr(debian, "Archive", Partly)
    found = image("6.1", tmp_path / "kernels")
    assert found.path == tmp_path / "kernels" / "6.1" / "vmlinuz-old"
    assert found.path.read_text() == "6.1.176-1"
    assert [p.name for p in (tmp_path / "kernels").iterdir()] == ["6.1"]  # nothing half done is left
    gone = MissingKernelError("apt-get: 404")
    monkeypatch.setattr(Partly, "boot_image", lambda *_: (_ for _ in ()).throw(gone))
    with pytest.raises(MissingKernelError, match="apt-get: 404"):
        image("6.12", tmp_path / "kernels")
    with pytest.raises(MissingKernelError, match=r"no package of a kernel 3\.2 for arm64"):
        image("3.2", tmp_path / "kernels")
    assert [p.name for p in (tmp_path / "kernels").iterdir()] == ["6.1"]


def test_a_kernel_that_is_there_needs_no_tools(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    (tmp_path / "6.1").mkdir()
    (tmp_path / "6.1" / "vmlinuz-6.1.0-1").touch()
    assert image("6.1", tmp_path).path.name == "vmlinuz-6.1.0-1"
    assert image(str(tmp_path / "6.1" / "vmlinuz-6.1.0-1"), tmp_path).path.is_file()
    with pytest.raises(MissingKernelError, match="and no apt-get to fetch it with"):
        image("6.12", tmp_path)
    with pytest.raises(MissingKernelError, match="there is no kernel image /no/such/vmlinuz"):
        image("/no/such/vmlinuz", tmp_path)
