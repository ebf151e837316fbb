"""Write the trained model of a run for other programs, and prove the file there.

The file is run in a new process in which cnnforge cannot be imported. Its outputs are compared with
the reference predictions of the run and with those of Keras, and it gets its name only then.
"""
