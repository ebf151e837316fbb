"""Define the classes of test cases and of checks.

Plugin manifests import this module, so it must not import Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from unittest import SkipTest

from cnnforge.errors import message_of, one_line, place_of


@dataclass(frozen=True, kw_only=True)
class LayerCase:
    """Arguments to make a layer with, the shape of its inputs, and the expected outputs.

    The checks change the batch and the sizes by themselves: 1, 2, odd and even ones, and sizes that
    are not known when a graph is built.

    Prefer small shapes whose dimensions all differ, so that swapped axes cause an error. In one
    case, give the weights two equal dimensions: if these two axes are swapped, values change but
    shapes do not.

    Args:
        arguments: Arguments of the constructor.
        input_shape: The shape of the inputs, the batch included.
        oracle: Function `oracle(layer, inputs, *weights) -> outputs` that computes the definition
            of the layer in NumPy, as simply as possible. All arrays are float64. It may read the
            attributes of `layer`; `weights` are the arrays of `layer.weights`. The outputs of the
            layer are compared with the oracle, and gradients with finite differences of the oracle.
        name: Lower-case words with hyphens, different for each case of a layer.
        bad_arguments: Names of arguments with a value that the layer must refuse. The error message
            must name the argument and the value.
        terms: K in the tolerance of `assert_close`: the number of products in one element of the
            outputs. By default the number of input values of one sample, since an element can
            depend on all of them.
        speed_shape: The shape of the inputs to measure the speed with; by default `input_shape`
            with a batch of 32. If the spec of the layer names no benchmarks, `benchmark_cases`
            measures the cases that have a `speed_shape`.
        grad_inputs: Whether the measured time of training includes the gradient of the inputs. The
            first layer of a model does not need this gradient.
        min_ratio: Number of times that the layer must be as fast as its reference, in the forward
            pass and with all gradients. The fixture `layer_benchmark` compares the measured ratios
            with it, and fails if one of them stays below it. By default nothing is promised.

    Raises:
        ValueError: `min_ratio` is not a number above 0.

    Example:
        ```python
        CASES = [
            LayerCase(
                arguments={"slope": 0.25},
                input_shape=(2, 4, 5, 3),
                oracle=lambda layer, inputs: np.maximum(inputs, layer.slope * inputs),
                bad_arguments={"slope": -1.0},
            )
        ]
        ```
    """

    arguments: Mapping[str, Any]
    input_shape: tuple[int, ...]
    oracle: Callable[..., Any] | None = None
    name: str = ""
    bad_arguments: Mapping[str, Any] = field(default_factory=dict)
    terms: int | None = None
    speed_shape: tuple[int, ...] | None = None
    grad_inputs: bool = True
    min_ratio: float | None = None

    def __post_init__(self) -> None:
        least: Any = self.min_ratio
        if least is None:
            return
        number = isinstance(least, int | float) and not isinstance(least, bool)
        if not number or not 0 < least < float("inf"):
            of = f" of the case {self.name!r}" if self.name else ""
            raise ValueError(f"min_ratio{of} is {least!r}, expected a number above 0, such as 1.3")


class NotRunError(SkipTest):
    """A check was not run: a check that it depends on has failed, or it says nothing here.

    It is a `unittest.SkipTest`, so pytest and unittest report a skipped test.
    """


class RepeatedError(NotRunError):
    """A check has failed, as the same check of an earlier case has; the cause is reported once."""


# The results of a check: passed, failed, failed as the same check of an earlier case, and not run.
OK, FAILED, REPEATED, NOT_RUN = "ok", "failed", "same", "not run"


@dataclass(frozen=True)
class Check:
    """A check of one property of a layer, a model or a dataset. Call the object to run the check.

    `str(check)` is the name of the check, the same in every process: `"values_oracle-strided"`.

    A check first runs the checks that it depends on, unless they have run. If one of them has
    failed, the check is not run. A check runs once; calling it again gives the same result.

    Attributes:
        kind: Name of the property, for example `"values_oracle"`.
        case: Name of the case; "" for a check of the whole layer.
        run: Function that runs the check alone. It returns a note, or "". It raises
            `AssertionError` if the check fails, and `NotRunError` if it can say nothing.
        after: Checks that must pass before this one can say anything.
        repeats: The checks of the same property for earlier cases. If one of them has failed, a
            failure of this check is most likely the same mistake.
    """

    kind: str
    case: str
    run: Callable[[], str] = field(repr=False)
    after: tuple[Check, ...] = field(default=(), repr=False)
    repeats: tuple[Check, ...] = field(default=(), repr=False)
    _result: list[tuple[str, str, BaseException | None]] = field(
        default_factory=list, repr=False, compare=False
    )

    def __str__(self) -> str:
        return f"{self.kind}-{self.case}" if self.case else self.kind

    def __call__(self) -> str:
        """Run the check.

        Returns:
            A short note about a check that passed; mostly "".

        Raises:
            AssertionError: The property does not hold. The message describes the error, and its
                cause if the check could find it.
            NotRunError: A check that this one depends on has failed, or this check fails as that
                of an earlier case does. The message names the other check. Or the functions of the
                layer are not compiled, which the check needs.
        """
        status, message = self.result()
        if status == OK:
            return message
        if status == FAILED:
            raise AssertionError(message) from self._result[0][2]
        raise (RepeatedError if status == REPEATED else NotRunError)(message)

    def result(self) -> tuple[str, str]:
        """Run the check, and return its result and a message instead of raising an error.

        Returns:
            The result is `"ok"`, `"failed"`, `"same"` (failed as that of an earlier case) or
            `"not run"`.
        """
        if not self._result:
            self._result.append(self._run())
        return self._result[0][:2]

    def alone(self) -> tuple[str, str]:
        """Run the check again without those that it depends on; see `result`."""
        status, message, _ = self._alone()
        return status, message

    def _run(self) -> tuple[str, str, BaseException | None]:
        for other in self.after:
            status, message = other.result()
            # A check that could not be run has an error; one that depends on a failed one has none.
            if status == NOT_RUN and other._result[0][2] is None:
                return NOT_RUN, message, None
            if status in (FAILED, REPEATED):
                return NOT_RUN, f"not run: {other} failed", None
        status, message, error = self._alone()
        earlier = [it for it in self.repeats if it._result and it._result[0][0] == FAILED]
        if status == FAILED and earlier:
            return REPEATED, f"fails too, as {earlier[0]}: {message}", error
        return status, message, error

    def _alone(self) -> tuple[str, str, BaseException | None]:
        try:
            return OK, self.run(), None
        except NotRunError as error:
            return NOT_RUN, message_of(error), error
        except AssertionError as error:
            message = message_of(error) if str(error).strip() else one_line(error)
            return FAILED, message, error
        except SystemExit as error:
            return FAILED, f"it ends the program: sys.exit({error.code!r}){place_of(error)}", error
        except Exception as error:
            return FAILED, one_line(error), error
