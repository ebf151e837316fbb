"""Options of the commands whose work several workers share."""
