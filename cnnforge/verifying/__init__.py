"""Check on a run of the user that training can be resumed and repeated, bit for bit.

The run is copied, and processes of their own train the copies for a few steps. The modules
`cnnforge.verifying.resuming` and `cnnforge.verifying.repeating` compare the results and import
neither Keras nor its backend, which the processes import.
"""
