"""A plugin with the models of the soak."""

from cnnforge.plugin import LayerSpec, ModelSpec, hookimpl


@hookimpl
def cnnforge_layers():
    summary = "NaN for an image whose first pixel is white"
    return [LayerSpec(name="gate", target="soak.layers:Gate", summary=summary)]


@hookimpl
def cnnforge_models():
    summary = "one convolution with state of every kind"
    return [ModelSpec(name="gated", target="soak.plugin:build", summary=summary)]


def build(input_shape, classes):
    import keras
    from keras import layers

    from soak.layers import Gate

    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Rescaling(1 / 255),
            Gate(),
            layers.Conv2D(4, 3, activation="relu", kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Dropout(0.3),
            layers.Flatten(),
            layers.Dense(classes, activation="softmax"),
        ]
    )
