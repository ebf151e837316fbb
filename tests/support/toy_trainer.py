"""Trains the trials of a sweep in milliseconds, with the messages of `cnnforge.cli.sweep.worker`.

The value of an epoch follows from the options. A run keeps the number of its epochs in a file, and
is continued from there. Options of a trial choose what goes wrong.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from cnnforge.runs import RunDirectory

SECONDS = float(os.environ.get("TOY_SECONDS", "0"))
orders: list[dict[str, Any]] = []
arrived = threading.Condition()
stopped = threading.Event()


def listen() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        if "stop" in order:
            stopped.set()
        with arrived:
            orders.append(order)
            arrived.notify()
    os._exit(0)


def next_order() -> dict[str, Any]:
    with arrived:
        arrived.wait_for(lambda: any("stop" not in each for each in orders))
        while "stop" in orders[0]:
            orders.pop(0)
        return orders.pop(0)


def tell(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


def value_of(options: dict[str, Any], epoch: int) -> float:
    rate = options.get("learning_rate", 0.01)
    return 1 / (1 + abs(rate - 0.004) * 100) - 1 / (epoch + options.get("batch_size", 16))


def train(order: dict[str, Any]) -> None:
    options = order["train"]
    rate, output = options.get("learning_rate", 0.01), Path(options["output"])
    if os.environ.get("TOY_FAILS") == "all" or (os.environ.get("TOY_FAILS") and rate > 0.02):
        tell(error="the loss is not a finite number")
        return
    if order["resume"]:
        run = RunDirectory(Path(order["resume"]))
    else:
        run = RunDirectory.create(output, "toy", "toy")
        run.write_config(options, {})
    tell(run=str(run.path))
    file = run.path / "metrics.csv"
    done = file.read_text().count("\n") if file.exists() else 0
    epochs = options.get("epochs", 3)
    for epoch in range(1, epochs + 1):
        if epoch > done:
            if os.environ.get("TOY_DIES") == str(epoch) and not (run.path / "died").exists():
                (run.path / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(SECONDS)
            if stopped.is_set():
                tell(interrupted=True)
                return
            run.write_text("metrics.csv", "x\n" * epoch)
        tell(epoch=epoch, epochs=epochs, value=value_of(options, epoch))
        if not next_order()["go_on"]:
            tell(pruned=True)
            return
    nan = options.get("model") == "nan" and options["ema"] > 0.15
    tell(done=float("nan") if nan else value_of(options, epochs))


if __name__ == "__main__":
    threading.Thread(target=listen, daemon=True).start()
    while True:
        train(next_order())
