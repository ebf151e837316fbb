"""Draw figures of training runs and of benchmarks as PNG files."""
