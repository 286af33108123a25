"""The collator of conversations."""

from collections.abc import Sequence
from typing import Any, ClassVar

from trainer_core.collators.encoded_sample import EncodedSample, encode_sample
from trainer_core.collators.sample_error import SampleError
from trainer_core.collators.token_collator import TokenCollator
from trainer_core.errors import DataError
from trainer_core.tokenizers.chat_rendering import ChatRenderer
from trainer_core.tokenizers.messages import NoTargetError
from trainer_core.types import RawSample


class ChatCollator(TokenCollator):
    """Renders `messages` by the chat template and learns what the assistant says, its calls, and its end of turn.

    An assistant message with `weight` 0 is context only. The template is also given the sample's `tools` (or older
    `functions`), its `documents`, and whatever other key it knows, alone or in `chat_template_kwargs`.
    """

    default_must_have_keys: ClassVar[tuple[str, ...]] = ("messages",)
    gives_same_tokens: ClassVar[bool] = True

    def __init__(
        self,
        tokenizer: Any,
        max_length: int,
        *,
        must_have_keys: Sequence[str] | None = None,
        batch_must_have_keys: Sequence[str] | None = None,
    ) -> None:
        """There is no separator: the template separates. Raises ModelLoadError for a tokenizer without a template."""
        super().__init__(
            tokenizer, max_length, must_have_keys=must_have_keys, batch_must_have_keys=batch_must_have_keys
        )
        self._renderer = ChatRenderer(tokenizer)

    def encode_whole(self, raw_batch: Sequence[RawSample]) -> list[tuple[EncodedSample, int]]:
        """The tokens of `apply_chat_template`, with a mask of what is learned."""
        encoded = []
        for position, sample in enumerate(raw_batch):
            try:
                others = {key: value for key, value in sample.items() if key != "messages"}
                chat = self._renderer.render(sample["messages"], others)
            except DataError as error:
                is_without_target = isinstance(error, NoTargetError)
                raise SampleError(error.message, position=position, is_without_target=is_without_target) from error
            starts_with_bos = bool(chat.input_ids) and chat.input_ids[0] == self.tokenizer.bos_token_id
            encoded.append((encode_sample(chat.input_ids, chat.is_target), int(starts_with_bos)))
        return encoded
