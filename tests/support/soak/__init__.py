"""Interrupt and damage trainings at random for a time, and compare each with an undisturbed one.

`make soak MINUTES=60 SEED=0` runs this; docs/soak.md has a result.

    python -m soak FOLDER [--minutes 60] [--seed 0] [--jobs 1] [--table FILE.md]
"""
