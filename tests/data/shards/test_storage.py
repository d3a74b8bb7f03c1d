"""Remote reads against a real server that drops connections, fails, and serves wrong bytes at times."""

import shutil
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import pytest

from mtllm_ds.config.data import OrderSettings, RemoteSettings
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.shards.storage import RangeCache, open_storage
from mtllm_ds.data.shards.tar_shards import verify_shards
from mtllm_ds.data.stream.stream import TrainStream
from mtllm_ds.errors import UserError

SLOW_SECONDS = 1.5
FAULTS = ("drop", "error", "wrong byte", "short", None, None)


@contextmanager
def server(folder, faults=(None,), no_sizes=False):
    """Serves a folder with ranges; the n-th answer about a shard suffers the n-th fault, round and round. Yields (url, answers)."""
    answers = []

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def do_HEAD(self):
            self._answer(with_body=False)

        def do_GET(self):
            self._answer(with_body=True)

        def _answer(self, with_body):
            path = Path(folder) / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            # Asking for the size may end in a request for the whole, which is not counted.
            counted = with_body and (path.suffix != ".tar" or "Range" in self.headers)
            fault = faults[len(answers) % len(faults)] if counted and path.suffix == ".tar" else None
            if counted:
                answers.append((path.name, fault))
            data = path.read_bytes()
            status = 200
            if "Range" in self.headers:
                first, last = self.headers["Range"].removeprefix("bytes=").split("-")
                data, status = data[int(first) : int(last) + 1], 206
            if fault == "error":
                self.send_error(503)
                return
            if fault == "wrong byte":
                data = bytes([data[0] ^ 1]) + data[1:]
            if fault == "forbidden":
                self.send_error(403)
                return
            self.send_response(status)
            if fault == "unknown size" or (no_sizes and "Range" not in self.headers):
                self.close_connection = True
            else:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if with_body and fault == "slow":
                for part in range(0, len(data), max(1, len(data) // 5)):
                    self.wfile.write(data[part : part + max(1, len(data) // 5)])
                    self.wfile.flush()
                    time.sleep(SLOW_SECONDS / 5)
            elif with_body:
                self.wfile.write(data[: len(data) // 2] if fault in ("drop", "short") else data)
            if fault in ("drop", "short"):
                self.close_connection = True

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}", answers
    finally:
        http.shutdown()
        http.server_close()


def settings(tmp_path, **changes):
    options = {"cache_folder": str(tmp_path / "cache"), "first_wait_seconds": 0.001, "timeout_seconds": 5.0} | changes
    return RemoteSettings(**options)


def rows(manifest, num_workers=0):
    stream = TrainStream(manifest, OrderSettings(lanes=4), num_workers=num_workers, seed=5)
    return [(b.sample_ids.tolist(), b.llm_ids.tolist()) for step in islice(stream, 40) for b in step.micro_batches]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_connection_changes_nothing(dataset, tmp_path, num_workers):
    with server(dataset.storage.root, FAULTS) as (url, answers):
        manifest = Manifest.load(url, settings(tmp_path, attempts=20))
        assert manifest.hash == dataset.hash
        assert rows(manifest, num_workers) == rows(dataset)
        assert {fault for _, fault in answers} == set(FAULTS)
        assert rows(manifest) == rows(dataset)  # fetches what a reader process was stopped in
        before = len(answers)
        assert rows(manifest) == rows(dataset)
        assert len(answers) == before, "checked ranges come from the cache"


def test_wrong_bytes_without_end_are_never_taken(dataset, tmp_path):
    with server(dataset.storage.root, ["wrong byte"]) as (url, answers):
        manifest = Manifest.load(url, settings(tmp_path, attempts=3))
        with pytest.raises(UserError, match=r"after 3 attempts: its bytes are not those that were written"):
            rows(manifest)
        assert len(answers) == 2 + 3


def test_an_altered_cache_is_read_anew(dataset, tmp_path):
    with server(dataset.storage.root) as (url, _):
        manifest = Manifest.load(url, settings(tmp_path))
        verify = rows(manifest)
        for path in (tmp_path / "cache").iterdir():
            path.write_bytes(b"x" + path.read_bytes()[1:])
        assert rows(manifest) == verify


def test_verify_and_missing_files_over_http(dataset, dataset_copy, tmp_path):
    with server(dataset_copy) as (url, _):
        manifest = Manifest.load(f"{url}/manifest.json", settings(tmp_path, cache_bytes=0))
        verify_shards(manifest)
        (dataset_copy / "shard-000001.tar").unlink()
        with pytest.raises(UserError, match=r"shard-000001.tar' is missing"):
            Manifest.load(url, settings(tmp_path, cache_bytes=0)).check_shards()
        with pytest.raises(UserError, match="there is none"):
            Manifest.load(f"{url}/elsewhere", settings(tmp_path))


def test_s3_against_a_server_of_its_protocol(dataset, tmp_path, monkeypatch):
    pytest.importorskip("s3fs")
    with server(Path(dataset.storage.root).parent, FAULTS) as (url, answers):
        for name, value in (("ENDPOINT_URL", url), ("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("REGION", "x")):
            monkeypatch.setenv(f"AWS_{name}", value)
        manifest = Manifest.load(f"s3://{Path(dataset.storage.root).name}", settings(tmp_path, attempts=20))
        manifest.check_shards()
        assert rows(manifest) == rows(dataset)
        assert {fault for _, fault in answers} == set(FAULTS)


@pytest.mark.parametrize("location", ["pipe:cat x", "ftp://host/x", "file:///etc", "memory://x", "http:/x", "s3:x"])
def test_other_schemes_are_refused(location):
    with pytest.raises(UserError, match="is not served"):
        open_storage(location)


@pytest.mark.parametrize(
    "location", ["https://me:word@host/set", "s3://KEY:word@bucket/set", "https://host/set?signature=word"]
)
def test_a_url_with_a_secret_is_refused_without_being_repeated(location):
    with pytest.raises(UserError, match="would be saved with the run") as caught:
        open_storage(location)
    assert "word" not in str(caught.value)


@pytest.mark.parametrize("location", ["s3://bucket/x", "hf://datasets/user/name", "https://host/x"])
def test_allowed_schemes_connect_only_when_read(location):
    assert open_storage(location).root == location


def test_the_cache_is_bounded_and_drops_what_was_not_used_for_longest(tmp_path):
    cache = RangeCache(tmp_path, max_bytes=1000)
    cache._LOOK_EVERY = 1
    for i in range(10):
        cache.put(str(i), bytes(100))
    assert cache.get("0") == bytes(100)
    cache.put("10", bytes(100))
    assert cache.get("0") is not None
    assert cache.get("1") is None
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1000


def test_a_size_that_cannot_be_asked_for_is_no_missing_file(dataset, tmp_path):
    nobody_there = open_storage("http://127.0.0.1:1", settings(tmp_path, attempts=2))
    with pytest.raises(UserError, match=r"after 2 attempts"):
        replace(dataset, storage=nobody_there).check_shards()
    copy = shutil.copytree(dataset.storage.root, tmp_path / "copy")
    with server(copy) as (url, _):
        manifest = Manifest.load(url, settings(tmp_path))
        (copy / manifest.shards[0].name).unlink()
        with pytest.raises(UserError, match=r"missing"):
            manifest.check_shards()


def test_a_cache_that_cannot_be_made_only_means_that_nothing_is_kept(dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with server(dataset.storage.root) as (url, _):
        manifest = Manifest.load(url, settings(tmp_path, cache_folder=str(tmp_path / "file" / "below")))
        assert rows(manifest) == rows(dataset)


def test_the_time_out_is_for_silence_not_for_a_whole_body(dataset, tmp_path):
    with server(dataset.storage.root, ["slow"]) as (url, _):
        manifest = Manifest.load(url, settings(tmp_path, attempts=1, timeout_seconds=SLOW_SECONDS / 2))
        assert manifest.storage.read_range(manifest.shards[0].name, 0, 5000, lambda data: True)


def test_a_server_that_tells_no_sizes(dataset, tmp_path):
    with server(dataset.storage.root, no_sizes=True) as (url, _):
        manifest = Manifest.load(url, settings(tmp_path))
        manifest.check_shards()
        assert rows(manifest) == rows(dataset)


def test_what_may_not_be_read_is_told_at_once(dataset, tmp_path):
    with server(dataset.storage.root, ["forbidden"]) as (url, answers):
        manifest = Manifest.load(url, settings(tmp_path, attempts=6))
        before = len(answers)
        with pytest.raises(UserError, match=r"may not be read .*give this machine the credentials"):
            rows(manifest)
        assert len(answers) == before + 1


@pytest.mark.parametrize(
    "error",
    [PermissionError("Access Denied"), type("NoCredentialsError", (Exception,), {})("Unable to locate credentials")],
)
def test_no_credentials_are_told_at_once(tmp_path, error):
    class Refusing:
        calls = 0

        def cat_file(self, url, **options):
            self.calls += 1
            raise error

    storage, filesystem = open_storage("s3://bucket/set", settings(tmp_path, attempts=6)), Refusing()
    storage._connect = lambda: filesystem
    with pytest.raises(UserError, match=r"s3://bucket/set: may not be read .*credentials"):
        storage.read("manifest.json")
    assert filesystem.calls == 1


def test_the_hub_reads_no_more_than_is_asked_for(tmp_path):
    """fsspec's own reader, over a file that counts what is fetched."""
    from fsspec import AbstractFileSystem
    from fsspec.spec import AbstractBufferedFile

    fetched = []

    class File(AbstractBufferedFile):
        def _fetch_range(self, start, end):
            fetched.append(end - start)
            return bytes(end - start)

    class Hub(AbstractFileSystem):
        def _open(self, path, mode="rb", block_size=None, cache_options=None, **options):
            return File(self, path, mode, block_size or "default", size=50_000_000, **options)

    storage = open_storage("hf://datasets/user/name", settings(tmp_path))
    storage._connect = Hub
    assert len(storage.read_range("shard.tar", 1_000_000, 43_000, lambda data: True)) == 43_000
    assert sum(fetched) == 43_000


def test_sizes_are_asked_for_once(dataset, tmp_path):
    manifest = Manifest.load(dataset.storage.root)
    asked = []
    manifest.storage.sizes = lambda names: asked.append(names) or [shard.bytes for shard in manifest.shards]
    for _ in range(3):
        TrainStream(manifest, OrderSettings(lanes=4))
    assert len(asked) == 1
    told = Manifest.load(dataset.storage.root)
    told.trust_shards()
    told.storage.sizes = lambda names: pytest.fail("another rank has looked")
    told.check_shards()
