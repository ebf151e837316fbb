"""Measure how many predictions per second `cnnforge serve` gives to several clients.

    python benchmarks/bench_serve.py RUN [--clients 16] [--seconds 4] [--rounds 5]

The server is a process of its own, and so are the clients together: each has one connection, and
sends a picture as soon as the answer for the one before has come. The best of several rounds is
the result, because other programs disturb the others. Processor time does not depend on them.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_HELP)
    parser.add_argument("run", help="a run directory")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=4.0, help="time of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    given = parser.parse_args()
    if given.run.startswith("http://"):
        print(json.dumps(asyncio.run(clients(given.run, given.clients, given.seconds))))
        return
    command = [sys.executable, "-c", _PROGRAM, "serve", given.run, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        if not url:
            sys.exit(f"error: the server for {given.run} did not start")
        rounds = [one_round(server.pid, url, given) for _ in range(given.rounds)]
    finally:
        server.terminate()
        server.wait()
    best = max(rounds, key=lambda each: each["rate"])
    result = {"clients": given.clients, "best": best, "rounds": rounds}
    rates = ", ".join(f"{each['rate']:.0f}" for each in rounds)
    print(
        f"{best['rate']:.0f} predictions/s with {given.clients} clients, the best of "
        f"{len(rounds)} rounds ({rates}); median "
        f"answer after {best['median_ms']:.1f} ms, 99 % after {best['p99_ms']:.1f} ms; processor "
        f"time of the server {best['server_ms']:.2f} ms a prediction, of the clients "
        f"{best['client_ms']:.2f} ms"
    )
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")


_HELP = argparse.RawDescriptionHelpFormatter
_PROGRAM = "import sys; from cnnforge.cli import main; sys.exit(main())"


def one_round(pid: int, url: str, given: argparse.Namespace) -> dict[str, float]:
    """Let the clients send pictures in a process of their own, and add the server's time."""
    options = ["--clients", str(given.clients), "--seconds", str(given.seconds)]
    before = processor_seconds(pid)
    output = subprocess.check_output([sys.executable, __file__, url, *options], text=True)
    found: dict[str, float] = json.loads(output)
    found["server_ms"] = 1e3 * (processor_seconds(pid) - before) / found["count"]
    return found


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used; Linux only."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def clients(url: str, count: int, seconds: float) -> dict[str, float]:
    """Send pictures with several clients at once, and return what they measured."""
    address = urlsplit(url)
    with urllib.request.urlopen(f"{url}health") as answer:
        shape: list[int] = json.load(answer)["image"]
    request = picture_request(f"{address.hostname}:{address.port}", shape)
    end, start = time.perf_counter() + seconds, time.perf_counter()
    before = time.process_time()
    work = [client(address, request, end) for _ in range(count)]
    times = np.concatenate(await asyncio.gather(*work))
    return {
        "count": len(times),
        "rate": len(times) / (time.perf_counter() - start),
        "median_ms": 1e3 * float(np.median(times)),
        "p99_ms": 1e3 * float(np.quantile(times, 0.99)),
        "client_ms": 1e3 * (time.process_time() - before) / len(times),
    }


def picture_request(host: str, shape: list[int]) -> bytes:
    """Return a request with a PNG of the model's size."""
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if shape[2] == 1 else pixels).save(file, "PNG")
    body = file.getvalue()
    head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def client(address: Any, request: bytes, end: float) -> list[float]:
    """Send a picture again and again over one connection, and return the time of each answer."""
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    times = []
    while (start := time.perf_counter()) < end:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        assert b'"error":null' in body, body
        times.append(time.perf_counter() - start)
    writer.close()
    return times


if __name__ == "__main__":
    main()
