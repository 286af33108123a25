"""What the app holds to be built in is what the trainer has."""

import json
import subprocess
import sys

from app.jobs.catalogue import BUILT_IN_REGISTRIES

SCRIPT = """
import importlib, json
from trainer_core.catalogue import COMPONENTS
from trainer_core.config import configs_registry
found = {
    name: getattr(importlib.import_module(f"trainer_core.{name}.registry"), f"{name}_registry").keys()
    for name in COMPONENTS
}
print(json.dumps({**found, "configs": configs_registry.keys()}))
"""


def test_the_built_in_keys_are_those_of_the_registries() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True)
    assert json.loads(done.stdout) == {name: sorted(keys) for name, keys in BUILT_IN_REGISTRIES.items()}
