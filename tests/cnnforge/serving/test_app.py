"""A server answers pictures, and refuses the rest."""

import asyncio
import io
import json
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from served import CLASSES, HOST, PNG, Client, Levels, app_of, client_of, picture, predictor

from cnnforge.serving.guard import Access
from cnnforge.serving.limits import Limits, Refused


@pytest.fixture(scope="module")
def client() -> Client:
    return Client(app_of(Levels()))


def refused(answer: Any, status: int, text: str) -> None:
    assert answer.status_code == status, answer.text
    assert text in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert "Traceback" not in answer.text
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_a_prediction_is_the_row_of_predict(client: Client, tmp_path: Path, kind: str) -> None:
    content = picture(220, (31, 17), kind)
    (tmp_path / "picture").write_bytes(content)
    (row,) = predictor(Levels()).predict_files([str(tmp_path / "picture")])
    answer = client.post("/predict", content=content, headers={"content-type": "image/x"})
    assert answer.json() == {**row.as_dict(), "file": "picture"}
    assert answer.json()["label"] == "bright"


def test_options_of_the_task(client: Client) -> None:
    answer = client.post("/predict?top_k=1", content=picture(), headers=PNG)
    assert len(answer.json()["top"]) == 1
    refused(client.post("/predict?top_k=0", content=picture(), headers=PNG), 400, "1 or more")
    refused(client.post("/predict?top_k=x", content=picture(), headers=PNG), 400, "with a number")
    refused(client.post("/predict?top_k=1&top_k=2", content=b"", headers=PNG), 400, "twice")
    refused(client.post("/predict?topk=1", content=picture(), headers=PNG), 400, "mean top_k?")


def test_health_and_the_page(client: Client) -> None:
    known = client.get("/health").json()
    assert known["status"] == "ok"
    assert known["classes"] == list(CLASSES)
    assert known["image"] == [6, 5, 1]
    page = client.get("/")
    assert "for your desk, not for production" in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    for answer in (client.get("/health"), page, client.get("/nothing")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "content-security-policy" in answer.headers
        assert "server" not in answer.headers


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8000", "10.0.0.1", ""])
def test_a_foreign_host_is_refused(client: Client, host: str) -> None:
    for method, path in (("GET", "/"), ("POST", "/predict")):
        answer = client.request(method, path, headers={**PNG, "host": host}, content=picture())
        refused(answer, 400, "which is not this server")


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1", "[::1]:8000", "LOCALHOST."])
def test_names_of_this_machine_are_accepted(client: Client, host: str) -> None:
    assert client.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://127.0.0.1:8000.x"]
)
def test_a_foreign_origin_is_refused(client: Client, origin: str) -> None:
    answer = client.post("/predict", headers={**PNG, "origin": origin}, content=picture())
    refused(answer, 403, "the request comes from a page of")


def test_its_own_page_may_ask(client: Client) -> None:
    answer = client.post("/predict", headers={**PNG, "origin": HOST}, content=picture())
    assert answer.status_code == 200


def test_a_form_is_refused(client: Client) -> None:
    refused(client.post("/predict", files={"file": picture()}), 415, "not a form")
    refused(client.post("/predict", data={"file": "x"}), 415, "x-www-form-urlencoded")
    refused(client.post("/predict", content=picture()), 415, "expected image/png")
    # The browser asks before it sends a picture for a foreign page, and gets no permission.
    refused(client.request("OPTIONS", "/predict"), 405, "send a picture with POST")


@pytest.mark.parametrize("path", ["/predict", "/explain"])
def test_a_large_body_is_refused(path: str) -> None:
    client = Client(app_of(Levels(), limits=Limits(bytes=1000), explainer=Pages()))
    with_length = client.post(path, headers=PNG, content=bytes(1001))
    refused(with_length, 413, "more than 1,000 bytes: make it smaller")
    without = client.post(path, headers=PNG, content=iter([bytes(600), bytes(600)]))
    assert "content-length" not in without.request.headers
    refused(without, 413, "more than 1,000 bytes")
    for length in ("9" * 5000, "-1", "x", "1001"):
        answer = client.post(path, headers={**PNG, "content-length": length}, content=iter([b""]))
        refused(answer, 413, "more than 1,000 bytes")


def png_header(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def gif_header(width: int, height: int) -> bytes:
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return screen + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00;"


def bmp_header(width: int, height: int) -> bytes:
    size = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + size


@pytest.mark.parametrize("header", [png_header, gif_header, bmp_header])
@pytest.mark.parametrize("side", [60_000, 7_000, 10_000])
def test_a_decompression_bomb_is_refused(client: Client, header: Any, side: int) -> None:
    answer = client.post("/predict", content=header(side, side), headers=PNG)
    refused(answer, 413, "at most 40,000,000 pixels are read: make it smaller")


def test_a_jpeg_with_many_scans_is_refused(client: Client) -> None:
    content = picture(9, (40, 40), "JPEG")
    refused(client.post("/predict", content=content + b"\xff\xda" * 101, headers=PNG), 413, "scans")


def tiff() -> bytes:
    file = io.BytesIO()
    Image.new("L", (5, 6)).save(file, "TIFF")
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n",
        b"\xc5\xd0\xd3\xc6" + bytes(30),
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        tiff(),
        b"file:///etc/passwd",
        b"http://127.0.0.1:8000/health",
        b"/etc/passwd",
        b"%PDF-1.4",
    ],
)
@pytest.mark.parametrize("kind", ["image/png", "image/svg+xml", "image/x-eps"])
def test_what_is_no_picture_is_refused(client: Client, content: bytes, kind: str) -> None:
    answer = client.post("/predict", content=content, headers={"content-type": kind})
    refused(answer, 415, "expected a PNG, JPEG, WebP, BMP or GIF picture")


def test_a_damaged_or_empty_picture_is_refused(client: Client) -> None:
    cut = picture(9, (90, 90), "JPEG")[:-300]
    refused(client.post("/predict", content=cut, headers=PNG), 415, "damaged")
    refused(client.post("/predict", content=b"", headers=PNG), 400, "the request is empty")
    refused(
        client.post("/predict", content=b"x", headers={**PNG, "content-encoding": "gzip"}),
        415,
        "compressed",
    )


def test_a_path_or_an_address_is_refused(client: Client) -> None:
    for name in ("path", "url", "file"):
        place = f"/predict?{name}=/etc/passwd"
        refused(client.post(place, content=picture(), headers=PNG), 400, "with a number")
        refused(client.post("/predict", json={name: "/etc/passwd"}), 415, "a path or an address")
    listed = {"content-type": "text/uri-list"}
    refused(client.post("/predict", content=b"http://x", headers=listed), 415, "an address")
    for path in (
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/explained/..%2f..%2fetc",
    ):
        assert client.get(path).status_code == 404
    assert client.get("/docs").status_code == 404
    assert client.get("/openapi.json").status_code == 404


def test_nothing_is_written(client: Client, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    written: list[str] = []
    watched = [True]

    def hook(event: str, values: tuple[Any, ...]) -> None:
        if watched[0] and event == "open" and isinstance(values[1], str):
            if set(values[1]) & set("wax+"):
                written.append(str(values[0]))
        elif watched[0] and event in ("subprocess.Popen", "os.system", "socket.connect"):
            written.append(event)

    sys.addaudithook(hook)
    try:
        for content in (picture(), picture(3, (900, 900), "WEBP"), b"no picture"):
            client.post("/predict", content=content, headers=PNG)
        open("seen", "w").close()
    finally:
        watched[0] = False
    assert written == ["seen"]


def test_a_token_is_needed_from_other_machines() -> None:
    token = "a-long-token-of-a-test"
    client = Client(app_of(Levels(), access=Access("0.0.0.0", token, local=False)))
    for host in ("192.168.1.7:8000", "[fe80::1]", "127.0.0.1"):
        right = {"host": host, "authorization": f"Bearer {token}"}
        assert client.get("/health", headers=right).status_code == 200
        assert client.get(f"/?token={token}", headers={"host": host}).status_code == 200
        for wrong in ({}, {"authorization": "Bearer x"}, {"authorization": f"Basic {token}"}):
            answer = client.get("/health", headers={"host": host, **wrong})
            refused(answer, 401, "the token is missing or wrong")
            assert token not in answer.text
            answer = client.post(f"/predict?token={token}", headers={"host": host, **PNG, **wrong})
            refused(answer, 401, "the token is missing or wrong")
    named = {"host": "evil.example", "authorization": f"Bearer {token}"}
    refused(client.get("/health", headers=named), 400, "not this server")
    assert token not in repr(Access("0.0.0.0", token, local=False))


def test_an_error_of_the_model_is_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    model = Levels()
    client = Client(app_of(model))
    model.error = ValueError("no\nluck")
    refused(client.post("/predict", content=picture(), headers=PNG), 500, "the request failed")
    (record,) = [each for each in caplog.records if each.name.startswith("cnnforge")]
    assert record.getMessage().startswith("a request failed: ValueError: no luck")
    assert not record.exc_info
    model.error = None
    assert client.post("/predict", content=picture(), headers=PNG).status_code == 200


def test_pictures_that_wait_are_predicted_together_and_others_get_503() -> None:
    model = Levels()
    app = app_of(model, limits=Limits(waiting=6))
    model.batches.clear()
    model.gate.clear()
    levels = [20, 240, 30, 250, 10, 245]

    async def all_at_once() -> list[httpx.Response]:
        async with client_of(app) as client:
            first = [
                asyncio.create_task(client.post("/predict", content=picture(each), headers=PNG))
                for each in levels
            ]
            bad = asyncio.create_task(client.post("/predict", content=picture(), headers=PNG))
            late = await bad
            model.gate.set()
            return [late, *await asyncio.gather(*first)]

    late, *answers = asyncio.run(all_at_once())
    refused(late, 503, "6 pictures are waiting: try again in a second")
    assert late.headers["retry-after"] == "1"
    found = [each.json()["label"] for each in answers]
    assert found == ["dark", "bright"] * 3
    assert sum(model.batches) == 6
    assert len(model.batches) < 6


def test_one_bad_picture_does_not_disturb_its_batch() -> None:
    model = Levels()
    app = app_of(model)
    model.gate.clear()

    async def all_at_once() -> list[httpx.Response]:
        async with client_of(app) as client:
            work = [
                asyncio.create_task(client.post(path, content=content, headers=PNG))
                for path, content in (
                    ("/predict", picture(1)),
                    ("/predict?top_k=1", picture(9)),
                    ("/predict", b"bad"),
                    ("/predict", picture(250)),
                )
            ]
            await asyncio.sleep(0.05)
            model.gate.set()
            return await asyncio.gather(*work)

    one, two, bad, other = asyncio.run(all_at_once())
    refused(bad, 415, "expected a PNG")
    assert [one.json()["label"], other.json()["label"]] == ["dark", "bright"]
    assert [len(each.json()["top"]) for each in (one, two, other)] == [3, 1, 3]


class Pages:
    """Makes small pages, and waits while `gate` is not set."""

    def __init__(self) -> None:
        self.count = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def explain(self, content: bytes, seconds: float) -> str:
        await self.gate.wait()
        self.count += 1
        if content == picture(13):
            raise Refused(422, "the picture cannot be explained: no luck")
        return f"<p>page {self.count}</p>"


def test_the_last_explanations_are_kept_in_memory() -> None:
    client = Client(app_of(Levels(), explainer=Pages()))
    assert client.get("/health").json()["explains"] is True
    made = [client.post("/explain", content=picture(), headers=PNG) for _ in range(5)]
    assert [each.text for each in made] == [f"<p>page {n}</p>" for n in range(1, 6)]
    places = [each.headers["content-location"] for each in made]
    assert len(set(places)) == 5
    assert client.get(places[4]).text == made[4].text
    refused(client.get(places[0]), 404, "only the last 4 explanations are kept")
    refused(client.post("/explain", content=picture(13), headers=PNG), 422, "no luck")
    refused(client.post("/explain", content=b"<svg>", headers=PNG), 415, "expected a PNG")
    refused(client.post("/explain", content=picture()), 415, "content type")
    refused(client.post("/explain?url=x", content=picture(), headers=PNG), 400, "no options")


def test_one_explanation_at_a_time() -> None:
    pages = Pages()
    app = app_of(Levels(), explainer=pages)
    pages.gate.clear()

    async def two() -> tuple[httpx.Response, httpx.Response]:
        async with client_of(app) as client:
            first = asyncio.create_task(client.post("/explain", content=picture(), headers=PNG))
            await asyncio.sleep(0.05)
            second = await client.post("/explain", content=picture(), headers=PNG)
            # Predictions go on.
            assert (await client.post("/predict", content=picture(), headers=PNG)).is_success
            pages.gate.set()
            return await first, second

    first, second = asyncio.run(two())
    assert first.status_code == 200
    refused(second, 503, "an explanation is being made: try again when it is ready")


def test_other_tasks_have_no_explanations(client: Client) -> None:
    answer = client.post("/explain", content=picture(), headers=PNG)
    refused(answer, 404, "no explanations of the task")
    assert json.loads(client.get("/health").text)["explains"] is False
