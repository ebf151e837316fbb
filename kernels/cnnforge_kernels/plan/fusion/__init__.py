"""Merge the steps of a program, so that fewer of them read and write memory."""

from __future__ import annotations

from cnnforge_kernels.plan.fusion import epilogues, inputs, normalization, paddings, repeated
from cnnforge_kernels.plan.fusion.graph import Graph
from cnnforge_kernels.plan.program import Program

# Earlier rules are tried first.
_RULES = (
    *repeated.RULES,
    *inputs.RULES,
    *normalization.RULES,
    *paddings.RULES,
    *epilogues.RULES,
)
# Rules that must not come before others that need the step which they merge.
_LAST_RULES = (*_RULES, *epilogues.LAST_RULES)


def optimize(program: Program) -> Program:
    """Return a program that computes the same with fewer steps.

    Scales and offsets are folded into weights or into the conversion of the images. Activations,
    additions and pools become part of the convolutions before them, and padding becomes part of the
    convolutions and pools after it. Rounding differs; the values are otherwise those of the
    program.

    Args:
        program: The program. It stays as it is.
    """
    graph = Graph(program)
    for rules in (_RULES, _LAST_RULES):
        while _apply(graph, rules):
            pass
    return graph.program()


def _apply(graph: Graph, rules: tuple) -> bool:
    """Try all rules on all steps once, and say whether one changed the graph."""
    changed = False
    for name in list(graph.steps):
        while name in graph.steps and any(rule(graph, graph.steps[name]) for rule in rules):
            changed = True
    return changed
