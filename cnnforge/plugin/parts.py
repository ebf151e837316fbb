"""The specs of everything but layers: data, models, tasks, callbacks, augmentations, engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from cnnforge.plugin.base import DEFAULT_TASK, Spec, check_target
from cnnforge.pretrained import PretrainedWeights

if TYPE_CHECKING:
    from cnnforge.data import PictureParts


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec(Spec):
    """Declares a dataset: `load(argument: str | None, options: DataOptions) -> Dataset`.

    `argument` is the text after the colon, as in `images:FOLDER`. `DataOptions` and `Dataset` are
    classes of `cnnforge.data`.

    Args:
        task: Name of the task whose targets the samples have; the same as `Dataset.task`.
        downloads: Whether `load` may download files when it gets no argument. A check of the whole
            plugin does not call it then.
        in_parts: Import path `"module:function"` of a function that reads the data in parts, for
            `cnnforge predict --workers`; `None` if they cannot be read so. Its argument is that of
            `load`, and it returns `cnnforge.data.PictureParts`.
    """

    kind: ClassVar[str] = "dataset"

    task: str = DEFAULT_TASK
    downloads: bool = False
    in_parts: str | None = None

    def __post_init__(self) -> None:
        super(DatasetSpec, self).__post_init__()
        if self.in_parts is not None:
            check_target(f"the function for parts of {self.kind} {self.name!r}", self.in_parts)

    def load_in_parts(self) -> Callable[[str | None], PictureParts] | None:
        """Import the function `in_parts`; `None` if the spec names none.

        Raises:
            PluginError: The module cannot be imported or has no such attribute.
        """
        return None if self.in_parts is None else self.resolve("in_parts", self.in_parts)

    def load_all(self) -> None:
        """Import everything that the spec names, or raise a `PluginError`."""
        self.load()
        self.load_in_parts()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec(Spec):
    """Declares a model: `build(input_shape, outputs) -> keras.Model`.

    `input_shape` is (height, width, channels). `outputs` is the `Task.output_size` of the task: for
    a classification, the number of classes. If `build` has a parameter `argument`, this parameter
    gets the text after the colon in `cnnforge train NAME:ARGUMENT`, and must have a default. The
    model takes raw pixel values 0..255. A classifier must end in a softmax.

    Args:
        task: Name of the task for which the model computes outputs.
        sizes: (height, width) of each image size that the model accepts. Empty: `build` raises a
            `ValueError` for a size that it does not accept.
        max_default_size: Max height and width in pixels unless the user gives `--image-size`.
        weights: Import path `"module:WEIGHTS"` of a `PretrainedWeights`, if there are any.
        defaults: Values of options of `cnnforge train` that suit the model, by their names in
            `config.toml`. They hold for options that the user leaves out. `learning_rate`,
            `weight_decay` and `momentum` hold only with the optimizer of the model, and
            `warmup_epochs` only with its schedule and at least ten times as many epochs.
    """

    kind: ClassVar[str] = "model"

    task: str = DEFAULT_TASK
    sizes: tuple[tuple[int, int], ...] = ()
    max_default_size: int = 224
    weights: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        super(ModelSpec, self).__post_init__()
        if type(self.max_default_size) is not int or self.max_default_size < 1:
            received = f"the max_default_size of model {self.name!r} is {self.max_default_size!r}"
            raise ValueError(f"{received}: it must be a number of pixels, 1 or more")
        if self.weights is not None:
            check_target(f"the weights of {self.kind} {self.name!r}", self.weights)

    def load_weights(self) -> PretrainedWeights | None:
        """Import the description of the pretrained weights; `None` if the spec names none.

        Raises:
            PluginError: The module cannot be imported or has no such attribute.
        """
        return None if self.weights is None else self.resolve("weights", self.weights)

    def load_all(self) -> None:
        """Import everything that the spec names, or raise a `PluginError`."""
        self.load()
        self.load_weights()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec(Spec):
    """Declares a task. The target is a subclass of `cnnforge.tasks.Task`.

    A task defines targets, losses, metrics, evaluation and predictions.

    Args:
        default_model: Name of a model of the same plugin, which `cnnforge train` builds if the user
            names none. `None`: the model, if only one is for the task.
    """

    kind: ClassVar[str] = "task"

    default_model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackSpec(Spec):
    """Declares a training callback: `make(argument: str | None) -> Callback`.

    `argument` is the text after the colon, as in `--callback early_stopping:5`. `Callback` is the
    class of `cnnforge.callbacks`.
    """

    kind: ClassVar[str] = "callback"


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationSpec(Spec):
    """Declares an augmentation: `make(argument: str | None) -> augment`.

    `argument` is the text after the colon, as in `--augment shift:2`. The returned function
    `augment(images, draws)` gets images, (N, H, W, C) uint8, and their `cnnforge.data.Draws`, and
    returns images of the same shape. It must not write to `images`, and must take all random
    numbers from `draws`. If it moves pixels, it must return two values: the images, and the affine
    transform of each, (N, 2, 3) float32, in the coordinates of `cnnforge.data.transforms`. To mix
    images with other training images, `make` returns a `cnnforge.data.Mixing`, not a function. To
    compose each image of several, it returns a `cnnforge.data.Composing`.
    """

    kind: ClassVar[str] = "augmentation"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec(Spec):
    """Declares an inference engine, which predicts with a trained model without Keras.

    An engine writes a model to one file, the plan, when training ends. `predict`, `evaluate` and
    `cnnforge.load` open the plan, and then import neither Keras nor the framework behind it. The
    target is a function `open_plan(path)` that opens the file. Neither the target nor its module
    may import Keras. It returns an object with an attribute `image_shape`, (H, W, C), and a method
    `predict(images)`. The method gets (N, H, W, C) uint8 or float32 pixel values 0..255, N from 0,
    and returns (N, ...) NumPy arrays in the structure of the outputs of the model. Several threads
    may call it at the same time. `open_plan` raises a `ValueError` with the reason if it cannot use
    the file, for instance if it is damaged or has a newer format. The plan is then made again.

    Args:
        build: Import path `"module:function"` of a function `build(model, path)` that writes the
            plan of a Keras model, which may contain plugin layers, to the file `path`. It may
            import Keras. If the engine cannot express the model, it raises a `ValueError` that
            names the layer. Keras then predicts with this model.
        convolve: Import path `"module:function"` of a function `convolve(images, weights, stride,
            same)` for `cnnforge filter`. It gets images (N, H, W, C) and weights (K, K, C, 1), both
            float32, and returns the maps (N, OH, OW, 1) float32, for padding `"same"` or
            `"valid"` as TensorFlow defines them. It does not import Keras. `None`: the engine has
            no such function.
    """

    kind: ClassVar[str] = "engine"

    build: str
    convolve: str | None = None

    def __post_init__(self) -> None:
        super(EngineSpec, self).__post_init__()
        check_target(f"the build of {self.kind} {self.name!r}", self.build)
        if self.convolve is not None:
            check_target(f"convolve of {self.kind} {self.name!r}", self.convolve)

    def load_build(self) -> Any:
        """Import the function that writes a plan.

        Raises:
            PluginError: The module cannot be imported or has no such attribute.
        """
        return self.resolve("build", self.build)

    def load_convolve(self) -> Any:
        """Import the function that convolves pictures; `None` if the engine has none.

        Raises:
            PluginError: The module cannot be imported or has no such attribute.
        """
        return None if self.convolve is None else self.resolve("convolve", self.convolve)

    def load_all(self) -> None:
        """Import everything that the spec names, or raise a `PluginError`."""
        self.load()
        self.load_build()
        self.load_convolve()
