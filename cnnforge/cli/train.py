"""The command `cnnforge train`: trains a model and writes a run directory."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cnnforge.cli._common import (
    JsonOption,
    PluginOption,
    TrustModelOption,
    find_run,
    find_weights,
)
from cnnforge.cli._train_options import show_options, with_options
from cnnforge.cli.workers.options import (
    AddressOption,
    WorkersOption,
    check_workers,
)
from cnnforge.fine_tuning_options import FineTuningOptions
from cnnforge.optimizer_options import OptimizerOptions
from cnnforge.output_options import OutputOptions


@with_options(FineTuningOptions, after="init_from")
@with_options(OutputOptions, after="repeat")
@with_options(OptimizerOptions, after="batch_size")
def train(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL[:ARG]",
            help="Name of the model; some take an argument, such as keras:MobileNetV2.  [default: "
            "chosen by the size of the images]",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="A folder with one sub-folder per class, a .csv, .npz, .parquet or .tar file, a "
            "folder or a .json or .yaml file of boxes, or a name of a dataset.  [default: "
            "mnist5k]",
        ),
    ] = None,
    epochs: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="Number of epochs; +10 with --resume adds ten.  [default: 20]"
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Images per training step.  [default: 64]")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Random seed; equal seeds give equal weights.  [default: 0]"
        ),
    ] = None,
    split_seed: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Random seed of the validation split.  [default: the value of --seed]"
        ),
    ] = None,
    kernels: Annotated[
        str | None,
        typer.Option(
            metavar="auto|numba|keras",
            help="Implementation of the layers; auto measures and uses the faster one.  "
            "[default: auto]",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder for the run directories.  [default: runs]"),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW", help="Resize the images to this size.  [default: the size of the data]"
        ),
    ] = None,
    color: Annotated[
        str | None,
        typer.Option(
            metavar="auto|grayscale|rgb", help="Color mode of the images.  [default: auto]"
        ),
    ] = None,
    validation_fraction: Annotated[
        float | None,
        typer.Option(
            metavar="F", help="Fraction of the images used for validation.  [default: 0.2]"
        ),
    ] = None,
    strict: Annotated[
        bool | None,
        typer.Option("--strict/--no-strict", help="Fail if a file cannot be read; else skip it."),
    ] = None,
    drop_duplicates: Annotated[
        bool | None,
        typer.Option("--drop-duplicates/--keep-duplicates", help="Leave out copies of images."),
    ] = None,
    cache: Annotated[
        bool | None,
        typer.Option(
            "--cache/--no-cache",
            help="Keep decoded images in a file, for later epochs and runs.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml", help="Read options from a file, such as the config.toml of a run."
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Resume this run, or latest, from its last saved state."),
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|RUN",
            help="Take the weights that fit from a run, latest, or a .keras or .weights.h5 file.",
        ),
    ] = None,
    label_smoothing: Annotated[
        float | None,
        typer.Option(metavar="X", help="Label smoothing factor, such as 0.1.  [default: 0]"),
    ] = None,
    class_weights: Annotated[
        str | None,
        typer.Option(
            metavar="balanced", help="Weight the loss inversely to the class frequencies."
        ),
    ] = None,
    monitor: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC",
            help="Validation metric that selects the best epoch: accuracy, loss, "
            "balanced_accuracy or macro_f1.  [default: accuracy]",
        ),
    ] = None,
    callback: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:ARG]",
            help="Run this callback after every epoch, such as early_stopping:5; repeatable.",
        ),
    ] = None,
    augment: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:ARG]",
            help="Apply this augmentation to the training images, such as shift:2; repeatable.  "
            "light, strong and none stand for several.",
        ),
    ] = None,
    time_limit: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Stop this long after the start of the command, such as 90s, 30m or 2h; "
            "--resume continues.",
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="N|all",
            help="Divide each step among graphics cards, or among processors without one.  "
            "[default: 1]",
        ),
    ] = None,
    workers: WorkersOption = None,
    address: AddressOption = None,
    startup_timeout: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="Max time until all workers, or processes of TF_CONFIG, are ready."
        ),
    ] = "5m",
    repeat: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Train N runs with the next seeds, on one split."),
    ] = 1,
    plugin: PluginOption = None,
    trust_model: TrustModelOption = False,
    print_config: Annotated[
        bool,
        typer.Option("--print-config", help="Print all options and their sources, then exit."),
    ] = False,
    json: JsonOption = False,
    **options: Any,
) -> None:
    """Train a model and write a run directory.

    Ctrl-C saves the state and exits; --resume continues the run. Exit codes: 0 success, 1 failure,
    2 usage error, 3 a loss or a weight is not finite, 4 another worker did not start or has ended,
    129, 130, 138 or 143 interrupted.
    """
    from cnnforge.cli._repeat import run_once, run_repeatedly
    from cnnforge.cli.workers.training import train_with_workers
    from cnnforge.configuration import check_types, parse_time, read_config
    from cnnforge.distributed.joining import Joining
    from cnnforge.errors import UsageError
    from cnnforge.runs.finding import names_latest

    deadline = None if time_limit is None else time.monotonic() + parse_time(time_limit)
    waiting = parse_time(startup_timeout, "--startup-timeout")
    where = check_workers(workers, address, startup_timeout if workers else None)
    joining = Joining.checked(devices, waiting, os.environ)
    if workers is not None and not joining.alone:
        raise UsageError(
            "--workers starts processes with one device each: leave out --devices, or --workers"
            if devices is not None
            else "TF_CONFIG makes this process a worker itself, and --workers starts workers with "
            "Ray: leave out --workers, or unset TF_CONFIG"
        )
    if repeat > 1 and not (joining.alone and workers is None):
        raise UsageError(
            "--repeat trains on one device and in one process: leave out --repeat, or --devices, "
            "--workers and TF_CONFIG"
        )
    if repeat > 1 and resume is not None:
        raise UsageError(
            "--repeat starts new runs, and --resume continues one: leave out one of them (a "
            "command with --repeat continues its own runs if it is typed again)"
        )
    if resume is not None:
        resume = find_run(resume)
    written = {
        "model": model,
        "data": data,
        "batch_size": batch_size,
        "seed": seed,
        "split_seed": split_seed,
        "kernels": kernels,
        "output": None if output is None else os.path.expanduser(output),
        "image_size": image_size,
        "color": color,
        "validation_fraction": validation_fraction,
        "strict": strict,
        "drop_duplicates": drop_duplicates,
        "cache": cache,
        "init_from": None if init_from is None else str(find_weights(init_from)),
        "label_smoothing": label_smoothing,
        "class_weights": class_weights,
        "monitor": monitor,
        "callback": tuple(callback) if callback else None,
        "augment": tuple(augment) if augment else None,
        "plugin": tuple(plugin) if plugin else None,
        **options,
    }
    given = {name: value for name, value in written.items() if value is not None}
    if given.get("weights") not in (None, "imagenet", "none"):
        given["weights"] = str(find_weights(Path(given["weights"]), "--weights"))
    given = check_types(given, "command line")
    configured = read_config(Path(os.path.expanduser(config))) if config else {}
    if names_latest(configured.get("init_from", "")):
        configured["init_from"] = str(find_weights(Path(configured["init_from"])))
    if print_config:
        show_options(given, configured, epochs, resume, json)
        return
    if workers is not None:
        train_with_workers(
            workers, *where, context.obj or (), given, configured, epochs, resume, deadline
        )
    elif repeat > 1:
        run_repeatedly(repeat, given, configured, epochs, deadline, json)
    else:
        run_once(given, configured, epochs, resume, deadline, json, joining)
