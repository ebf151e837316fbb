"""The variables of a model and its optimizer as arrays."""

import keras
import numpy as np

from cnnforge.backends.base import TrainableModel


def test_restored_weights_replace_the_average() -> None:
    """A non-finite weight is looked for inside the block: batches are replayed from a state."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    trained = TrainableModel(model, keras.optimizers.SGD(use_ema=True))
    own = trained.arrays()
    restored = [np.full_like(array, 3) for array in own]
    with trained.averaged():
        np.testing.assert_equal(trained.arrays()[0], own[0])
        trained.restore(restored)
        np.testing.assert_equal(trained.arrays(), restored)
    np.testing.assert_equal(trained.arrays(), restored)
    with trained.averaged():
        np.testing.assert_equal(trained.arrays(), restored)
    np.testing.assert_equal(trained.arrays(), restored)
