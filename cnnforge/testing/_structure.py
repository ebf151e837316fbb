"""Check the spec, registration, configuration and arguments of a layer."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable

import keras

from cnnforge.errors import message_of
from cnnforge.plugin import LayerSpec
from cnnforge.testing._subject import Subject, explained, outputs_of, tensor


def targets(spec: LayerSpec) -> str:
    """Require that the classes and functions that a spec names exist and have the right type."""
    layer = spec.load()
    named = {"target": layer, "reference": spec.load_reference()}
    named |= {f"fused layer {i + 1}": kind for i, kind in enumerate(spec.load_fuses())}
    named |= {f"place {i + 1}": kind for i, kind in enumerate(spec.load_places())}
    for what, found in named.items():
        if found is not None and not (
            isinstance(found, type) and issubclass(found, keras.layers.Layer)
        ):
            raise AssertionError(
                f"the {what} of {spec.name!r} is {found!r}, expected a subclass of keras.Layer"
            )
    # The cases of the spec are not loaded here: the caller has loaded them, or uses other cases.
    if spec.benchmarks is not None:
        spec.load_benchmarks()
    for what, found in {"work": spec.load_work(), "torch": spec.load_torch()}.items():
        if found is not None and not callable(found):
            raise AssertionError(f"the {what} of {spec.name!r} is {found!r}, expected a function")
    return ""


def registration(spec: LayerSpec) -> str:
    """Require that Keras finds the class by its registered name."""
    layer = spec.load()
    name = keras.saving.get_registered_name(layer)
    if keras.saving.get_registered_object(name) is not layer:
        package = spec.plugin or layer.__module__.partition(".")[0]
        raise AssertionError(
            f"{layer.__name__} is not registered with Keras, so a saved model may not find it: "
            f'put @keras.saving.register_keras_serializable("{package}") before the '
            "class"
        )
    return f"as {name!r}"


def config_round_trip(subject: Subject) -> str:
    """Require that the configuration contains every argument, and makes an equal layer."""
    layer, kind = subject.built(), subject.spec.load()
    config = layer.get_config()
    for name in (*subject.case.arguments, *_parameters(kind)):
        if name not in config and not _left_out(subject, name):
            raise AssertionError(
                f"get_config() has no {name!r}, an argument of the constructor: a saved model "
                f"would lose it; add {name!r} to what {kind.__name__}.get_config() returns"
            )
    with explained(f"the configuration of {kind.__name__} cannot be written to a file as JSON"):
        text = json.dumps(keras.saving.serialize_keras_object(layer), sort_keys=True)
    with explained(f"{kind.__name__}.from_config(get_config()) fails"):
        again = kind.from_config(layer.get_config())
    other = json.dumps(keras.saving.serialize_keras_object(again)["config"], sort_keys=True)
    if other != json.dumps(json.loads(text)["config"], sort_keys=True):
        differing = [key for key, value in again.get_config().items() if config.get(key) != value]
        raise AssertionError(
            f"the configuration changes on its way through from_config(): {', '.join(differing)}"
        )
    again.build(subject.case.input_shape)
    again.set_weights(layer.get_weights())
    inputs = subject.inputs()
    if outputs_of(again, inputs).tobytes() != outputs_of(layer, inputs).tobytes():
        raise AssertionError(
            "the layer made from the configuration computes something else with the same weights: "
            "something that it was made with is not in get_config()"
        )
    return ""


def _left_out(subject: Subject, name: str) -> bool:
    """Return whether the reference has the argument, and leaves its default out, as Keras does."""
    if subject.spec.reference is None:
        return False
    reference = subject.spec.load_reference()
    if name not in inspect.signature(reference.__init__).parameters:
        return False
    return name not in reference(**subject.case.arguments).get_config()


def _parameters(kind: type) -> list[str]:
    """Return the names of the constructor's parameters, without `*args` and `**kwargs`.

    If the constructor has no other parameters, return those of the base class.
    """
    for parent in kind.__mro__:
        if parent is keras.layers.Layer:
            break
        if "__init__" in vars(parent):
            found = list(inspect.signature(vars(parent)["__init__"]).parameters.values())[1:]
            names = [
                one.name for one in found if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
            ]
            if names:
                return names
    return []


def bad_arguments(subject: Subject) -> str:
    """Require that each bad argument raises an error that names the argument and the value."""
    for name, value in subject.case.bad_arguments.items():
        try:
            layer = subject.make(**{name: value})
            layer(tensor(subject.inputs()))
        except (ValueError, TypeError) as error:
            message = str(error)
            if name not in message or not (repr(value) in message or str(value) in message):
                raise AssertionError(
                    f"{name}={value!r} is refused by a message that does not name both: "
                    f"{message_of(error)[:200]!r}; say which argument was received with "
                    "which value, and what was expected"
                ) from error
        except Exception as error:
            raise AssertionError(
                f"{name}={value!r} raises {type(error).__name__}, expected a ValueError that "
                f"names the argument and the value: {message_of(error)[:200]}"
            ) from error
        else:
            raise AssertionError(
                f"{name}={value!r} is accepted: check the argument in the constructor and raise "
                "a ValueError that names it and the value"
            )
    return ""


LAYER_CHECKS: dict[str, Callable[[LayerSpec], str]] = {
    "targets": targets,
    "registration": registration,
}
CHECKS: dict[str, Callable[[Subject], str]] = {
    check.__name__: check for check in (config_round_trip, bad_arguments)
}
