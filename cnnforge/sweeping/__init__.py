"""Search the options of a training with Optuna, in trials that can be resumed."""
