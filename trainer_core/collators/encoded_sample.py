"""One sample as tokens, and the rule by which a long one is cut."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class EncodedSample:
    """Tokens of one sample, not padded; both lists have one entry a token."""

    input_ids: list[int]
    is_target: list[bool]
    """Whether the token is learned, given all tokens before it. False at the first token: nothing is before it."""
    num_cut_tokens: int = 0
    """Tokens that did not fit into `max_length`."""
    is_without_prefix_end: bool = False
    """All of the last part is learned, because the text that was to end its prefix does not occur in it."""

    @property
    def num_targets(self) -> int:
        """How many tokens are learned."""
        return sum(self.is_target)


def encode_sample(input_ids: list[int], is_target: list[bool]) -> EncodedSample:
    """A sample of these tokens; its first token is no target."""
    return EncodedSample(input_ids=input_ids, is_target=[False, *is_target[1:]] if is_target else [])


def fit_to_length(sample: EncodedSample, *, max_length: int, num_leading: int) -> EncodedSample:
    """The sample, cut to `max_length` tokens so that it still teaches what it is for.

    What comes before the first target is context. The `num_leading` special tokens in front stay; the context loses
    its oldest tokens, though never so many that less than half of the room is left to it; then the end is cut. So a
    long history goes before the answer does, and a long answer keeps its start and its question.
    """
    num_tokens = len(sample.input_ids)
    if num_tokens <= max_length:
        return sample
    num_leading = min(num_leading, max_length)
    room = max_length - num_leading
    first_target = sample.is_target.index(True) if True in sample.is_target else num_tokens
    num_after_context = num_tokens - first_target
    num_context = min(max(first_target - num_leading, 0), max(room - num_after_context, room // 2))
    start = max(first_target - num_context, num_leading)
    kept = slice(start, start + room)
    shorter = encode_sample(
        sample.input_ids[:num_leading] + sample.input_ids[kept],
        sample.is_target[:num_leading] + sample.is_target[kept],
    )
    num_cut_tokens = num_tokens - len(shorter.input_ids)
    return replace(sample, input_ids=shorter.input_ids, is_target=shorter.is_target, num_cut_tokens=num_cut_tokens)
