"""The phases of a training: first only the head of a model is trained, then the whole model.

While the backbone is frozen, it computes as in a prediction, so dropout in it is off and batch
normalization uses its moving statistics. Its batch normalization does so in the next phase too, as
in Keras' guide to fine-tuning. The head has learned from these features; with statistics of the
batch they would change at once, and a small batch has poor statistics. Each phase has its own
optimizer.

The head of a detector begins with its neck: the layers whose names begin with `neck`, which join
features of several sizes. These features are larger than the images, so they are not kept.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

from cnnforge.backends import Replicas, Trainer
from cnnforge.data import Dataset, EpochSamples
from cnnforge.errors import UsageError
from cnnforge.optimizer_options import OptimizerOptions
from cnnforge.tasks import Task
from cnnforge.training.events import FeaturesKept
from cnnforge.training.features import Backbone, FeatureSamples
from cnnforge.training.optimizers import LearningRate, build
from cnnforge.utils.keras_graph import all_layers, split_at_head


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuning:
    """The options of training a model with pretrained weights.

    Args:
        freeze_epochs: Number of epochs at the beginning in which only the head is trained.
        backbone_rate: Factor for the learning rate of the backbone after these epochs.
    """

    freeze_epochs: int = 0
    backbone_rate: float = 1.0


NO_FINE_TUNING = FineTuning()

_NECK = "neck"


class Phase:
    """A part of the training, in which the same weights are trained with the same optimizer.

    Args:
        model: The model, or its head if only the head is trained.
        trainer: Trainer of `model`.
        rate: The learning rate of the optimizer.
        backbone: The frozen part; `None` if the whole model is trained.

    Attributes:
        train: Training samples with features; `None` if they are not kept.
        validation: Validation samples with features; `None` if they are not kept.
    """

    def __init__(
        self,
        model: keras.Model,
        trainer: Trainer,
        rate: LearningRate,
        backbone: Backbone | None = None,
    ) -> None:
        self.model, self.trainer, self.rate, self.backbone = model, trainer, rate, backbone
        self.train: FeatureSamples | None = None
        self.validation: FeatureSamples | None = None

    def keep_features(
        self, dataset: Dataset, fixed: bool, after_chunk: Callable[[], None]
    ) -> FeaturesKept | None:
        """Compute the features of a dataset, if the backbone is frozen and they are not kept yet.

        Args:
            dataset: The dataset.
            fixed: Whether the training images are the same in each epoch. If not, only the features
                of the validation images are kept.
            after_chunk: Function that is called after every few batches.

        Returns:
            A description, if the features of the training images were computed.
        """
        if self.backbone is None or self.validation is not None:
            return None
        begun = time.perf_counter()
        if fixed and not isinstance(dataset.train, EpochSamples):
            self.train = self.backbone.keep(dataset.train, after_chunk)
        self.validation = self.backbone.keep(dataset.validation, after_chunk)
        if self.train is None:
            return None
        kept = [self.train, self.validation]
        return FeaturesKept(
            images=sum(map(len, kept)),
            seconds=time.perf_counter() - begun,
            bytes=sum(split.features.nbytes for split in kept),
            on_disk=any(isinstance(split.features, np.memmap) for split in kept),
        )


class Phases:
    """Makes the phases of a training.

    Args:
        model: The model.
        task: The task.
        optimizer: Options of the optimizers.
        batch_size: Number of images per step.
        batches: Number of steps in an epoch.
        epochs: Number of epochs of the run.
        fine_tuning: Number of frozen epochs and rate of the backbone.
        folder: The run directory, for a temporary file; or `None`.
        replicas: The devices, if there are several; or `None`.

    Raises:
        UsageError: The model cannot be divided into backbone and head.
    """

    def __init__(
        self,
        model: keras.Model,
        task: Task,
        optimizer: OptimizerOptions,
        *,
        batch_size: int,
        batches: int,
        epochs: int,
        fine_tuning: FineTuning,
        folder: Path | None,
        replicas: Replicas | None = None,
    ) -> None:
        self._replicas = replicas
        self._model, self._task, self._optimizer = model, task, optimizer
        self._batch_size, self._batches, self._epochs = batch_size, batches, epochs
        self._fine_tuning, self._folder = fine_tuning, folder
        self._parts = None
        if fine_tuning != NO_FINE_TUNING:
            self._parts = split(model)
        if epochs > fine_tuning.freeze_epochs:
            optimizer.check_epochs(epochs - fine_tuning.freeze_epochs)

    def begins_at(self, epoch: int) -> bool:
        """Return whether a new phase begins at an epoch; epochs count from 0."""
        return epoch in (0, self._fine_tuning.freeze_epochs)

    def at(self, epoch: int) -> Phase:
        """Make the phase of an epoch; epochs count from 0."""
        with contextlib.nullcontext() if self._replicas is None else self._replicas.scope():
            return self._made(epoch)

    def _made(self, epoch: int) -> Phase:
        frozen = self._fine_tuning.freeze_epochs
        if self._parts is not None and epoch < frozen:
            backbone, head = self._parts
            # The warmup is for the phase after this one. If it were for both, they would need more
            # epochs.
            options = replace(self._optimizer, warmup_epochs=0)
            optimizer, rate = build(
                options, batches=self._batches, epochs=min(frozen, self._epochs)
            )
            if head is None:
                backbone.trainable = False
                return Phase(self._model, self._trainer(self._model, optimizer), rate)
            trainer = self._trainer(head, optimizer, self._model)
            features = Backbone(backbone, self._batch_size, self._folder)
            return Phase(head, trainer, rate, features)
        # If the run ends with the phase before, this phase begins all the same, so that the state
        # fits a run that is resumed for more epochs.
        epochs = max(self._epochs - frozen, self._optimizer.warmup_epochs + 1)
        if self._parts is not None:
            backbone, head = self._parts
            if head is None:
                backbone.trainable = True
            for layer in all_layers(backbone):
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.trainable = False
        optimizer, rate = build(
            self._optimizer,
            batches=self._batches,
            epochs=epochs,
            slower=self._parts[0].trainable_variables if self._parts else (),
            factor_of_slower=self._fine_tuning.backbone_rate,
        )
        return Phase(self._model, self._trainer(self._model, optimizer), rate)

    def _trainer(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        whole: keras.Model | None = None,
    ) -> Trainer:
        arguments = (model, self._task, optimizer, self._batch_size, whole)
        if self._replicas is None:
            return Trainer(*arguments)
        return self._replicas.trainer(*arguments)


def split(model: keras.Model) -> tuple[keras.Model, keras.Model | None]:
    """Divide a model into backbone and head.

    Args:
        model: The model.

    Returns:
        Two models, see `cnnforge.utils.keras_graph.split_at_head`. For a model with a neck, the
        first one has several outputs, and the second one is `None`.

    Raises:
        UsageError: The model cannot be divided.
    """
    neck = _before_neck(model)
    parts = split_at_head(model) if neck is None else (neck, None)
    if parts is None:
        raise UsageError(
            f"the model {model.name!r} has no backbone that can be frozen, because it has several "
            "outputs, or its last layer is inside another model: leave out --freeze-epochs and "
            "--backbone-rate"
        )
    return parts


def _before_neck(model: keras.Model) -> keras.Model | None:
    """Return the part of a model that its neck gets features from; `None` if it has no neck."""
    neck = [layer for layer in model.layers if layer.name.startswith(_NECK)]
    own = {id(tensor) for layer in neck for tensor in keras.tree.flatten(layer.output)}
    read = [tensor for layer in neck for tensor in keras.tree.flatten(layer.input)]
    features = {id(tensor): tensor for tensor in read if id(tensor) not in own}
    return keras.Model(model.inputs, list(features.values())) if features else None
