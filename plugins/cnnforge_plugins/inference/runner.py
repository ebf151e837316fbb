"""Open inference plans; this needs NumPy and Numba, and neither Keras nor TensorFlow."""

from __future__ import annotations

from pathlib import Path

from cnnforge_kernels.plan import Plan, provide_op, read


def open_plan(path: str | Path) -> Plan:
    """Open a plan that `cnnforge_plugins.inference.builder.build` wrote.

    Args:
        path: The file.

    Returns:
        An object with the attribute `image_shape`, (H, W, C), and the method `predict`, from images
        (N, H, W, C) of uint8 or float32 to the outputs of the model as NumPy arrays.

    Raises:
        OSError: The file does not exist or cannot be opened.
        ValueError: The file is damaged, is not a plan, has a newer format, or needs an op that no
            installed plugin has. The message is the reason.
    """
    program = read(path)
    for name in sorted({step.options["op"] for step in program.steps if step.kind == "op"}):
        # Imported here, because most plans have no op of another plugin.
        from cnnforge.ops import load_op

        provide_op(name, load_op(name).run)
    return Plan(program)
