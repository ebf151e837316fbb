"""Compare trained networks with statistics, on samples that none of them was trained on."""
