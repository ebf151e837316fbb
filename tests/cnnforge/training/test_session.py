"""The files that a session writes."""

from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
import pytest

from cnnforge.configuration import TrainingOptions
from cnnforge.data import Dataset
from cnnforge.errors import RunError
from cnnforge.plugin_host.discovery import Plugins
from cnnforge.runs import RunDirectory
from cnnforge.tasks.classification import Classification
from cnnforge.training import Best, Session, TrainingState


def session(path: Path, model: keras.Model, dataset: Dataset, **fields: Any) -> Session:
    run = RunDirectory.create(path, "model", "toy")
    values = {"options": TrainingOptions(kernels="keras"), "state": None, "warnings": ()}
    return Session(
        run=run,
        task=Classification(dataset.classes),
        dataset=dataset,
        model=model,
        stock=model,
        plugins=Plugins(),
        **cast("Any", {**values, **fields}),
    )


def wide() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(2000),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


def test_a_saved_model_that_is_another_one_is_noticed(tmp_path: Path, dataset: Dataset) -> None:
    model = wide()
    state = TrainingState(
        arrays=[np.zeros(1)], epoch=1, best=Best(1, {"accuracy": 1.0, "loss": 0.0})
    )
    it = session(tmp_path, model, dataset, state=state)
    it._save_best()
    it.run.write_config({"model": "wide"}, {"task": "classification"})
    it.task.write(it.run)
    with pytest.raises(RunError, match="a layer changes when it is saved and loaded"):
        it.report()
