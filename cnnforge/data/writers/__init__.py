"""Write a dataset to files of another format; `convert.py` has the function for all of them."""
