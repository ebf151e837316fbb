"""A plugin with two small networks: with the good layer of `mutant_layers.py`, and a broken one."""

import keras
from mutant_layers import MUTANTS, ColumnMix

from cnnforge.plugin import LayerSpec, ModelSpec, hookimpl


def _network(layer, input_shape, classes):
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Rescaling(1 / 255),
            layer,
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(classes, activation="softmax"),
        ]
    )


def good(input_shape, classes):
    return _network(ColumnMix(2, name="mix"), input_shape, classes)


def wrong(input_shape, classes):
    return _network(MUTANTS["WrongGradientSign"].kind(2, name="mix"), input_shape, classes)


@hookimpl
def cnnforge_layers():
    return [
        LayerSpec(
            name=name, target=f"mutant_layers:{kind}", summary="", cases="mutant_layers:CASES"
        )
        for name, kind in (("column_mix", "ColumnMix"), ("wrong_sign", "WrongGradientSign"))
    ]


@hookimpl
def cnnforge_models():
    return [
        ModelSpec(name=name, target=f"mutant_models:{name}", summary="", sizes=((8, 8),))
        for name in ("good", "wrong")
    ]
