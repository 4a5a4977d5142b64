"""Running one case against one runtime."""

from __future__ import annotations

import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from conformance.outcome import Failed, Outcome, Skipped
from conformance.stage import open_stage

if TYPE_CHECKING:
    from conformance.registry import Case


def run_case(case: Case, name: str, command: str, parent: Path, number: int) -> Outcome:
    """Run a case on a stage of its own below `parent`, undo the stage. An error of the case itself is a failure too."""
    began = time.monotonic()
    stage = open_stage(name, command, parent, number)
    try:
        case(stage)
        verdict, reason = "passed", ""
    except Failed as error:
        verdict, reason = "failed", str(error)
    except Skipped as error:
        verdict, reason = "skipped", str(error)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        verdict, reason = "failed", f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
    finally:
        stage.close()
    return Outcome(verdict, reason, time.monotonic() - began)
