"""Check the files of a model before Keras, HDF5 or NumPy read them.

A model file may come from a stranger. Keras itself refuses most files that contain code, but not
all that fill the memory, and it changes with each version. So only what this package knows is
opened: the members of a `.keras` file, their sizes, the classes that its configuration names, and
the kinds of objects in its weights. Nothing here imports Keras.
"""

from cnnforge.model_files.arrays import check_arrays
from cnnforge.model_files.classes import REFUSED, ClassProblem, find_class_problem
from cnnforge.model_files.content import CONFIG, WEIGHTS, check_keras_file, check_weights_file
from cnnforge.model_files.trust import TRUST, RefusedModelError, models_are_trusted, trusting_models

__all__ = [
    "CONFIG",
    "REFUSED",
    "TRUST",
    "WEIGHTS",
    "ClassProblem",
    "RefusedModelError",
    "check_arrays",
    "check_keras_file",
    "check_weights_file",
    "find_class_problem",
    "models_are_trusted",
    "trusting_models",
]
