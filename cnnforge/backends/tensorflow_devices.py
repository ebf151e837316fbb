"""Choose the devices of a training under the TensorFlow backend."""

from __future__ import annotations

import tensorflow as tf

from cnnforge.backends.tensorflow_replicas import StrategyReplicas
from cnnforge.errors import UsageError, WorkerError, one_line
from cnnforge.utils.processors import usable_processors

LOST: tuple[type[Exception], ...] = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)
"""Exceptions that an op raises if another process has ended or cannot be reached."""


def several_devices(count: int | None) -> StrategyReplicas | None:
    """Use several devices of this machine: its graphics cards, or else its processors.

    Call it before anything is computed, because TensorFlow then fixes the number of its devices.

    Args:
        count: Number of devices; `None`: all.

    Returns:
        The devices; `None` if it is one.

    Raises:
        UsageError: There are fewer devices.
    """
    cards = tf.config.list_physical_devices("GPU")
    there, kind = (len(cards), "GPU") if cards else (usable_processors(), "CPU")
    if count is None:
        count = there
    if count > there:
        what = "graphics cards" if cards else "processors, and no graphics card"
        raise UsageError(
            f"--devices is {count}, and this machine has {there} {what}: use at most {there}, or "
            "all"
        )
    if count == 1:
        return None
    if not cards:
        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
        try:
            tf.config.set_logical_device_configuration(cpu, parts)
        except RuntimeError as error:
            raise UsageError(
                "--devices divides the processor before TensorFlow computes, and this process has "
                "computed before: start a new one"
            ) from error
    names = [f"{kind}:{number}" for number in range(count)]
    return StrategyReplicas(tf.distribute.MirroredStrategy(names))


def one_of_several_processes(
    rank: int, size: int, index_on_host: int, address: str
) -> StrategyReplicas:
    """Connect with the other processes that `TF_CONFIG` names.

    It returns when all others have called it. Call it before anything is computed.

    Args:
        rank: Index of this process.
        size: Number of processes.
        index_on_host: Index of this process among those of its machine. If there are several
            graphics cards, it uses the one with this number.
        address: `host:port` of this process, for messages.

    Raises:
        WorkerError: The port is in use.
    """
    cards = tf.config.list_physical_devices("GPU")
    if len(cards) > 1:
        tf.config.set_visible_devices(cards[index_on_host % len(cards)], "GPU")
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.UnknownError as error:
        raise WorkerError(
            f"worker {rank} cannot listen at {address} ({one_line(error)}): give it a free port "
            "in TF_CONFIG"
        ) from error
    return StrategyReplicas(strategy, rank, size)
