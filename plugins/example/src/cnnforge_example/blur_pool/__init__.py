"""`BlurPool2D`: pooling after a blur."""
