"""Let TensorFlow take a step of Adam in one op per weight.

Keras computes the step with about ten ops per weight, and each op reads and writes whole arrays.
TensorFlow's op `ResourceApplyAdam` computes the same formula in one pass: D. Kingma, J. Ba, "Adam:
A Method for Stochastic Optimization", 2015, the version at the end of section 2.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


def with_one_op(kind: type[keras.optimizers.Optimizer]) -> type[keras.optimizers.Optimizer]:
    """Return a subclass of an optimizer that takes the step of a weight in one op.

    Its arguments, variables and configuration are those of the given class. The results differ from
    those of the given class by rounding: the op computes 1 - beta_2 in float32, which changes it by
    up to 2e-5 of its value.

    Args:
        kind: Class of an optimizer.

    Returns:
        The subclass; the class itself if TensorFlow has no op for it.
    """
    if kind not in (keras.optimizers.Adam, keras.optimizers.AdamW):
        return kind

    class OneOp(kind):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            """Take a step for one weight."""
            own = not self.amsgrad and isinstance(gradient, tf.Tensor)
            if not own or not gradient.dtype == variable.dtype == tf.float32:
                super().update_step(gradient, variable, learning_rate)
                return
            index = self._get_variable_index(variable)
            step = tf.cast(self.iterations + 1, tf.float32)
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=self._momentums[index].value.handle,
                v=self._velocities[index].value.handle,
                beta1_power=tf.pow(tf.constant(self.beta_1, tf.float32), step),
                beta2_power=tf.pow(tf.constant(self.beta_2, tf.float32), step),
                lr=tf.cast(learning_rate, tf.float32),
                beta1=self.beta_1,
                beta2=self.beta_2,
                epsilon=self.epsilon,
                grad=gradient,
            )

    # Keras names an optimizer, and the file of its configuration, after the class.
    OneOp.__name__ = kind.__name__
    return OneOp
