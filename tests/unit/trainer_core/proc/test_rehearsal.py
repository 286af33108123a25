"""Real rehearsals, each in a process of its own: what they load, and that they leave no trace."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)
REPOSITORY = Path(__file__).parents[4]

LOOK = """
import json, os, sys
import numpy, torch
from trainer_core.enums import Step
numpy.random.seed(1); torch.manual_seed(1)
import trainer_core.rehearsal.without_devices as devices
if sys.argv[2] == "devices":
    devices.is_built_for_devices = lambda: True
    torch.autograd.backward = torch.Tensor.backward = None  # it would start a thread for each GPU, for good
environ = dict(os.environ)
from trainer_core.warm_main import rehearse_step
rehearsed = rehearse_step(Step(sys.argv[1]))
import torch.distributed
from accelerate.state import AcceleratorState, PartialState
seen = {
    "failure": rehearsed.failure,
    "moved": len(rehearsed.paths),
    "random": (float(numpy.random.rand()), torch.rand(()).item()),
    "environ": {name for name in os.environ if os.environ[name] != environ.get(name)} != set(),
    "accelerate": bool(AcceleratorState._shared_state or PartialState._shared_state),
    "files": [str(path) for path in __import__("pathlib").Path(os.environ["HOME"]).rglob("*") if path.is_file()],
    "has_bnb": "bitsandbytes" in sys.modules,
    "initialized": torch.cuda.is_initialized(),
}
rehearsed.paths.move("/owner")
import huggingface_hub.constants, transformers.dynamic_module_utils
seen["hub"] = huggingface_hub.constants.HF_HUB_CACHE
seen["modules"] = str(transformers.dynamic_module_utils.HF_MODULES_CACHE)
rehearsed.on_hand_over()
package = sys.modules.get("bitsandbytes", "not loaded")
seen["bnb"] = [name for name, module in list(sys.modules.items()) if vars(module).get("bnb") is package]
numpy.random.seed(1); torch.manual_seed(1)
seen["fresh"] = (float(numpy.random.rand()), torch.rand(()).item())
print("\\n" + json.dumps(seen))
"""


def look(step: str, kind: str, home: Path) -> dict:
    env = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "TORCHINDUCTOR_CACHE_DIR": str(home / "inductor"),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }
    argv = [sys.executable, "-P", "-c", LOOK, step, kind]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env, cwd="/", timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("step", "kind"), [("prepare", "cpu"), ("train", "cpu"), ("train", "devices")])
def test_a_rehearsal_leaves_no_trace(tmp_path: Path, step: str, kind: str) -> None:
    seen = look(step, kind, tmp_path)

    assert seen["failure"] is None
    assert seen["random"] == seen["fresh"], "the random states are those of before"
    assert not seen["environ"]
    assert not seen["accelerate"]
    assert seen["files"] == []
    assert not seen["initialized"]
    assert seen["moved"] > 10
    assert (seen["hub"], seen["modules"]) == ("/owner/hf/hub", "/owner/hf/modules")


@pytest.mark.slow
def test_where_there_may_be_gpus_bitsandbytes_is_loaded_when_they_are_known(tmp_path: Path) -> None:
    early, late = look("train", "cpu", tmp_path), look("train", "devices", tmp_path)

    assert (early["has_bnb"], late["has_bnb"]) == (True, False)
    # Of what is loaded by then; this one is when an adapter is made.
    assert set(early["bnb"]) - set(late["bnb"]) == {"peft.tuners.lora.bnb"}
    assert {"peft.helpers", "transformers.integrations.bitsandbytes"} <= set(late["bnb"])
