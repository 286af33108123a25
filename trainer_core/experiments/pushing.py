"""The pushes of an experiment that runs in a script; in a job the pipeline pushes."""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer_core.config import Config
from trainer_core.config.hub_checks import find_hub_warnings
from trainer_core.context import StepContext, StepResult
from trainer_core.enums import Step
from trainer_core.errors import ConfigError, Problem, PushError
from trainer_core.hub.background import BackgroundPusher
from trainer_core.hub.card import CardKind
from trainer_core.hub.files import has_adapter
from trainer_core.hub.script import ScriptPusher, connect_script, connect_to
from trainer_core.hub.targets import PushTarget
from trainer_core.hub.uploading import PushedCommit
from trainer_core.models.adapter_files import name_base_model

if TYPE_CHECKING:
    from transformers import Trainer


class PushCallback(TrainerCallback):
    """Hands every checkpoint on, once it is whole. Add it after the callback that finishes checkpoints."""

    def __init__(self, background: BackgroundPusher) -> None:
        self._background = background

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Links the checkpoint, which may be deleted before it is pushed."""
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            self._background.submit(folder, global_step=state.global_step)


class HubPushing:
    """What an experiment pushes: checkpoints while it trains, its results at the end, and what a user asks for."""

    config: Config
    context: StepContext
    result: StepResult
    model: Any
    tokenizer: Any

    pushes_in_process = True
    """Whether `run()` pushes when the Config says so; in a job the pipeline does."""
    _hub_pusher: ScriptPusher | None = None
    _hub_background: BackgroundPusher | None = None

    @property
    def is_main_process(self) -> bool:
        """False on all ranks but the first."""
        raise NotImplementedError

    def push_to_hub(
        self,
        repo_id: str | None = None,
        private: bool | None = None,
        safe_serialization: bool | None = None,
        need_push_to_hub_bos_add_bos_token: bool | None = None,
    ) -> PushedCommit | None:
        """Pushes model or adapter and tokenizer as they are now; what is not given is as the Config says.

        None on all ranks but the first. Raises PushError, NetworkError; ValueError when there is no model.
        """
        if safe_serialization is False:
            message = "safe_serialization: weights are always saved as safetensors; leave it out"
            raise ConfigError([Problem(message, "save_safetensors", "invalid_value")])
        if self.model is None:
            raise ValueError("there is no model to push; call build() before push_to_hub()")
        if not self.is_main_process:
            return None
        pusher, target = self._connect_once(repo_id, private, need_push_to_hub_bos_add_bos_token)
        with tempfile.TemporaryDirectory(prefix="push-") as scratch:
            folder = Path(scratch) / "model"
            self.model.save_pretrained(folder)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(folder)
            else:
                message = "there is no tokenizer: the model is pushed without one"
                self.context.events.emit("warning", level="warning", message=message)
            name_base_model(folder, loaded_from=self.config.model_name_or_path, model_id=self.context.model_id)
            kind: CardKind = "adapter" if has_adapter(folder) else "model"
            return pusher.push(folder, target, kind=kind, events=self.context.events, facts=self.result.facts)

    def _connect_once(
        self, repo_id: str | None, private: bool | None, adds_bos: bool | None
    ) -> tuple[ScriptPusher, PushTarget]:
        config = self.config
        repository = repo_id or config.hub_model_id
        if repository is None:
            raise PushError(
                "repo_id: there is no repository to push to; give one, or set hub_model_id", param="repo_id"
            )
        is_private = config.hub_private_repo if private is None else private
        pusher = connect_to(config, [PushTarget(Step.TRAIN, repository, is_private, "hub_model_id")])
        if adds_bos is not None:
            pusher.sets_add_bos = adds_bos
        pusher.base_revision = self._find_base_revision()
        return pusher, pusher.targets[0]

    def _check_hub(self) -> None:
        """Makes sure, before anything is loaded, that the token may push what the Config says."""
        if not self.is_main_process:
            return
        for problem in find_hub_warnings(self.config):
            self.context.events.emit("warning", level="warning", message=problem.message, data={"param": problem.param})
        if not self.pushes_in_process:
            return
        steps = (Step.TRAIN, Step.FUSE) if self.config.fuse_after_training else (Step.TRAIN,)
        self._hub_pusher = connect_script(self.config, steps)

    def _attach_pushing(self, trainer: "Trainer") -> None:
        pusher = self._hub_pusher
        if pusher is None:
            return
        pusher.base_revision = self._find_base_revision()
        if pusher.find_target(Step.TRAIN) is not None:
            for leftover in Path(str(trainer.args.output_dir)).glob(".pushing-checkpoint-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            self._hub_background = BackgroundPusher(pusher, events=self.context.events)
            trainer.add_callback(PushCallback(self._hub_background))

    def _push_results(self) -> None:
        """Pushes what was saved. Raises PushError and NetworkError, after everything lies on the disk."""
        if self._hub_background is not None:
            self._hub_background.finish()
        if self._hub_pusher is not None:
            self.result = self._hub_pusher.push_result(self.result, events=self.context.events)

    def _find_base_revision(self) -> str | None:
        revision = getattr(getattr(self.model, "config", None), "_commit_hash", None)
        return revision if isinstance(revision, str) else None
