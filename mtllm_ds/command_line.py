"""How every launcher ends: its exit status, and one line on stderr for a mistake of the user."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable

from mtllm_ds.errors import PeerFailedError, UnsoundStepError, UserError


def run_and_exit(main: Callable[[], int]) -> None:
    """Run `main` and end the process with its status.

    After a failure the process ends at once: peers may be inside a collective that will never finish.
    """
    try:
        status = main()
    except (UserError, UnsoundStepError) as error:
        if _speaks():
            print(f"error: {error}", file=sys.stderr)
        status = error.exit_status
    except PeerFailedError as error:
        status = error.exit_status
    except KeyboardInterrupt:
        status = 130
    except Exception:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if status:
        os._exit(status)
    sys.exit(0)


def _speaks() -> bool:
    """Does this rank print a mistake? Once ranks are joined, only the one they agreed on gets here; before, one a node."""
    distributed = sys.modules.get("torch.distributed")
    joined = distributed is not None and distributed.is_initialized()
    return joined or os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"


def quiet_libraries() -> None:
    """Keep transformers and DeepSpeed to what a user can act on, so that what is printed is ours."""
    warnings.simplefilter("ignore", FutureWarning)  # of one library to another
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
