"""Downloads of datasets, against a server of this test."""

import gzip
import hashlib
import io
import os
import resource
import signal
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from cnnforge.data import DataOptions
from cnnforge.errors import DataError, UsageError
from cnnforge_plugins.datasets import cifar, fashion_mnist, mnist
from cnnforge_plugins.datasets.shared.download import RemoteFile, download_folder, fetch

CONTENT = np.random.default_rng(0).bytes(3_000_000)


class Server:
    """An HTTP server whose behaviour a test changes."""

    def __init__(self):
        self.files = {"/x.bin": CONTENT}
        self.ranges = True
        self.cut = None
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, format, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def answer(self, handler):
        self.requests.append((handler.path, handler.headers.get("Range")))
        path = handler.path.removeprefix("http://data.example.org")
        content = self.files.get(path)
        if content is None:
            handler.send_error(404)
            return
        start = 0
        asked = handler.headers.get("Range")
        if asked and self.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                handler.send_error(416)
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        end = len(content)
        if self.cut:
            end, self.cut = start + self.cut, None
        handler.wfile.write(content[start:end])

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch, tmp_path):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server = Server()
    yield server
    server.close()


def remote(server, name="x.bin", content=CONTENT, path=None):
    url = f"{server.url}/{path or name}"
    return RemoteFile(name, (url,), hashlib.sha256(content).hexdigest(), len(content))


def test_a_file_is_downloaded_once(server, tmp_path):
    for _ in range(2):
        path = fetch(remote(server), tmp_path / "a" / "b")
        assert path.read_bytes() == CONTENT
    assert server.requests == [("/x.bin", None)]
    assert os.listdir(tmp_path / "a" / "b") == ["x.bin"]


def test_a_file_that_the_user_puts_there_is_not_downloaded(server, tmp_path):
    (tmp_path / "x.bin").write_bytes(CONTENT)
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.requests == []


def test_an_interrupted_download_goes_on(server, tmp_path):
    server.cut = 1_000_000
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.requests == [("/x.bin", None), ("/x.bin", "bytes=1000000-")]


def test_a_killed_download_goes_on(server, tmp_path):
    (tmp_path / "x.bin.part").write_bytes(CONTENT[:12345])
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.requests == [("/x.bin", "bytes=12345-")]


def test_a_complete_part_is_only_checked(server, tmp_path):
    (tmp_path / "x.bin.part").write_bytes(CONTENT)
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.requests == []


@pytest.mark.parametrize("part", [b"another version" * 99, bytes(len(CONTENT) + 5)])
def test_a_part_of_another_file_is_downloaded_anew(server, tmp_path, part):
    (tmp_path / "x.bin.part").write_bytes(part)
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "x.bin.part").write_bytes(CONTENT[:12345])
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


def test_t23_a_wrong_digest_deletes_the_download(server, tmp_path):
    server.files["/x.bin"] = CONTENT[:-1] + b"!"
    with pytest.raises(DataError, match="gave a file with another sha256 than expected"):
        fetch(remote(server), tmp_path)
    assert not (tmp_path / "x.bin").exists()
    assert (tmp_path / "x.bin.part").read_bytes() == b""


def test_t23_a_file_has_its_name_only_when_it_is_complete(server, tmp_path, monkeypatch):
    names = []

    def replace(source, target):
        names.append((os.path.basename(source), os.path.basename(target)))
        assert Path(source).read_bytes() == CONTENT
        rename(source, target)

    rename = os.replace
    monkeypatch.setattr("cnnforge_plugins.datasets.shared.download.os.replace", replace)
    folder = tmp_path / "files"
    fetch(remote(server), folder)
    assert names == [("x.bin.part", "x.bin")]
    assert os.listdir(folder) == ["x.bin"]


def test_a_present_file_with_a_wrong_digest_is_not_used_and_not_deleted(server, tmp_path):
    (tmp_path / "x.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"x\.bin is not the file that was published.*remove it"):
        fetch(remote(server), tmp_path)
    assert (tmp_path / "x.bin").read_bytes() == b"mine"


@pytest.mark.parametrize(("content", "message"), [
    (CONTENT + b"more", "gives more than the expected 3000000 bytes"),
    (None, r"answers 404 \(Not Found\)"),
])  # fmt: skip
def test_other_answers_are_named(server, tmp_path, content, message):
    server.files = {"/x.bin": content} if content else {}
    with pytest.raises(DataError, match=message) as error:
        fetch(remote(server), tmp_path)
    text = str(error.value)
    assert f"download {server.url}/x.bin on another machine and put it into {tmp_path}" in text
    assert "\n" not in text
    assert not (tmp_path / "x.bin").exists()


def test_the_next_address_is_tried(server, tmp_path):
    file = remote(server)
    file = file._replace(urls=(f"{server.url}/gone", *file.urls))
    assert fetch(file, tmp_path).read_bytes() == CONTENT


def test_without_a_network_the_message_says_where_to_put_the_file(server, tmp_path):
    file = remote(server)._replace(urls=("http://127.0.0.1:9/x.bin",))
    with pytest.raises(DataError, match=r"Connection refused.*put it into .*\(sha256 [0-9a-f]{64}"):
        fetch(file, tmp_path)
    file = file._replace(urls=("https://no-such-host.invalid/x.bin",))
    with pytest.raises(DataError, match=r"cannot be downloaded: https://no-such-host.invalid"):
        fetch(file, tmp_path)


def test_the_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    file = remote(server)._replace(urls=("http://data.example.org/x.bin",))
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert server.requests == [("http://data.example.org/x.bin", None)]


def test_a_full_disk_is_named_and_the_download_goes_on_later(server, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(DataError, match=r"cannot be written to .*; free 3 MB and repeat"):
            fetch(remote(server), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not (tmp_path / "x.bin").exists()
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.requests[-1][1] is not None


def test_a_folder_that_cannot_be_made_is_named(server, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"cannot be written to .*file/x.*set XDG_CACHE_HOME"):
        fetch(remote(server), tmp_path / "file" / "x")


def test_two_processes_download_once(server, tmp_path):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch(remote(server), tmp_path)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(server.requests) == 1


def serve(server, file, content):
    server.files[f"/{file.name}"] = content
    return remote(server, file.name, content)


def test_mnist_is_read(server, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)
    labels = np.arange(40) % 10
    buffer = io.BytesIO()
    np.savez(buffer, x_train=images, y_train=labels, x_test=images[:9], y_test=labels[:9])
    monkeypatch.setattr(mnist, "FILE", serve(server, mnist.FILE, buffer.getvalue()))
    dataset = mnist.load(None, DataOptions())
    assert dataset.name == "mnist"
    assert dataset.classes == tuple("0123456789")
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [30, 10, 9]
    assert (download_folder("mnist") / "mnist.npz").is_file()


def idx(array):
    head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(head + array.tobytes())


def test_fashion_mnist_is_read(server, monkeypatch, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)
    labels = (np.arange(40) % 10).astype(np.uint8)
    files = tuple(
        serve(server, file, idx(images if "images" in file.name else labels))
        for file in fashion_mnist.FILES
    )
    monkeypatch.setattr(fashion_mnist, "FILES", files)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "none")
    dataset = fashion_mnist.load(None, DataOptions())
    assert dataset.classes[:2] == ("T-shirt/top", "Trouser")
    assert dataset.classes[dataset.test.labels[9]] == "Ankle boot"
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [30, 10, 40]
    monkeypatch.setattr(fashion_mnist, "DEBIAN", download_folder("fashion_mnist"))
    before = len(server.requests)
    assert len(fashion_mnist.load(None, DataOptions()).test) == 40
    assert len(server.requests) == before


def archive(spec, count, names):
    rows = np.random.default_rng(0).integers(0, 256, (count, spec.labels + 3072), np.uint8)
    rows[:, spec.labels - 1] = np.arange(count) % len(names)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        files = {name: rows.tobytes() for name in (*spec.train, spec.test)}
        files[spec.classes] = ("\n".join(names) + "\n\n").encode()
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar/{name}")
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return rows, buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "load", "names"),
    [
        ("CIFAR10", cifar.load10, ["airplane", "automobile", "bird"]),
        ("CIFAR100", cifar.load100, ["apple", "aquarium_fish", "baby", "bear"]),
    ],
)
def test_cifar_is_read(server, monkeypatch, name, load, names):
    spec = getattr(cifar, name)
    rows, content = archive(spec, 12, names)
    monkeypatch.setattr(cifar, name, spec._replace(file=serve(server, spec.file, content)))
    dataset = load(None, DataOptions())
    assert dataset.classes == tuple(names)
    assert len(dataset.train) + len(dataset.validation) == 12 * len(spec.train)
    assert dataset.test.labels.tolist() == [n % len(names) for n in range(12)]
    planes = rows[:, spec.labels :].reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(dataset.test.fetch(np.arange(12)), planes.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("damage", ["cut", "other", "odd"])
def test_a_damaged_archive_is_named(server, monkeypatch, damage):
    spec = cifar.CIFAR10
    _, content = archive(spec, 12, ["a", "b"])
    if damage == "cut":
        content = content[: len(content) // 2]
    else:
        other = spec._replace(train=(), test="x.bin" if damage == "other" else spec.test)
        _, content = archive(other, 12, ["a", "b"])
    monkeypatch.setattr(cifar, "CIFAR10", spec._replace(file=serve(server, spec.file, content)))
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz (is damaged|has 0 bytes)"):
        cifar.load10(None, DataOptions())


def test_an_argument_is_refused():
    for load in (mnist.load, fashion_mnist.load, cifar.load10, cifar.load100):
        with pytest.raises(UsageError, match="takes no argument, got 'x'"):
            load("x", DataOptions())


def test_the_digests_are_those_of_the_publishers():
    files = (mnist.FILE, *fashion_mnist.FILES, cifar.CIFAR10.file, cifar.CIFAR100.file)
    assert all(len(file.sha256) == 64 and int(file.sha256, 16) for file in files)
    assert all(url.endswith(file.name) for file in files for url in file.urls)
