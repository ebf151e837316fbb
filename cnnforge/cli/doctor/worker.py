"""A process that trains copies of a run for `cnnforge doctor`.

It reads a request from stdin, a JSON object in one line, and writes the answer on stdout; see
`cnnforge.verifying.trials.answer`. If stdin ends, the command is gone, and this process ends.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from cnnforge.cli._streams import answers_of_worker
from cnnforge.errors import CnnforgeError, one_line


def main() -> None:
    """Answer one request."""
    answers = answers_of_worker()
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    json.dump(answer_to(request), answers)
    answers.flush()
    # Without freeing the backend, which takes seconds.
    os._exit(0)


def answer_to(request: dict[str, Any]) -> dict[str, Any]:
    """Import Keras, and answer a request.

    Args:
        request: See `cnnforge.verifying.trials.answer`.
    """
    from cnnforge.cli._common import load_plugins
    from cnnforge.cli._import_keras import import_keras

    try:
        import_keras()
        from cnnforge.verifying.trials import answer

        return answer(request, load_plugins)
    except CnnforgeError as error:
        return {"error": str(error), "code": error.exit_code}
    except Exception as error:
        import traceback

        traceback.print_exc()
        return {"error": one_line(error), "code": 1}


def _end_with_stdin() -> None:
    while sys.stdin.buffer.read(1):
        continue
    os._exit(1)


if __name__ == "__main__":
    main()
