"""How a validator hands several problems at once through pydantic."""

from collections.abc import Sequence

from trainer_core.errors import Problem


class ProblemsFound(ValueError):
    """Raised inside a validator; `build_config` and `find_problems` take the problems out again."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = tuple(problems)
