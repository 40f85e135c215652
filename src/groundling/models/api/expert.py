"""An expert behind an endpoint: describes what a green box marks (ISR §3.2, prompt A.1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from groundling.models.api.client import Answers, ApiClient
from groundling.models.api.pictures import PictureEncoder
from groundling.models.api.wire import Chat, with_pictures
from groundling.prompts import expert_messages
from groundling.records import Box, Expression, Failure, is_absent
from groundling.replies import ReplyError, read_expression


class ApiExpert:
    """Writes one referring expression for a box of a picture; `source` is `expert:MODEL`."""

    def __init__(self, client: ApiClient, pictures: PictureEncoder) -> None:
        self._client, self._pictures = client, pictures
        self.source = f"expert:{client.config.model}"

    def describe(
        self, marked: Sequence[tuple[str, Box]]
    ) -> Iterator[tuple[int, Expression | Failure]]:
        """One expression for each (picture path, box in original pixels), as they come in.

        Raises InputError for what every call would meet.
        """
        chats = [partial(self._chat, image, box) for image, box in marked]
        for place, answers in self._client.ask(chats):
            yield place, self._expression(answers)

    def _chat(self, image: str, box: Box) -> Chat:
        config, picture = self._client.config, self._pictures.encode(image, box)
        messages = with_pictures(expert_messages(), [picture.uri], self._client.config.detail)
        return Chat(
            messages,
            config.temperature,
            config.max_tokens,
            picture_tokens=picture.tokens,
            check=_complaint,
        )

    def _expression(self, answers: Answers | Failure) -> Expression | Failure:
        answer = answers if isinstance(answers, Failure) else answers[0]
        if isinstance(answer, Failure):
            return answer
        return Expression(read_expression(answer.text), self.source)


def _complaint(text: str) -> Failure | None:
    """What is wrong with a description of a region that is marked, and so is there."""
    try:
        said = read_expression(text)
    except ReplyError as fault:
        return fault.failure("answer")
    if is_absent(said):
        return Failure("says that a marked entity does not appear", "answer", "absent")
    return None
