"""An assistant behind an endpoint: asked anything, answers read by whoever asks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Generic, TypeVar

from groundling.models.api.client import ApiClient
from groundling.models.api.pictures import PictureEncoder
from groundling.models.api.wire import Chat, with_pictures
from groundling.models.base import Question
from groundling.prompts import Message
from groundling.records import Failure, Frame
from groundling.replies import ReplyError

T = TypeVar("T")

MEND = (
    "That answer cannot be used: {reason}. Answer the same question again, in exactly the form "
    "that it asks for and with nothing else."
)
"""Ours: what a model is told whose answer cannot be read."""


class ApiAssistant:
    """Implements `models.base.Assistant`. Answers that can be read are kept in the cache."""

    def __init__(self, client: ApiClient, pictures: PictureEncoder) -> None:
        self._client, self._pictures = client, pictures
        self.name = client.config.model
        self.manner = json.dumps(client.config.deciding(), sort_keys=True)

    def ask(
        self, questions: Sequence[Question[T]], tries: int = 2
    ) -> Iterator[tuple[int, T | Failure]]:
        """See `models.base.Assistant`. Raises InputError for what every call would meet."""
        talks = [_Talk(question) for question in questions]
        places = list(range(len(talks)))
        for left in reversed(range(tries)):
            again = []
            chats = [partial(self._chat, talks[place]) for place in places]
            for index, answers in self._client.ask(chats):
                talk = talks[places[index]]
                answer = answers if isinstance(answers, Failure) else answers[0]
                if not isinstance(answer, Failure):
                    yield places[index], talk.question.read(answer.text, talk.frames)
                elif left and talk.complain():
                    again.append(places[index])
                else:
                    yield places[index], answer
            places = again

    def _chat(self, talk: _Talk[T]) -> Chat:
        """What to send next. Raises ImageError for a picture that cannot be read."""
        config = self._client.config
        encoded = [self._pictures.encode(path) for path in talk.question.pictures]
        talk.frames = [one.frame for one in encoded]
        asked = [*talk.question.messages(talk.frames), *talk.since]
        return Chat(
            with_pictures(asked, [one.uri for one in encoded], self._client.config.detail),
            config.temperature,
            talk.question.max_tokens,
            picture_tokens=sum(one.tokens for one in encoded),
            check=talk.fault,
            schema=talk.question.schema,
        )


class _Talk(Generic[T]):
    """A question, and what was said after it: answers that could not be read, and why."""

    def __init__(self, question: Question[T]) -> None:
        self.question = question
        self.frames: Sequence[Frame] = ()
        self.since: list[Message] = []
        self._unread: tuple[str, str] | None = None

    def fault(self, text: str) -> Failure | None:
        """What is wrong with an answer, if anything."""
        self._unread = None
        try:
            self.question.read(text, self.frames)
        except ValueError as fault:
            self._unread = (text, str(fault))
            kind = fault.kind if isinstance(fault, ReplyError) else "content"
            return Failure(str(fault), "answer", kind)
        return None

    def complain(self) -> bool:
        """Go on with the last answer and what is wrong with it; False where there was none."""
        if self._unread is None:
            return False
        (text, reason), self._unread = self._unread, None
        self.since += [_turn("assistant", text), _turn("user", MEND.format(reason=reason))]
        return True


def _turn(role: str, text: str) -> Message:
    return {"role": role, "content": [{"type": "text", "text": text}]}
