"""Compile Numba functions with calls of the hooks in `hooks.py`, without Numba's disk cache.

Numba has a bounds check of its own, which names neither the array nor the place, and which reads
code from the disk cache that was compiled without it. Here some functions of Numba's code generator
are replaced while a function is compiled. The replacements act only on code that is compiled with
`boundscheck=True`, so that all other code stays as it is. They belong to Numba's private API. If
one is missing in another version of Numba, no function is instrumented, and `entry_of` says why.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import CellType, FunctionType
from typing import Any
from unittest import mock

import numba
from llvmlite import ir as llvm
from numba.core import cgutils, lowering, types
from numba.core import ir as numba_ir
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import Dispatcher
from numba.core.registry import cpu_target
from numba.np import arrayobj
from numba.parfors import parfor_lowering

from cnnforge.ops.audit import hooks
from cnnforge.ops.audit.sites import Site, sites

_WORD = llvm.IntType(64)
_PARALLEL = "__numba_parfor_gufunc"
_GENERATED = "<string>"
# Functions of these packages are not compiled again: they use addresses instead of arrays, or are
# tested where they are defined.
_KEPT = ("numba", "cnnforge_kernels")

# Functions and methods that return new memory.
_ALLOCATE = (
    *("empty", "zeros", "ones", "full", "empty_like", "zeros_like", "ones_like", "full_like"),
    *("array", "arange", "linspace", "copy", "astype", "flatten", "concatenate", "stack", "pad"),
)

RECURSION = "calls itself too often"
TOO_LONG = "does not end"

_place: list[Site] = [Site("", "", 0, "")]
_loop: list[bool] = [False]
_author: list[str] = [""]
# The arrays that Numba gives to each thread and adds up after the loop that is being compiled.
_sums: list[frozenset[str]] = [frozenset()]
_axes: list[Iterator[int]] = []
_internal: dict[Any, Any] = {}


def traced(function: Dispatcher) -> Dispatcher:
    """Return a copy of a function, to be compiled within `compiling`; copy what it calls, too."""
    return _copy(function, {})


def can_copy(function: Dispatcher) -> bool:
    """Return whether the function can be compiled again with hooks."""
    return function.py_func.__module__.partition(".")[0] not in _KEPT


def _copy(function: Dispatcher, made: dict[int, Dispatcher]) -> Dispatcher:
    if id(function) in made:
        return made[id(function)]
    source = function.py_func
    if not can_copy(function):
        return function
    options = {**function.targetoptions, "boundscheck": True}
    options.pop("nopython", None)
    variables = dict(source.__globals__)
    cells = tuple(CellType() for _ in source.__closure__ or ())
    code = FunctionType(source.__code__, variables, source.__name__, source.__defaults__, cells)
    code.__kwdefaults__ = source.__kwdefaults__
    code.__qualname__, code.__module__ = source.__qualname__, source.__module__
    found = made[id(function)] = numba.njit(**options)(code)
    for name in source.__code__.co_names:
        if isinstance(variables.get(name), Dispatcher):
            variables[name] = _copy(variables[name], made)
    for cell, old in zip(cells, source.__closure__ or (), strict=True):
        value = old.cell_contents
        cell.cell_contents = _copy(value, made) if isinstance(value, Dispatcher) else value
    return found


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Compile instrumented code within the context."""
    hooks.addresses()
    replaced = [
        mock.patch.object(lowering.Lower, "lower_inst", _lower_inst),
        mock.patch.object(lowering.Lower, "extract_function_arguments", _arguments),
        mock.patch.object(cgutils, "get_item_pointer2", _get_item_pointer2),
        mock.patch.object(cgutils, "do_boundscheck", _do_nothing),
        mock.patch.object(arrayobj, "basic_indexing", _basic_indexing),
        mock.patch.object(arrayobj, "fix_integer_index", _fix_integer_index),
        mock.patch.object(arrayobj, "load_item", _load_item),
        mock.patch.object(arrayobj, "store_item", _store_item),
        mock.patch.object(lowering.Lower, "lower_call", _lower_call),
        mock.patch.object(parfor_lowering, "call_parallel_gufunc", _parallel),
        mock.patch.object(parfor_lowering, "_create_gufunc_for_parfor_body", _parallel_body),
        # Numba keeps small functions that it has compiled here. Those with hooks stay apart.
        mock.patch.object(cpu_target.target_context, "cached_internal_func", _internal),
    ]
    with global_compiler_lock, contextlib.ExitStack() as stack:
        for each in replaced:
            stack.enter_context(each)
        yield


_numba: dict[str, Any] = {
    each: getattr(owner, each, None)
    for owner, each in (
        (lowering.Lower, "lower_inst"),
        (lowering.Lower, "extract_function_arguments"),
        (lowering.Lower, "lower_call"),
        (cgutils, "get_item_pointer2"),
        (arrayobj, "basic_indexing"),
        (arrayobj, "fix_integer_index"),
        (arrayobj, "load_item"),
        (arrayobj, "store_item"),
        (parfor_lowering, "call_parallel_gufunc"),
        (parfor_lowering, "_create_gufunc_for_parfor_body"),
    )
}


def _call(builder: Any, hook: str, *values: Any) -> Any:
    """Emit a call of a hook; an `int` becomes a constant."""
    words = [llvm.Constant(_WORD, it) if isinstance(it, int) else it for it in values]
    kind = llvm.FunctionType(_WORD, [_WORD] * len(words)).as_pointer()
    address = builder.inttoptr(llvm.Constant(_WORD, hooks.addresses()[hook]), kind)
    return builder.call(address, words)


_STATE = hooks.state.ctypes.data
_TABLE = hooks.table.ctypes.data


def _lower_inst(self: Any, inst: Any) -> None:
    if not self.context.enable_boundscheck:
        _numba["lower_inst"](self, inst)
        return
    before = _place[0], _loop[0]
    name = ""
    if isinstance(inst, numba_ir.SetItem | numba_ir.StaticSetItem):
        name = inst.target.name
    elif getattr(getattr(inst, "value", None), "op", "") in ("getitem", "static_getitem"):
        name = inst.value.value.name
    name = name.partition(".")[0]
    function = self.func_ir.func_id.func_name
    inside = function.startswith(_PARALLEL)
    _loop[0] = inside and name == "sched"
    if inside:
        # Numba compiles the body of a parallel loop as a function, with other names.
        function, name = _author[0], name.replace("__", "_")
    _place[0] = Site(function, inst.loc.filename, inst.loc.line, name)
    if _goes_back(self, inst):
        again = _call(self.builder, "again", _STATE)
        _raise_if_stopped(self.context, self.builder, again, TimeoutError, TOO_LONG)
    try:
        _numba["lower_inst"](self, inst)
    finally:
        _place[0], _loop[0] = before


def _goes_back(self: Any, inst: Any) -> bool:
    """Return whether an instruction may begin another iteration of a loop."""
    if isinstance(inst, numba_ir.Jump):
        targets = [inst.target]
    elif isinstance(inst, numba_ir.Branch):
        targets = [inst.truebr, inst.falsebr]
    else:
        return False
    here = next((it for it, block in self.blocks.items() if block.body[-1] is inst), None)
    return here is None or min(targets) <= here


def _arguments(self: Any) -> Any:
    found = _numba["extract_function_arguments"](self)
    if self.context.enable_boundscheck:
        here = self.builder.ptrtoint(self.builder.alloca(llvm.IntType(8)), _WORD)
        result = _call(self.builder, "enter", _STATE, here)
        _raise_if_stopped(self.context, self.builder, result, RecursionError, RECURSION)
    return found


def _raise_if_stopped(context: Any, builder: Any, result: Any, kind: Any, message: str) -> None:
    stopped = builder.icmp_signed("!=", result, llvm.Constant(_WORD, 0))
    with cgutils.if_unlikely(builder, stopped):
        context.call_conv.return_user_exc(builder, kind, (message,))


def _checked(builder: Any, index: Any, given: Any, size: Any, axis: int) -> Any:
    """Emit the check of an index, and return an index that is inside of the array."""
    if isinstance(given, llvm.Constant):
        # The author has written a negative number on purpose.
        given = index
    return _call(builder, "index", _STATE, index, given, size, axis, sites.number(_place[0]))


def _do_nothing(*values: Any) -> None:
    pass


def _get_item_pointer2(
    context: Any,
    builder: Any,
    data: Any,
    shape: Any,
    strides: Any,
    layout: Any,
    inds: Any,
    wraparound: bool = False,
    boundscheck: bool = False,
) -> Any:
    if boundscheck:
        indices = []
        for axis, (given, size) in enumerate(zip(inds, shape, strict=True)):
            index = given
            if wraparound:
                negative = builder.icmp_signed("<", given, given.type(0))
                index = builder.select(negative, builder.add(size, given), given)
            indices.append(_checked(builder, index, given, size, axis))
        inds, wraparound = indices, False
    return _numba["get_item_pointer2"](
        context, builder, data, shape, strides, layout, inds, wraparound, False
    )


def _basic_indexing(
    context: Any,
    builder: Any,
    aryty: Any,
    ary: Any,
    index_types: Any,
    indices: Any,
    boundscheck: Any = None,
) -> Any:
    axes, axis = [], 0
    for kind in index_types:
        if kind is types.ellipsis:
            axis += aryty.ndim - len(index_types) + 1
            continue
        if kind is types.none:
            continue
        if isinstance(kind, types.Integer):
            axes.append(axis)
        axis += 1
    _axes.append(iter(axes))
    try:
        return _numba["basic_indexing"](
            context, builder, aryty, ary, index_types, indices, boundscheck
        )
    finally:
        _axes.pop()


def _fix_integer_index(context: Any, builder: Any, idxty: Any, idx: Any, size: Any) -> Any:
    index = _numba["fix_integer_index"](context, builder, idxty, idx, size)
    if not context.enable_boundscheck:
        return index
    kind = types.intp if idxty.signed else types.uintp
    given = idx if isinstance(idx, llvm.Constant) else context.cast(builder, idx, idxty, kind)
    axis = next(_axes[-1], 0) if _axes else 0
    return _checked(builder, index, given, size, axis)


def _note_access(context: Any, builder: Any, pointer: Any, write: int) -> None:
    place = _place[0]
    if place.file == _GENERATED or place.array in _sums[0]:
        return
    address = builder.ptrtoint(pointer, _WORD)
    number = sites.number(place)
    result = _call(builder, "access", _STATE, _TABLE, address, write, number)
    _raise_if_stopped(context, builder, result, TimeoutError, TOO_LONG)


def _load_item(context: Any, builder: Any, arrayty: Any, ptr: Any) -> Any:
    if not context.enable_boundscheck:
        return _numba["load_item"](context, builder, arrayty, ptr)
    if _loop[0]:
        # Each iteration begins with a look at its share of the loop.
        value = _numba["load_item"](context, builder, arrayty, ptr)
        _call(builder, "iteration", _STATE, value)
        return value
    _note_access(context, builder, ptr, 0)
    return _numba["load_item"](context, builder, arrayty, ptr)


def _store_item(context: Any, builder: Any, arrayty: Any, val: Any, ptr: Any) -> Any:
    if context.enable_boundscheck:
        _note_access(context, builder, ptr, 1)
    return _numba["store_item"](context, builder, arrayty, val, ptr)


def _lower_call(self: Any, resty: Any, expr: Any) -> Any:
    found = _numba["lower_call"](self, resty, expr)
    if self.context.enable_boundscheck and isinstance(resty, types.Array):
        function = self.typeof(expr.func.name)
        name = getattr(getattr(function, "typing_key", None), "__name__", "")
        if isinstance(function, types.BoundFunction):
            name = function.typing_key.rpartition(".")[2]
        if name in _ALLOCATE:
            array = arrayobj.make_array(resty)(self.context, self.builder, found)
            step = arrayobj.get_itemsize(self.context, resty)
            size = self.builder.mul(array.nitems, llvm.Constant(_WORD, step))
            address = self.builder.ptrtoint(array.data, _WORD)
            _call(self.builder, "forget", _STATE, _TABLE, address, size, step)
    return found


def _parallel_body(lowerer: Any, parfor: Any, *values: Any, **options: Any) -> Any:
    before = _author[0], _sums[0]
    _author[0] = lowerer.func_ir.func_id.func_name
    _sums[0] = frozenset(name.partition(".")[0] for name in parfor.redvars or ())
    try:
        return _numba["_create_gufunc_for_parfor_body"](lowerer, parfor, *values, **options)
    finally:
        _author[0], _sums[0] = before


def _parallel(lowerer: Any, *values: Any, **options: Any) -> Any:
    instrumented = lowerer.context.enable_boundscheck
    if instrumented:
        _call(lowerer.builder, "region", _STATE, 1)
    found = _numba["call_parallel_gufunc"](lowerer, *values, **options)
    if instrumented:
        _call(lowerer.builder, "region", _STATE, 0)
    return found
