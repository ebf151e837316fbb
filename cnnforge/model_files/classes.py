"""Find classes and functions in the configuration of a model that are not on the allow-list."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cnnforge.utils.keras_graph import PRIVATE

_LAYERS = """
    Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D
    AdaptiveAveragePooling3D AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add
    AdditiveAttention AlphaDropout Attention AugMix AutoContrast Average AveragePooling1D
    AveragePooling2D AveragePooling3D AvgPool1D AvgPool2D AvgPool3D BatchNormalization
    Bidirectional CategoryEncoding CenterCrop Concatenate
    ContrastLimitedAdaptiveHistogramEqualization Conv1D Conv1DTranspose Conv2D Conv2DTranspose
    Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D Convolution1D Convolution1DTranspose
    Convolution2D Convolution2DTranspose Convolution3D Convolution3DTranspose Cropping1D
    Cropping2D Cropping3D CutMix Dense DepthwiseConv1D DepthwiseConv2D Discretization Dot
    Dropout ELU EinsumDense Embedding Equalization Flatten GRU GRUCell GaussianDropout
    GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D
    GlobalAvgPool1D GlobalAvgPool2D GlobalAvgPool3D GlobalMaxPool1D GlobalMaxPool2D
    GlobalMaxPool3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization
    GroupQueryAttention HashedCrossing Hashing Identity InputLayer InputSpec LSTM LSTMCell Layer
    LayerNormalization LeakyReLU Masking MaxNumBoundingBoxes MaxPool1D MaxPool2D MaxPool3D
    MaxPooling1D MaxPooling2D MaxPooling3D Maximum MelSpectrogram Minimum MixUp
    MultiHeadAttention Multiply Normalization PReLU Permute Pipeline RMSNormalization RNN
    RandAugment RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast
    RandomCrop RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur
    RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation
    RandomSaturation RandomSharpness RandomShear RandomTranslation RandomZoom ReLU RepeatVector
    Rescaling Reshape Resizing ReversibleEmbedding STFTSpectrogram SeparableConv1D
    SeparableConv2D SeparableConvolution1D SeparableConvolution2D SimpleRNN SimpleRNNCell
    Softmax Solarization SpatialDropout1D SpatialDropout2D SpatialDropout3D
    SpectralNormalization StackedRNNCells Subtract TimeDistributed UnitNormalization
    UpSampling1D UpSampling2D UpSampling3D Wrapper ZeroPadding1D ZeroPadding2D ZeroPadding3D
"""
LAYERS = frozenset(_LAYERS.split())
"""The layers of Keras that a model file may contain."""

_REFUSED = """
    FlaxLayer IntegerLookup JaxLayer Lambda StringLookup TFSMLayer TextVectorization
    TorchModuleWrapper
"""
REFUSED = frozenset(_REFUSED.split())
"""The layers of Keras that it may not contain: they take a function, another model or a file."""

_MODELS = frozenset(("Functional", "Model", "Sequential"))
# Classes of these modules compute numbers from numbers.
_HARMLESS = re.compile(
    r"keras\.(constraints|dtype_policies|initializers|losses|metrics|optimizers(\.schedules)?"
    r"|quantizers|random|regularizers)"
)
_HARMLESS_PRIVATE = re.compile(r"ops\.(core|einops|image|linalg|math|nn|numpy)")
_OTHERS = frozenset([("keras", "DTypePolicy"), ("keras", "FloatDTypePolicy")])
_OTHERS_PRIVATE = frozenset([("applications.convnext", "LayerScale")])
# Keras writes values in this form. It also has `__lambda__` and `__typespec__`.
_VALUES = frozenset(
    ("__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__")
)
# The modules in which Keras looks for what it wrote without a module.
_PARTS = ("activations", "initializers", "losses", "metrics", "regularizers", "constraints")


@dataclass(frozen=True)
class ClassProblem:
    """A class or a function that a configuration names and that is not allowed.

    Attributes:
        text: Its kind and name, such as `"the class keras.layers.Lambda"`.
        package: The package that has to register it, after which it is allowed; "" if it is never
            allowed.
    """

    text: str
    package: str = ""


def find_class_problem(
    config: Any, registered: Callable[[str], bool], in_keras: Callable[[str, str], bool]
) -> ClassProblem | None:
    """Find a class or a function in the configuration of a model that is not allowed.

    Args:
        config: The configuration, made of plain values. How the model was compiled is not read.
        registered: Function that returns whether a name, such as `"acme>Power"`, is that of a class
            or a function that this program has registered for Keras.
        in_keras: Function that returns whether a module of Keras, such as `"activations"`, has a
            function or a class of a name.

    Returns:
        The first one that is never allowed; without one, the first one that is not registered;
        `None` if all are allowed.
    """
    unknown = None
    # The model is opened without compiling it.
    for each in _objects({**config, "compile_config": None}):
        problem = _problem(each, registered, in_keras)
        if problem is not None and not problem.package:
            return problem
        unknown = unknown or problem
    return unknown


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Yield each description of an object. The configuration may be nested to any depth."""
    left = [config]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                yield value
            left += value.values()
        elif isinstance(value, list):
            left += value


def _problem(
    value: dict[str, Any],
    registered: Callable[[str], bool],
    in_keras: Callable[[str, str], bool],
) -> ClassProblem | None:
    name, module, own = value["class_name"], value.get("module"), value.get("registered_name")
    if name in ("function", "__lambda__"):
        name, own = value.get("config"), value.get("config")
        kind = "function"
    else:
        kind = "class"
    if value["class_name"] == "__lambda__":
        return ClassProblem("a Python lambda")
    if not isinstance(name, str) or not isinstance(module, str | None):
        return ClassProblem(f"the {kind} {repr(name)[:80]}")
    # Older versions of Keras wrote no modules.
    if module in (None, "builtins") and any(in_keras(it, name) for it in _PARTS):
        return None
    if kind == "class" and ((module is None and name in _VALUES) or _is_of_keras(module, name)):
        return None
    # Keras looks for what is registered first.
    if isinstance(own, str) and registered(own):
        return None
    foreign = module is None or module.partition(".")[0] not in ("keras", "builtins")
    if isinstance(own, str) and ">" in own and (foreign or kind == "function"):
        return ClassProblem(f"the {kind} {own}", package=own.partition(">")[0])
    return ClassProblem(f"the {kind} {module}.{name}" if module else f"the {kind} {name}")


def _is_of_keras(module: str | None, name: str) -> bool:
    if not name.isidentifier() or not name[0].isupper():
        return False
    if module is None:
        return name in LAYERS or name in _MODELS
    private = module.removeprefix(PRIVATE) if module.startswith(PRIVATE) else ""
    if name in _MODELS:
        return module in ("keras", "keras.models") or private.startswith("models.")
    if private:
        known = (private, name) in _OTHERS_PRIVATE
        return known or _HARMLESS_PRIVATE.fullmatch(private) is not None
    known = (module, name) in _OTHERS or (module == "keras.layers" and name in LAYERS)
    return known or _HARMLESS.fullmatch(module) is not None
