"""Merging and writing tensor by tensor, by several threads at once."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from itertools import zip_longest
from math import prod
from pathlib import Path

import torch
from huggingface_hub import StateDictSplit, split_torch_state_dict_into_shards

from trainer_core.models.shard_fusing.merging import LayerMerge, count_merge_bytes
from trainer_core.models.shard_fusing.plan import ShardPlan
from trainer_core.models.shard_fusing.tensor_places import (
    TensorPlace,
    count_largest_file,
    create_file,
    read_tensor,
    write_tensor,
)

MAX_THREADS = 8
"""More do not read and write faster."""
_CHUNK_ELEMENTS = 8 * 2**20
_PATTERN = "model{suffix}.safetensors"

Task = Callable[[], None]


def choose_merge_device(plan: ShardPlan, *, wanted: str | None) -> torch.device:
    """The GPU if there is one with room, or the one that `wanted`, the Config's device_map, names; else the CPU."""
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device(wanted if wanted is not None and wanted.startswith("cuda") else "cuda")
    needed = MAX_THREADS * max((count_merge_bytes(plan, name, on_host=True) for name in plan.layers), default=0)
    free, _ = torch.cuda.mem_get_info(device)
    return device if needed < free else torch.device("cpu")


def save_fused_shards(folder: Path, *, plan: ShardPlan, max_shard_size: str, device: torch.device) -> None:
    """Writes the fused model's weights and settings into an empty folder, as transformers saves a whole model.

    Host memory stays below one of the base's files (or one layer's merge, if that is more) and the adapter. Raises
    FuseError for a merged weight that is not finite. What was written stays when it fails.
    """
    # Without weights it writes config.json and generation_config.json alone.
    plan.model.save_pretrained(folder, state_dict={})
    targets = _lay_out(plan, folder=folder, max_shard_size=max_shard_size)
    merges = [LayerMerge(plan, name, targets, device=device) for name in plan.layers]
    merged = {name for merge in merges for name in merge.names}
    tasks: dict[Path, list[Task]] = {target.path: [] for target in targets.values()}
    for merge in merges:
        tasks[targets[merge.names[0]].path].append(merge.run)
    for name, target in targets.items():
        if name not in merged:
            tasks[target.path] += _iterate_copies(plan, name, target)
    _run_all(_take_turns(tasks.values()), num_threads=_choose_num_threads(plan, device=device))


def _lay_out(plan: ShardPlan, *, folder: Path, max_shard_size: str) -> dict[str, TensorPlace]:
    """Creates the files with their headers, and the index if there are several."""
    weights = {name: torch.empty(place.shape, dtype=plan.dtype, device="meta") for name, place in plan.places.items()}
    split = split_torch_state_dict_into_shards(
        weights, filename_pattern=_PATTERN, max_shard_size=max_shard_size.replace(" ", "")
    )
    targets: dict[str, TensorPlace] = {}
    for file, names in split.filename_to_tensors.items():
        shapes = {name: plan.places[name].shape for name in names}
        targets |= create_file(folder / file, shapes=shapes, dtype=plan.dtype)
    if split.is_sharded:
        _write_index(split, folder=folder, num_parameters=plan.num_parameters)
    return targets


def _write_index(split: StateDictSplit, *, folder: Path, num_parameters: int) -> None:
    index = {
        "metadata": {"total_parameters": num_parameters, **split.metadata},
        "weight_map": split.tensor_to_filename,
    }
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _iterate_copies(plan: ShardPlan, name: str, target: TensorPlace) -> Iterator[Task]:
    """What is not merged goes in pieces, so that huge embeddings take no more memory than anything else."""
    num_elements = prod(target.shape)
    for first in range(0, num_elements, _CHUNK_ELEMENTS):
        count = min(_CHUNK_ELEMENTS, num_elements - first)
        if name in plan.replaced:
            yield partial(_write_chunk, plan.adapter[plan.replaced[name]], target, first=first, count=count)
        else:
            yield partial(_copy_chunk, plan.places[name], target, first=first, count=count)


def _copy_chunk(source: TensorPlace, target: TensorPlace, *, first: int, count: int) -> None:
    chunk = torch.empty(count, dtype=source.dtype)
    read_tensor(chunk, source, first_element=first)
    write_tensor(chunk.to(target.dtype), target, first_element=first)


def _write_chunk(weight: torch.Tensor, target: TensorPlace, *, first: int, count: int) -> None:
    chunk = weight.reshape(-1)[first : first + count]
    write_tensor(chunk.to(target.dtype), target, first_element=first)


def _take_turns(queues: Iterable[list[Task]]) -> list[Task]:
    """One task of each file, and again: writes to one file wait for each other, those to different files do not."""
    turns = zip_longest(*queues)
    return [task for turn in turns for task in turn if task is not None]


def _choose_num_threads(plan: ShardPlan, *, device: torch.device) -> int:
    """As many as keep to the memory of one of the base's files, at least one."""
    budget = count_largest_file(list(plan.places.values()))
    per_thread = max(
        (count_merge_bytes(plan, name, on_host=device.type == "cpu") for name in plan.layers),
        default=_CHUNK_ELEMENTS * plan.dtype.itemsize,
    )
    return max(1, min(MAX_THREADS, len(os.sched_getaffinity(0)), budget // per_thread))


def _run_all(tasks: list[Task], *, num_threads: int) -> None:
    """Runs every task; after the first that fails no other is begun, and its error is raised."""
    with ThreadPoolExecutor(num_threads, thread_name_prefix="fuse") as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    for future in futures:
        if not future.cancelled():
            future.result()
