"""`python -m trainer_core prepare|train|fuse|quantize|preview --flag value …`: one step, in this process."""

import difflib
import os
import sys
from collections.abc import Sequence

from trainer_core.cli import EXIT_WRONG_CONFIG, RUNNERS, cli_run_preview, printed_errors
from trainer_core.config import Config, Step, configs_registry
from trainer_core.plugins import load_plugins

USAGE = (
    "usage: python -m trainer_core {prepare,train,fuse,quantize} [--flag value …]; after a step --help lists them\n"
    "       python -m trainer_core preview --file rows.jsonl [--num_samples 3] [--json] [--flag value …]"
)
PREVIEW = "preview"
COMMANDS = (*Step, PREVIEW)


def main(arguments: Sequence[str]) -> int:
    """Runs the step that the first argument names; returns the exit status.

    Plugins of FINESMITH_PLUGINS and of the entry points are loaded first, `--config_key` chooses the Config class.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(f"{USAGE}\n")
        return 0 if arguments else EXIT_WRONG_CONFIG
    if arguments[0] not in COMMANDS:
        nearest = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
        hint = f"; did you mean {str(nearest[0])!r}?" if nearest else ""
        sys.stderr.write(f"error: there is no step {arguments[0]!r}{hint}\n{USAGE}\n")
        return EXIT_WRONG_CONFIG
    with printed_errors():
        load_plugins(os.environ.get("FINESMITH_PLUGINS"))
        config_cls = _find_config_class(arguments[1:])
    sys.argv = [f"python -m trainer_core {arguments[0]}", *arguments[1:]]
    run = cli_run_preview if arguments[0] == PREVIEW else RUNNERS[Step(arguments[0])]
    run(config_cls)
    return 0


def _find_config_class(arguments: Sequence[str]) -> type[Config]:
    """The registered class of `--config_key`; it decides which flags there are, so that it is read before them."""
    for position, argument in enumerate(arguments):
        name, separator, value = argument.partition("=")
        if name in ("--config_key", "--config-key"):
            following = arguments[position + 1] if position + 1 < len(arguments) else ""
            return configs_registry.get(value if separator else following)
    return Config


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
