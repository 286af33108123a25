"""The environment of a pipeline: what programs need, and nothing of the service's own secrets."""

import os
import site
from collections.abc import Mapping, Sequence
from pathlib import Path

import trainer_core
from app.settings import Settings
from trainer_core.shared_cache import SHARED_HUB_CACHE
from worker.owners import OwnerFolder
from worker.tracing import trace_environment

_KEPT_NAMES = frozenset(
    {
        *("PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR", "VIRTUAL_ENV"),
        *("LD_LIBRARY_PATH", "LD_PRELOAD", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"),
        *("CC", "CXX", "MAX_JOBS"),
    }
)
_KEPT_PREFIXES = (
    *("LC_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "DATASETS_", "ACCELERATE_", "DEEPSPEED_", "DS_"),
    *("WANDB_", "MLFLOW_"),
    *(
        "CUDA_",
        "NVIDIA_",
        "NCCL_",
        "GLOO_",
        "TORCH",
        "PYTORCH_",
        "TRITON_",
        "BNB_",
        "OMP_",
        "GOMP_",
        "MKL_",
        "OPENBLAS_",
    ),
)
_OWN_NAMES = frozenset(
    {
        *("HF_HOME", "HF_HUB_CACHE", "HF_XET_CACHE", "HF_ASSETS_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE"),
        *("TRANSFORMERS_CACHE", "DATASETS_CACHE", "WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"),
        *("TORCH_HOME", "TRITON_HOME", "CUDA_CACHE_PATH"),
    }
)
"""Folders: a job's are its owner's, never the worker's. What is fetched with one owner's token is not for another."""
_CACHES: Mapping[str, str] = {
    "HF_HOME": "huggingface",
    "TORCH_HOME": "torch",
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TRITON_CACHE_DIR": "triton",
    "CUDA_CACHE_PATH": "cuda",
    "NUMBA_CACHE_DIR": "numba",
    "MPLCONFIGDIR": "matplotlib",
    "WANDB_CACHE_DIR": "wandb",
    "WANDB_CONFIG_DIR": "wandb/config",
    "WANDB_DATA_DIR": "wandb/data",
}
"""Folders below the owner's cache, by variable."""
_SECRET_WORDS = ("TOKEN", "SECRET", "PASSWORD", "API_KEY", "CREDENTIAL")


def build_pipeline_environment(
    environ: Mapping[str, str],
    *,
    gpus: Sequence[int],
    start_folder: Path,
    owner: OwnerFolder,
    shared_hub_cache: Path | None = None,
) -> dict[str, str]:
    """Returns the whole environment of a pipeline: home and caches are the owner's.

    A job sees the GPUs of its claim only, none when it has none. Modules are found as the worker finds them:
    `start_folder` is where the worker was started, and where an administrator's plugins may lie.
    """
    kept = {name: value for name, value in environ.items() if _is_kept(name)}
    return {
        # Threads that spin for long while they wait starve each other on a busy host; ones that sleep at once are slow
        # on an idle one. Tokens a second of a small model on two cores, alone and beside a process that takes one of
        # them: asleep 9,100 and 6,300, libgomp's own way 11,000 and 3,700, so many turns 12,200 and 6,500.
        "GOMP_SPINCOUNT": "1000",
        # MLflow is imported by DeepSpeed wherever it is installed, and would report its use to its makers.
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **kept,
        **trace_environment(),
        **_name_home(owner),
        **({} if shared_hub_cache is None else {SHARED_HUB_CACHE: str(shared_hub_cache)}),
        "PYTHONPATH": os.pathsep.join(_list_module_folders(environ, start_folder)),
        "PYTHONUNBUFFERED": "1",
        # A folder that jobs write to must not be where their later processes find modules.
        "PYTHONNOUSERSITE": "1",
        # The order that the worker's own list of GPUs has; CUDA's default is the fastest first.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(str(index) for index in gpus),
    }


def build_probe_environment(settings: Settings, *, start_folder: Path) -> dict[str, str]:
    """Returns what a pipeline of nobody would get, to try whether one starts at all."""
    nobody = OwnerFolder(settings.data_dir / "owners" / "nobody")
    return build_pipeline_environment(os.environ, gpus=(), start_folder=start_folder, owner=nobody)


def _is_kept(name: str) -> bool:
    if any(word in name.upper() for word in _SECRET_WORDS) and name != "TOKENIZERS_PARALLELISM":
        return False
    if name in _OWN_NAMES or name in _CACHES:
        return False
    return name in _KEPT_NAMES or name.startswith(_KEPT_PREFIXES)


def _name_home(owner: OwnerFolder) -> dict[str, str]:
    return {
        "HOME": str(owner.home),
        # Libraries ask who they are, and a user that is a mere number has no name.
        "USER": "trainer",
        "LOGNAME": "trainer",
        "XDG_CACHE_HOME": str(owner.cache),
        "XDG_CONFIG_HOME": str(owner.home / ".config"),
        "XDG_DATA_HOME": str(owner.home / ".local" / "share"),
        **{name: str(owner.cache / folder) for name, folder in _CACHES.items()},
    }


def _list_module_folders(environ: Mapping[str, str], start_folder: Path) -> list[str]:
    own_folder = Path(trainer_core.__file__).resolve().parents[1]
    given = [folder for folder in environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    # Installed, the folder is on the path anyway, and in front of it would shadow the standard library.
    own = [] if own_folder.name in ("site-packages", "dist-packages") else [str(own_folder)]
    # What was installed for the worker's user alone is out of sight with another HOME.
    user_site = site.getusersitepackages()
    shared = [user_site] if site.ENABLE_USER_SITE and os.path.isdir(user_site) else []
    return list(dict.fromkeys([*own, *given, str(start_folder), *shared]))
