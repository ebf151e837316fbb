"""Run the networks of bench_inference.py on cnnforge, ONNX Runtime and OpenVINO.

A *runner* is a function ``run(images) -> outputs`` for (N, H, W, C) uint8 images, N not larger than
the batch size. All engines get two threads, or another number, and compute in float32.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Runner = Callable[[np.ndarray], np.ndarray]
PredictAll = Callable[[], np.ndarray]


class Engine:
    """An engine with one network.

    Args:
        folder: Folder of the files of the networks.
        name: Name of the network.
        threads: Number of threads.
    """

    def predictions(self, images: np.ndarray, batch_size: int) -> dict[str, PredictAll]:
        """Return functions that compute the outputs of all images, by the name of their setting.

        Each computes `batch_size` images per call of the engine, the last call perhaps fewer.
        """
        raise NotImplementedError

    def facts(self) -> dict[str, str]:
        """Return the version of the engine, and the instructions that it uses if they are known."""
        raise NotImplementedError


def each_batch(run: Runner, images: np.ndarray, batch_size: int) -> PredictAll:
    return lambda: np.concatenate([run(batch) for batch in batches(images, batch_size)])


def batches(images: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    for first in range(0, len(images), batch_size):
        yield images[first : first + batch_size]


class Cnnforge(Engine):
    def __init__(self, folder: Path, name: str, threads: int) -> None:
        from cnnforge_plugins.inference.runner import open_plan

        self._plan = open_plan(folder / f"{name}.plan.npz")

    def predictions(self, images: np.ndarray, batch_size: int) -> dict[str, PredictAll]:
        return {"": each_batch(self._plan.predict, images, batch_size)}

    def facts(self) -> dict[str, str]:
        from importlib.metadata import version

        from cnnforge_kernels.authoring import vector_lanes

        return {"version": version("cnnforge"), "lanes": str(vector_lanes())}


class OnnxRuntime(Engine):
    def __init__(self, folder: Path, name: str, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads wait in a loop during a call, but not after it, when others have their turn.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        path = str(folder / f"{name}.onnx")
        self._session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def predictions(self, images: np.ndarray, batch_size: int) -> dict[str, PredictAll]:
        return {"": each_batch(self._run, images, batch_size)}

    def _run(self, images: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._input: images})[0]

    def facts(self) -> dict[str, str]:
        import onnxruntime

        return {"version": onnxruntime.__version__}


class OpenVino(Engine):
    def __init__(self, folder: Path, name: str, threads: int) -> None:
        import openvino

        self._core, self._version = openvino.Core(), openvino.__version__.partition("-")[0]
        self._path, self._threads = folder / f"{name}.onnx", threads
        self._used: set[str] = set()

    def predictions(self, images: np.ndarray, batch_size: int) -> dict[str, PredictAll]:
        # One stream computes a batch with all threads. Several streams, each with one thread,
        # compute several batches at a time, which needs more than one batch.
        found = {"1 stream": each_batch(self._runner(images, batch_size), images, batch_size)}
        if 1 < batch_size < len(images):
            found[f"{self._threads} streams"] = self._in_streams(images, batch_size)
        return found

    def facts(self) -> dict[str, str]:
        return {"version": self._version, "convolutions with": " and ".join(sorted(self._used))}

    def _runner(self, images: np.ndarray, batch_size: int) -> Runner:
        sizes = {len(batch) for batch in batches(images, batch_size)}
        requests = {size: self._compile(size, images, 1).create_infer_request() for size in sizes}

        def run(batch: np.ndarray) -> np.ndarray:
            request = requests[len(batch)]
            # Copying the images is faster than a call with a dictionary of inputs.
            request.input_tensors[0].data[...] = batch
            request.infer()
            return request.output_tensors[0].data.copy()

        return run

    def _in_streams(self, images: np.ndarray, batch_size: int) -> PredictAll:
        import openvino

        whole = len(images) // batch_size * batch_size
        compiled = self._compile(batch_size, images, self._threads)
        queue = openvino.AsyncInferQueue(compiled, self._threads)
        rest = each_batch(self._runner(images[whole:], batch_size), images[whole:], batch_size)
        outputs = np.empty((len(images), *compiled.outputs[0].shape[1:]), np.float32)

        def keep(request: Any, first: int) -> None:
            outputs[first : first + batch_size] = request.output_tensors[0].data

        queue.set_callback(keep)

        def predict() -> np.ndarray:
            for first in range(0, whole, batch_size):
                inputs = {0: images[first : first + batch_size]}
                queue.start_async(inputs, first, share_inputs=True)
            if whole < len(images):
                outputs[whole:] = rest()
            queue.wait_all()
            return outputs

        return predict

    def _compile(self, batch_size: int, images: np.ndarray, streams: int) -> Any:
        model = self._core.read_model(self._path)
        model.reshape([batch_size, *images.shape[1:]])
        settings = {
            # The default is bfloat16 on a processor that has it.
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": streams,
        }
        compiled = self._core.compile_model(model, "CPU", settings)
        for operator in compiled.get_runtime_model().get_ops():
            facts = operator.get_rt_info()
            if facts["layerType"].astype(str) == "Convolution":
                kind = facts["primitiveType"].astype(str)
                self._used |= {part for part in kind.split("_") if part.startswith("avx")}
        return compiled


ENGINES: dict[str, type[Engine]] = {
    "cnnforge": Cnnforge,
    "ONNX Runtime": OnnxRuntime,
    "OpenVINO": OpenVino,
}


def environment(engine: str, threads: int, lanes: int | None) -> dict[str, str]:
    """Return the environment variables with which the process of an engine starts.

    Args:
        engine: Name of the engine, a key of `ENGINES`.
        threads: Number of threads.
        lanes: Number of float32 values in a SIMD register: 8 means AVX2 without AVX-512. `None`
            means all instructions of the processor.

    Raises:
        ValueError: The engine cannot be limited to these instructions.
    """
    found = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    found["NUMBA_NUM_THREADS"] = str(threads)
    if lanes == 8:
        if engine == "ONNX Runtime":
            raise ValueError("ONNX Runtime has no setting that leaves AVX-512 out")
        found["ONEDNN_MAX_CPU_ISA"] = "AVX2"
        found["NUMBA_CPU_FEATURES"] = _without_avx512()
    return found


def _without_avx512() -> str:
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    for name in features:
        if name.startswith(("avx512", "evex512", "avx10")):
            features[name] = False
    return features.flatten()
