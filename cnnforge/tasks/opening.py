"""Look up a task by name, and make it for a dataset or a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnnforge.data import Dataset
from cnnforge.errors import PluginError, UsageError
from cnnforge.plugin import DEFAULT_TASK, ModelSpec, TaskSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge.runs import RunDirectory
from cnnforge.tasks.metric import LOSS, RESERVED_NAMES, VALIDATION_PREFIX
from cnnforge.tasks.task import Task
from cnnforge.utils.names import as_argument


def load_task(spec: TaskSpec) -> type[Task]:
    """Import the class of the task that a plugin declares.

    Raises:
        PluginError: The target cannot be imported, or is not a subclass of `Task`.
    """
    task = spec.load()
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise PluginError(
            f"the task {spec.qualified_name!r} is {task!r}: its target must be a subclass of "
            "cnnforge.tasks.Task"
        )
    return task


def task_for(dataset: Dataset, tasks: Registry[TaskSpec], options: Mapping[str, Any]) -> Task:
    """Make the task for training on a dataset.

    Args:
        dataset: The dataset.
        tasks: Registry of the tasks that plugins declare.
        options: Task options that the user gave, by name.

    Raises:
        UsageError: The task is unknown, or does not accept an option.
        DataError: The samples have no targets for this task.
        PluginError: The task is not a valid task.
    """
    spec = tasks[dataset.task]
    task = load_task(spec)
    for name in options:
        if name not in task.options:
            taken = f"its options are {', '.join(task.options)}" if task.options else "leave it out"
            raise UsageError(
                f"{name} is not an option of the task {spec.name!r}, which {dataset.name} is for: "
                f"{taken}"
            )
    return _checked(task.for_dataset(dataset, options), spec)


def open_task(run: RunDirectory, tasks: Registry[TaskSpec]) -> Task:
    """Make the task for predicting with the model of a run.

    Args:
        run: The run. Runs of cnnforge 0.1 do not name a task; they are classifications.
        tasks: Registry of the tasks that plugins declare.

    Raises:
        UsageError: No plugin declares the task.
        RunError: A file is missing or damaged.
        PluginError: The task is not a valid task.
    """
    spec = tasks[task_of(run)]
    return _checked(load_task(spec).for_run(run), spec)


def _checked(task: Task, spec: TaskSpec) -> Task:
    """Return a task if the names of its metrics and sums are valid.

    Raises:
        PluginError: `LOSS` is missing, or a name is reserved or used twice.
    """
    about = f"the task {spec.qualified_name!r} has"
    if LOSS not in task.metrics:
        raise PluginError(f"{about} no loss: add cnnforge.tasks.LOSS to its metrics")
    names = [metric.name for metric in task.metrics]
    for kind, name in [
        *(("metric", name) for name in names),
        *(("sum", name) for name in task.sum_names),
    ]:
        if name in RESERVED_NAMES or name.startswith(VALIDATION_PREFIX):
            raise PluginError(
                f"{about} a {kind} named {name!r}: use another name; cnnforge itself uses "
                f"{', '.join(RESERVED_NAMES)}, and names that begin with {VALIDATION_PREFIX}"
            )
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise PluginError(f"{about} two metrics named {twice[0]!r}: rename one")
    return task


def task_of(run: RunDirectory) -> str:
    """Return the name of the task of a run."""
    return str(run.read_config()[1].get("task", DEFAULT_TASK))


def default_model(
    data: str, task: str, models: Registry[ModelSpec], tasks: Registry[TaskSpec]
) -> ModelSpec | None:
    """Find the model for a dataset if the user names none.

    Args:
        data: Name of the dataset for the error message.
        task: Name of the task of the dataset.
        models: Registry of all models.
        tasks: Registry of the tasks that plugins declare.

    Returns:
        The default model of the task, or the only model for it. `None` for a classification, whose
        model depends on the size of the images.

    Raises:
        UsageError: The task is unknown, or has no default model.
    """
    if tasks.same(task, DEFAULT_TASK):
        return None
    spec = tasks[task]
    if spec.default_model is not None:
        return models[f"{spec.plugin}/{spec.default_model}"]
    fitting = [model for model in models.values() if tasks.same(model.task, task)]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(map(models.shortest_name, fitting))
    choice = f"name one of its models ({names})" if names else "no model is for it"
    raise UsageError(
        f"{data} is for the task {tasks.shortest_name(spec)!r}: {choice}, as in cnnforge train "
        f"MODEL --data {as_argument(data)}"
    )


def check_match(
    model: ModelSpec,
    data: str,
    task: str,
    models: Registry[ModelSpec],
    tasks: Registry[TaskSpec],
) -> None:
    """Check that a model and a dataset have the same task.

    Args:
        model: The model.
        data: Name of the dataset for the error message.
        task: Name of the task of the dataset.
        models: Registry of all models. The error message suggests those for the dataset's task.
        tasks: Registry of the tasks that plugins declare.

    Raises:
        UsageError: The tasks differ, or one of them is unknown.
    """
    if tasks.same(task, model.task):
        return
    wanted, own = tasks[task], tasks[model.task]
    names = {tasks.shortest_name(wanted), wanted.qualified_name}
    others = [name for name in models.names() if models[name].task in names]
    choice = f"choose one of its models ({', '.join(others)})" if others else "no model is for it"
    raise UsageError(
        f"the model {model.name!r} is for the task {tasks.shortest_name(own)!r}, and {data} is for "
        f"{tasks.shortest_name(wanted)!r}: {choice}, or choose other data"
    )
