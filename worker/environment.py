"""The environment of a pipeline: what programs need, and nothing of the service's own secrets."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import trainer_core
from worker.tracing import trace_environment

_KEPT_NAMES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "VIRTUAL_ENV"),
        *("LD_LIBRARY_PATH", "LD_PRELOAD", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"),
        *("CC", "CXX", "MAX_JOBS"),
    }
)
_KEPT_PREFIXES = (
    *("LC_", "XDG_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "DATASETS_", "ACCELERATE_", "DEEPSPEED_", "DS_"),
    *("WANDB_", "MLFLOW_"),
    *("CUDA_", "NVIDIA_", "NCCL_", "GLOO_", "TORCH", "PYTORCH_", "TRITON_", "BNB_", "OMP_", "MKL_", "OPENBLAS_"),
)
_SECRET_WORDS = ("TOKEN", "SECRET", "PASSWORD", "API_KEY", "CREDENTIAL")


def build_pipeline_environment(
    environ: Mapping[str, str], *, gpus: Sequence[int], start_folder: Path
) -> dict[str, str]:
    """Returns the whole environment of a pipeline.

    A job sees the GPUs of its claim only, none when it has none. Modules are found as the worker finds them:
    `start_folder` is where the worker was started, and where an administrator's plugins may lie.
    """
    kept = {name: value for name, value in environ.items() if _is_kept(name)}
    return {
        # Threads that spin while they wait starve each other on a busy host: a step of a small model took 2,400 ms
        # beside one other process on two cores, and 150 to 300 ms with threads that sleep.
        "OMP_WAIT_POLICY": "PASSIVE",
        # MLflow is imported by DeepSpeed wherever it is installed, and would report its use to its makers.
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **kept,
        **trace_environment(),
        "PYTHONPATH": os.pathsep.join(_list_module_folders(environ, start_folder)),
        "PYTHONUNBUFFERED": "1",
        # The order that the worker's own list of GPUs has; CUDA's default is the fastest first.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(str(index) for index in gpus),
    }


def _is_kept(name: str) -> bool:
    if any(word in name.upper() for word in _SECRET_WORDS) and name != "TOKENIZERS_PARALLELISM":
        return False
    return name in _KEPT_NAMES or name.startswith(_KEPT_PREFIXES)


def _list_module_folders(environ: Mapping[str, str], start_folder: Path) -> list[str]:
    own_folder = Path(trainer_core.__file__).resolve().parents[1]
    given = [folder for folder in environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    # Installed, the folder is on the path anyway, and in front of it would shadow the standard library.
    own = [] if own_folder.name in ("site-packages", "dist-packages") else [str(own_folder)]
    return list(dict.fromkeys([*own, *given, str(start_folder)]))
