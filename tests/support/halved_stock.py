import keras


@keras.saving.register_keras_serializable("halved")
class Halved(keras.layers.Layer):
    """The layer in operations of Keras."""

    def call(self, inputs):
        return inputs / 2

    def compute_output_shape(self, input_shape):
        return input_shape
