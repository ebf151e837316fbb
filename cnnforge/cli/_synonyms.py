"""List the names that other tools use for the commands and options of cnnforge.

`_advice.py` looks up here what a user typed. To answer one more name, add it here.
"""

from __future__ import annotations

from collections.abc import Mapping

RUN = "RUN"
INPUT = "INPUT"
MODEL = "MODEL"


def _by_name(answers: Mapping[str, str]) -> dict[str, str]:
    return {name: answer for names, answer in answers.items() for name in names.split()}


COMMANDS = _by_name(
    {
        "fit training learn": "train",
        "test eval val valid validate evaluation score": "evaluate",
        "infer inference detect classify label run prediction": "predict",
        "benchmark profile speed": "bench",
        "server webapp web gradio host": "serve",
        "list ls history experiments": "runs",
        "diff significance ab": "compare",
        "tune tuner hpo hyperparameters optimize search": "sweep",
        "models datasets layers": "plugins",
        "check checks env info diagnose": "doctor",
        "determinism deterministic reproduce": "doctor --determinism",
        "resume continue": "train --resume",
        "finetune fine-tune transfer": "train --init-from",
        "convert deploy save": "export",
        "help": "--help",
        "version": "--version",
    }
)
"""For each name of a command of other tools: the command of cnnforge with options, or a sentence.
"""

_DEVICE = "cnnforge finds the device itself: leave it out; 'cnnforge doctor' shows what it found"
_THREADS = "the number of threads is the variable NUMBA_NUM_THREADS: leave the option out"
_PROGRESS = "progress is shown on a terminal, and --json prints the result as JSON: leave it out"
_FLOAT32 = "cnnforge computes in float32: leave it out"
_EVERYWHERE = {
    "gpu gpus device cuda cpu accelerator use-gpu use-cuda no-cuda num-gpus": _DEVICE,
    "num-workers threads j jobs": _THREADS,
    "verbose v quiet q silent progress": _PROGRESS,
    "amp fp16 half precision dtype bf16": _FLOAT32,
    "backend": "the backend is the variable KERAS_BACKEND, such as KERAS_BACKEND=torch",
}
# Options of some commands.
_DEVICES = {"devices": _DEVICE}
_WORKERS = {"workers": _THREADS}
_DATA = "dataset datasets data-dir data-path data-root root folder dir directory path d"
_TRAINED = "model weights checkpoint ckpt load model-path run-dir m w r"
_SIZE = "imgsz img-size imgs img size resolution input-size image-shape"
_BATCH = "batch bs batchsize b train-batch-size"
_OUT = "out o out-dir output-dir save-dir save-path"

OPTIONS: Mapping[str, Mapping[str, str]] = {
    "train": _by_name(
        {
            **_EVERYWHERE,
            f"{_DATA} images train-data train-dir input source": "--data",
            "model arch architecture net network backbone m a": MODEL,
            "lr lr0 learningrate eta": "--learning-rate",
            "e epoch num-epochs n-epochs max-epochs": "--epochs",
            _BATCH: "--batch-size",
            _SIZE: "--image-size",
            "optim opt": "--optimizer",
            "wd decay l2": "--weight-decay",
            "val-split validation-split val-fraction val-size val-ratio split test-size test-split "
            "valid-pct": "--validation-fraction",
            "patience early-stop early-stopping": "--callback early_stopping:{}",
            f"{_OUT} project name experiment log-dir logdir run-dir runs": "--output",
            "finetune from": "--init-from",
            "continue r": "--resume",
            "c cfg config-file": "--config",
            "random-seed random-state manual-seed s": "--seed",
            "scheduler sched lr-scheduler lr-schedule": "--schedule",
            "warmup": "--warmup-epochs",
            "clip grad-clip clip-grad max-norm gradient-clip": "--clip-norm",
            "aug augmentation augmentations transform transforms": "--augment",
            "smoothing": "--label-smoothing",
            "class-weight": "--class-weights",
            "metric": "--monitor",
            "callbacks": "--callback",
            "max-time timeout time walltime": "--time-limit",
            "runs-per-config num-seeds seeds n-runs trials": "--repeat",
            "tb tensor-board": "--tensorboard",
            "gray grayscale greyscale rgb channels": "use --color grayscale or --color rgb",
            "pretrained": "use --weights imagenet, or --init-from RUN to take the weights of a run",
            "checkpoint ckpt load load-model": "use --resume RUN to continue a run, or "
            "--init-from RUN to start a new run from its weights",
            "save save-model save-best": "the best model and the last state are always saved: "
            "leave it out",
            "test val eval evaluate validation": "the validation images are evaluated after every "
            "epoch; for other images, type afterwards: cnnforge evaluate latest --data DATA",
        }
    ),
    "evaluate": _by_name(
        {
            **_EVERYWHERE,
            **_DEVICES,
            **_WORKERS,
            f"{_DATA} images test val test-data input source i": "--data",
            f"{_TRAINED} run init-from resume": RUN,
            f"{_OUT} output save": "use --json > FILE to save the result",
            f"{_BATCH} batch-size": "the batch size does not change the result: leave it out",
            f"{_SIZE} image-size": "images are resized to the size that the model takes: leave it "
            "out",
        }
    ),
    "predict": _by_name(
        {
            **_EVERYWHERE,
            **_DEVICES,
            f"{_DATA} data image images img imgs input inputs source src file files test i": INPUT,
            f"{_TRAINED} run init-from resume": RUN,
            f"{_OUT} csv save-csv save": "--output",
            "topk top k": "--top-k",
            "n num max count": "--limit",
            "kaggle": "--submission",
            f"{_BATCH} batch-size": "the batch size does not change the result: leave it out",
            "imgsz img-size size image-size resolution input-size": "images are resized to the "
            "size that the model takes: leave it out",
            "conf threshold min-confidence": "--confidence",
            "iou nms": "--overlap",
            "max-det": "--max-detections",
            "sahi tiled tiles": "--tile",
        }
    ),
    "serve": _by_name(
        {
            **_EVERYWHERE,
            **_DEVICES,
            **_WORKERS,
            f"{_TRAINED} run": RUN,
            "p server-port": "--port",
            "ip bind address server-name listen": "--host",
            "api-key auth password key": "--token",
            "share public": "other machines reach the server with --host 0.0.0.0, and nothing "
            "outside of your network does: leave it out",
        }
    ),
}
"""For each command, the answer to each option of other tools.

The keys have no leading dashes; a key of one letter is a short option. An answer is an option of
the command, in which `{}` stands for the value; or `MODEL`, `RUN` or `INPUT`, if the value is an
argument without an option; or a sentence.
"""
