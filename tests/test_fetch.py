"""Fetching checks bytes before it unpacks, unpacks nothing outside, and leaves nothing behind when it fails."""

from __future__ import annotations

import hashlib
import io
import socket
import stat
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fedrec.data.datasets import Archive, DataSet, Layout
from fedrec.data.fetch import fetch, fetch_set
from fedrec.errors import InputError

FILES = {"toy/ratings.csv": b"user,item\n1,2\n", "toy/sub/more.txt": b"more" * 1000}


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def entry_for(content: bytes, *, size: int | None = None, sha256: str | None = None, unpacked: int = 10_000) -> DataSet:
    digest = sha256 or hashlib.sha256(content).hexdigest()
    archive = Archive("https://example.org/toy.zip", len(content) if size is None else size, digest, unpacked)
    return DataSet("toy", "a toy", "free", "nobody", {"": (1, 1, 1)}, {"": Layout("ratings.csv")}, archive)


class Site:
    """A web server on this machine that serves one file."""

    def __init__(self) -> None:
        self.content = b""
        self.announced: int | None = None
        self.requests = 0
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.requests += 1
                if self.path != "/toy.zip":
                    self.send_error(404)
                    return
                self.send_response(200)
                if site.announced is not None:
                    self.send_header("Content-Length", str(site.announced))
                self.end_headers()
                self.wfile.write(site.content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/toy.zip"


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    thread = threading.Thread(target=site.server.serve_forever, args=(0.01,))
    thread.start()
    yield site
    site.server.shutdown()
    site.server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def refused(site: Site, entry: DataSet, cache: Path, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fetch_set(entry, cache=cache, url=site.url)
    assert not cache.exists() or list(cache.iterdir()) == []


def test_a_set_arrives_whole_and_is_not_fetched_twice(site: Site, tmp_path: Path) -> None:
    site.content = zipped(FILES)
    seen: list[tuple[int, int]] = []
    entry = entry_for(site.content)
    folder = fetch_set(entry, cache=tmp_path, url=site.url, progress=lambda done, total: seen.append((done, total)))
    assert folder == tmp_path / "toy"
    assert (folder / "ratings.csv").read_bytes() == FILES["toy/ratings.csv"]
    assert (folder / "sub" / "more.txt").read_bytes() == FILES["toy/sub/more.txt"]
    assert seen[-1] == (len(site.content), len(site.content))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert list(tmp_path.iterdir()) == [folder]
    assert fetch_set(entry, cache=tmp_path, url=site.url) == folder
    assert site.requests == 1


def test_an_archive_without_a_folder_is_fine(site: Site, tmp_path: Path) -> None:
    site.content = zipped({"ratings.csv": b"x"})
    assert (fetch_set(entry_for(site.content), cache=tmp_path, url=site.url) / "ratings.csv").read_bytes() == b"x"


def test_a_file_that_is_too_long_is_not_read_to_its_end(site: Site, tmp_path: Path) -> None:
    site.content = zipped(FILES)
    refused(
        site, entry_for(site.content, size=100), tmp_path, r"has more than 100 bytes instead of 100.*By hand: download"
    )


def test_a_file_that_is_too_short_is_refused(site: Site, tmp_path: Path) -> None:
    whole = zipped(FILES)
    site.content = whole[:-10]
    refused(
        site,
        entry_for(whole),
        tmp_path,
        rf"has {len(whole) - 10} bytes instead of {len(whole)}; the download is incomplete",
    )


def test_a_connection_that_breaks_off_is_refused(site: Site, tmp_path: Path) -> None:
    whole = zipped(FILES)
    site.content, site.announced = whole[:-10], len(whole)
    refused(site, entry_for(whole), tmp_path, r"incomplete.*Nothing was unpacked|the download failed")


def test_another_file_of_the_same_size_is_refused(site: Site, tmp_path: Path) -> None:
    site.content = zipped(FILES)
    refused(site, entry_for(site.content, sha256="0" * 64), tmp_path, r"has SHA-256 [0-9a-f]{64} instead of 0{64}")


@pytest.mark.parametrize(
    "name", ["../outside.txt", "/tmp/outside.txt", "toy/../../outside.txt", "C:/outside.txt", "a\\b"]
)
def test_a_path_outside_of_the_archive_is_refused(site: Site, tmp_path: Path, name: str) -> None:
    site.content = zipped(FILES | {name: b"evil"})
    refused(site, entry_for(site.content), tmp_path / "cache", r"a path outside the archive; nothing was unpacked")
    assert not (tmp_path / "outside.txt").exists()


def test_a_link_in_the_archive_is_refused(site: Site, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("toy/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    site.content = buffer.getvalue()
    refused(site, entry_for(site.content), tmp_path, r"'toy/link', which is not a regular file")


def test_an_archive_that_swells_is_given_up(site: Site, tmp_path: Path) -> None:
    site.content = zipped(FILES | {"toy/zeros": bytes(10_000_000)})
    refused(
        site, entry_for(site.content, unpacked=1_000_000), tmp_path, r"unpacks to more than the allowed 1,000,000 bytes"
    )


def test_what_is_no_archive_or_lacks_files_is_refused(site: Site, tmp_path: Path) -> None:
    site.content = b"<html>not a zip file</html>"
    refused(site, entry_for(site.content), tmp_path, r"the archive cannot be unpacked")
    site.content = zipped({"toy/other.csv": b""})
    refused(site, entry_for(site.content), tmp_path, r"lacks some of ratings.csv")
    site.content = zipped(FILES)
    broken = bytearray(site.content)
    broken[45] ^= 255
    site.content = bytes(broken)
    refused(site, entry_for(site.content), tmp_path, r"the archive cannot be unpacked")


def test_an_address_that_answers_no_or_not_at_all_says_what_to_do(site: Site, tmp_path: Path) -> None:
    entry = entry_for(b"x")
    with pytest.raises(InputError, match=r"the server answered 404.*By hand: download https://example.org/toy.zip"):
        fetch_set(entry, cache=tmp_path, url=site.url + "x")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    by_hand = rf"the download failed .*By hand: .*unpack it so that ratings.csv is in {tmp_path}"
    with pytest.raises(InputError, match=by_hand):
        fetch_set(entry, cache=tmp_path, url=f"http://127.0.0.1:{port}/toy.zip")
    with pytest.raises(InputError, match=r"the address must begin with http:// or https://"):
        fetch_set(entry, cache=tmp_path, url="file:///etc/passwd")


def test_a_folder_that_is_incomplete_is_left_alone(site: Site, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match=r"lacks files of toy. Remove the folder and fetch again"):
        fetch_set(entry_for(b"x"), cache=tmp_path, url=site.url)
    assert (tmp_path / "toy" / "mine.txt").exists()


def test_sets_without_an_archive_and_unknown_names_say_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gowalla cannot be downloaded. Put train.txt, test.txt into"):
        fetch("gowalla", cache=tmp_path)
    with pytest.raises(InputError, match=r"no data set is called 'ml-100'. Did you mean 'ml-100k'"):
        fetch("ml-100", cache=tmp_path)


def test_a_cache_that_cannot_be_written_is_said(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written .*FEDREC_CACHE"):
        fetch_set(entry_for(b"x"), cache=tmp_path / "file" / "cache", url=site.url)
