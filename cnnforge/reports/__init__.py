"""The report of a run: one web page, made from the files in the run directory."""
