"""Import the classes and functions that train and predict with the active Keras backend.

`cnnforge.backends.tensorflow` and `cnnforge.backends.torch` define the same names. Training,
prediction and the certificate import these names from here, so they do not depend on the backend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras

from cnnforge.backends.base import ChunkResult as ChunkResult
from cnnforge.backends.base import Replicas as Replicas
from cnnforge.errors import UsageError

_name = keras.backend.backend()
# A type checker reads only the first branch. This is enough, as both modules define the same names.
if TYPE_CHECKING or _name == "tensorflow":
    from cnnforge.backends.tensorflow import BatchPredictor as BatchPredictor
    from cnnforge.backends.tensorflow import Trainer as Trainer
    from cnnforge.backends.tensorflow import copies_of as copies_of
    from cnnforge.backends.tensorflow import prepare as prepare
    from cnnforge.backends.tensorflow import pullback as pullback
    from cnnforge.backends.tensorflow import reference_is_unsafe as reference_is_unsafe
    from cnnforge.backends.tensorflow import repeated_passes as repeated_passes
    from cnnforge.backends.tensorflow_adam import with_one_op as with_one_op
elif _name == "torch":
    from cnnforge.backends.torch import BatchPredictor as BatchPredictor
    from cnnforge.backends.torch import Trainer as Trainer
    from cnnforge.backends.torch import copies_of as copies_of
    from cnnforge.backends.torch import prepare as prepare
    from cnnforge.backends.torch import pullback as pullback
    from cnnforge.backends.torch import reference_is_unsafe as reference_is_unsafe
    from cnnforge.backends.torch import repeated_passes as repeated_passes
    from cnnforge.backends.torch import with_one_op as with_one_op
else:
    raise UsageError(
        f"the Keras backend is {_name!r}, and cnnforge trains and predicts with tensorflow or "
        "torch; set KERAS_BACKEND=tensorflow before Python starts"
    )
