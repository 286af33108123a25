"""A quantized base that lies on the Hub, read through a local one by the real client."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.fake_hub import FakeHub

SCRIPT = """
import json
from trainer_core.config import build_config
from trainer_core.errors import ModelLoadError
from trainer_core.models.loading import LoadingChoices, load_model
from trainer_core.models.packed.loading import find_packed_layers
answers = []
for name in ("acme/packed", "acme/of-2023", "acme/none"):
    config = build_config({"model_name_or_path": name, "from_gptq": True, "apply_lora": True})
    try:
        model = load_model(config, choices=LoadingChoices(for_training=True))
        answers.append([len(find_packed_layers(model)), model.config.name_or_path])
    except ModelLoadError as error:
        answers.append([error.param, error.message])
print(json.dumps(answers))
"""


def test_a_quantized_model_comes_from_the_hub_in_either_of_its_ways_to_say_so(gptq_llama, tmp_path) -> None:
    files = {path.name: path.read_bytes() for path in gptq_llama.iterdir()}
    config = json.loads(files["config.json"])
    settings = config.pop("quantization_config")
    del settings["quant_method"]
    # The first tools wrote no word of it into config.json.
    old = {"config.json": json.dumps(config).encode(), "quantize_config.json": json.dumps(settings).encode()}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    with FakeHub() as hub:
        hub.add_commit("acme/packed", files)
        hub.add_commit("acme/of-2023", files | old)
        root = str(Path(__file__).parents[4])
        own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "PYTHONPATH": root, "HF_HUB_DISABLE_XET": "1"}
        finished = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment | own, capture_output=True, text=True, check=False
        )
    assert finished.returncode == 0, finished.stderr[-2000:]
    packed, old_kind, none = json.loads(finished.stdout.splitlines()[-1])
    assert packed == [7, "acme/packed"]
    assert old_kind == [7, "acme/of-2023"]
    assert none[0] == "model_name_or_path"
    assert "acme/none" in none[1]
