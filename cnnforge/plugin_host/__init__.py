"""Finding, loading and listing plugins."""
