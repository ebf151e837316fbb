"""Set `TF_CONFIG` and run the command on the machine of each worker, for Ray Train."""

from __future__ import annotations

import json
import secrets
import socket
from typing import Any

from cnnforge.distributed.supervisor import supervise
from cnnforge.distributed.tf_config import VARIABLE
from cnnforge.utils.processors import THREAD_VARIABLES

# In the process of a worker: the name of Ray Train's attempt, and the value of `TF_CONFIG` for the
# command. One worker alone does without the latter.
_given: dict[str, str] = {}


def work(config: dict[str, Any]) -> None:
    """Supervise a worker, in the process of Ray.

    Args:
        config: `desk`, `place`, `command` and `processors`, see `cnnforge.distributed.ray_train`.
    """
    import ray
    import ray.train

    context = ray.train.get_context()
    environment = {name: str(config["processors"]) for name in THREAD_VARIABLES}
    if context.get_world_size() > 1:
        environment[VARIABLE] = _given[VARIABLE]
    supervise(
        context.get_world_rank(),
        {"node": ray.get_runtime_context().get_node_id(), "attempt": _given["attempt"]},
        config["desk"],
        config["place"],
        config["command"],
        environment,
    )


def addresses() -> Any:
    """Return a backend of Ray Train that sets `TF_CONFIG` in each worker, without TensorFlow."""
    from ray.train.backend import Backend, BackendConfig

    class Addresses(Backend):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            import ray

            all_of_them, attempt = worker_group.execute(_free_address), secrets.token_hex(8)
            ray.get(
                [
                    worker_group.execute_single_async(
                        rank, _set_tf_config, all_of_them, rank, attempt
                    )
                    for rank in range(len(worker_group))
                ]
            )

    class Config(BackendConfig):
        @property
        def backend_cls(self) -> Any:
            return Addresses

    return Config()


def _free_address() -> str:
    """Return the address of this machine with a port that nothing uses."""
    import ray

    here = ray.util.get_node_ip_address()
    with socket.socket(socket.AF_INET6 if ":" in here else socket.AF_INET) as server:
        server.bind((here, 0))
        port = server.getsockname()[1]
    return f"[{here}]:{port}" if ":" in here else f"{here}:{port}"


def _set_tf_config(workers: list[str], rank: int, attempt: str) -> None:
    task = {"type": "worker", "index": rank}
    _given["attempt"] = attempt
    _given[VARIABLE] = json.dumps({"cluster": {"worker": workers}, "task": task})
