"""Requests with random faults: each is answered or refused, and none ends in a traceback.

`make fuzz-serve` sends 10,000 of them.
"""

import asyncio
import os
import random
from collections import Counter

import pytest
from served import PNG, Levels, app_of, client_of, exchange, picture, request, running

from cnnforge.serving.limits import Limits

COUNT = int(os.environ.get("CNNFORGE_FUZZ", "500"))
KINDS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
WORDS = (
    *(
        b"\r\n",
        b"\r\n\r\n",
        b"\x00",
        b"\xff",
        b": ",
        b",",
        b"%00",
        b"%2e%2e/",
        b"?",
        b"//",
        b"9" * 30,
    ),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n"),
    *(b"Host: evil.example\r\n", b"Origin: null\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n"),
    *(b"HTTP/1.0", b"HTTP/9.9", b"HEAD", b"CONNECT", b"PUT", b"image/png", b"text/html", b"GIF89a"),
    *(
        b"top_k=1",
        b"top_k=" + b"1" * 5000,
        b"top_k=nan",
        b"\xff\xd8\xff",
        b"RIFF",
        b"IDAT",
        b"IEND",
    ),
)


def spoiled(content: bytes, rng: random.Random) -> bytes:
    made = bytearray(content)
    for _ in range(rng.randint(1, 5)):
        at = rng.randint(0, len(made))
        action = rng.randrange(5)
        if action == 0 and made:
            made[at % len(made)] = rng.randrange(256)
        elif action == 1:
            del made[at : at + rng.randint(1, 20)]
        elif action == 2:
            made[at:at] = rng.choice(WORDS)
        elif action == 3:
            made[at : at + 8] = rng.choice(WORDS)
        else:
            made[at:at] = made[at : at + rng.randint(1, 60)]
    return bytes(made)


def traces(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        f"{each.name}: {each.getMessage()}"
        for each in caplog.records
        if each.exc_info or "a request failed" in each.getMessage()
    ]


def test_spoiled_pictures(caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(1)
    app = app_of(Levels())
    pictures = [picture(each * 40, (31, 17 + each), kind) for each, kind in enumerate(KINDS)]

    async def send_all() -> Counter[int]:
        found: Counter[int] = Counter()
        async with client_of(app) as client:
            for _ in range(0, COUNT // 2, 10):
                answers = await asyncio.gather(
                    *[
                        client.post(
                            "/predict",
                            content=spoiled(rng.choice(pictures), rng),
                            headers=PNG,
                        )
                        for _ in range(10)
                    ]
                )
                found.update(each.status_code for each in answers)
                for each in answers:
                    assert each.headers["content-type"] == "application/json"
                    assert "Traceback" not in each.text
        return found

    found = asyncio.run(send_all())
    assert set(found) <= {200, 400, 413, 415}, found
    assert found[200] > COUNT // 50
    assert found[415] > COUNT // 20
    assert traces(caplog) == []


def test_spoiled_requests(caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(2)
    limits = Limits(seconds=0.3)
    requests = [
        request(picture(9)),
        request(picture(9, kind="JPEG"), path="/predict?top_k=2"),
        request(b"", path="/", method="GET"),
        request(b"", path="/explained/abc", method="GET"),
        request(b"5\r\nabcde\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    ]

    async def send(port: int, free: asyncio.Semaphore) -> bytes:
        async with free:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(spoiled(rng.choice(requests), rng))
                return await asyncio.wait_for(reader.read(), 5)
            except ConnectionError:
                return b""
            finally:
                writer.close()

    async def send_all(port: int) -> list[bytes]:
        free = asyncio.Semaphore(40)
        return await asyncio.gather(*[send(port, free) for _ in range(COUNT // 2)])

    with running(app_of(Levels(), limits=limits), limits) as port:
        answers = asyncio.run(send_all(port))
        assert exchange(port, request(picture())).startswith(b"HTTP/1.1 200 ")
    found = Counter(each[9:12] for each in answers)
    known = {b"", b"100", *(b"%d" % each for each in (200, 400, 403, 404, 405, 408, 413, 415))}
    assert set(found) <= known, found
    assert not [each for each in answers if b"Traceback" in each]
    assert traces(caplog) == []
