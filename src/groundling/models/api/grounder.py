"""A direct grounder behind an endpoint: entity in, box or absent out (ISR Table 1, prompt A.3)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from groundling.models.api.client import ApiClient
from groundling.models.api.pictures import PictureEncoder
from groundling.models.api.wire import Chat, with_pictures
from groundling.models.box_text import BoxText
from groundling.models.coordinates import Convention, Frame
from groundling.prompts import BOX_SCHEMA, BOX_SCHEMA_FORM, box_form, direct_messages
from groundling.records import ABSENT, Box, Failure, Prediction, Query
from groundling.strict_json import parse_json


class ApiDirectGrounder:
    """Answers an entity query with a box or with "absent", as end-to-end baselines do."""

    def __init__(self, client: ApiClient, pictures: PictureEncoder) -> None:
        self._client, self._pictures = client, pictures
        self._words = BoxText(client.config.answer, Convention(client.config.convention))
        self._held = client.manner.json_schema and client.config.answer == "list"

    def answer(self, queries: Sequence[Query]) -> Iterator[tuple[int, Prediction | Failure]]:
        """A prediction for each query, as they come in; `box` None says absent.

        Raises InputError for what every call would meet.
        """
        frames: dict[int, Frame] = {}
        chats = [partial(self._chat, place, query, frames) for place, query in enumerate(queries)]
        for place, answers in self._client.ask(chats):
            answer = answers if isinstance(answers, Failure) else answers[0]
            found = (
                answer if isinstance(answer, Failure) else self._read(answer.text, frames[place])
            )
            if isinstance(found, Failure):
                yield place, found
            else:
                query = queries[place]
                yield place, Prediction(query.name, query.type, found)

    def _read(self, text: str, frame: Frame) -> Box | Failure | None:
        """What a text says. One in another form is a failure that another call may mend."""
        found = self._words.read(_unpacked(text) if self._held else text, frame)
        return replace(found, stage="answer") if isinstance(found, Failure) else found

    def _chat(self, place: int, query: Query, frames: dict[int, Frame]) -> Chat:
        config, picture = self._client.config, self._pictures.encode(query.image)
        frames[place] = picture.frame

        def complaint(text: str) -> Failure | None:
            found = self._read(text, picture.frame)
            return found if isinstance(found, Failure) else None

        messages = direct_messages(query.name, query.type)
        if config.answer == "list":
            full = self._words.convention.scale(picture.frame)
            form = box_form(*full) + (BOX_SCHEMA_FORM if self._held else "")
            messages[-1]["content"].append({"type": "text", "text": form})
        return Chat(
            with_pictures(messages, [picture.uri], self._client.config.detail),
            config.temperature,
            config.max_tokens,
            picture_tokens=picture.tokens,
            check=complaint,
            schema=BOX_SCHEMA if self._held else None,
        )


def _unpacked(text: str) -> str:
    """An answer that fits BOX_SCHEMA in the words of one that is not held to it; others as is."""
    try:
        value = parse_json(text.encode())
    except ValueError:
        return text
    if not isinstance(value, dict) or value.keys() != {"box"}:
        return text
    return ABSENT if value["box"] is None else json.dumps(value["box"])
