"""Work of several processes and of several machines. Nothing else in cnnforge imports Ray."""
