"""Check the files of a model before Keras, HDF5 or NumPy read them.

A model file may come from a stranger. Keras itself refuses most files that contain code, but not
all that fill the memory, and it changes with each version. So only what this package knows is
opened: the members of a `.keras` file, their sizes, the classes that its configuration names, and
the kinds of objects in its weights. HDF5 reads the weights in another process first. Only the
module `classes` imports Keras, and only `hdf5` imports h5py.
"""
