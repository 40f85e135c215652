"""A writer behind an endpoint: samples expressions with prompt A.2, and is never trained here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from groundling.errors import ImageError, InputError
from groundling.models.api.client import Answers, ApiClient
from groundling.models.api.pictures import PictureEncoder
from groundling.models.api.wire import Chat, with_pictures
from groundling.models.base import Sampling
from groundling.prompts import writer_messages
from groundling.records import Expression, Failure, Query

_LOG = logging.getLogger(__name__)


class ApiWriter:
    """The sampling half of a writer: `prepare`, `sample` and `knows`, as in `models.base.Writer`.

    Draws repeat with the seed as far as the server keeps its own promise; answers found in the
    cache repeat always.
    """

    def __init__(self, client: ApiClient, pictures: PictureEncoder) -> None:
        self._client, self._pictures = client, pictures

    def prepare(self, images: Sequence[str]) -> list[Failure | None]:
        """Encode pictures ahead of their use, as far as memory allows; what cannot be read, why."""
        return [self._unreadable(image) for image in images]

    def _unreadable(self, image: str) -> Failure | None:
        try:
            self._pictures.encode(image)
        except ImageError as fault:
            return Failure(str(fault), "image")
        return None

    def sample(
        self, queries: Sequence[Query], k: int, sampling: Sampling, seed: int, source: str
    ) -> list[list[Expression] | Failure]:
        """K expressions a query, in order; one of which a sample cannot be used is a Failure.

        A sample cut at `max_new_tokens` stays as it stands, as a local writer's does. `logprob` is
        None for it, and unless the server is vLLM. Raises InputError for what every call would
        meet.
        """
        if sampling.temperature < 0 or min(k, sampling.max_new_tokens) < 1:
            raise InputError("sampling: wanted k ≥ 1, temperature ≥ 0 and max_new_tokens ≥ 1")
        if k > 1 and self._client.own_temperature:
            _LOG.warning("%s", self._client.own_temperature)
        chats = [partial(self._chat, query, k, sampling, seed) for query in queries]
        rows: list[list[Expression] | Failure] = [Failure("not asked", "api")] * len(queries)
        for place, answers in self._client.ask(chats):
            rows[place] = _row(answers, source)
        return rows

    def knows(self, query: Query) -> bool | None:  # noqa: ARG002  # the protocol's
        """None: nobody recorded what the model was trained on."""
        return None

    def _chat(self, query: Query, k: int, sampling: Sampling, seed: int) -> Chat:
        picture = self._pictures.encode(query.image)
        return Chat(
            with_pictures(
                writer_messages(query.name, query.type), [picture.uri], self._client.config.detail
            ),
            sampling.temperature,
            sampling.max_new_tokens,
            k,
            seed,
            picture.tokens,
            keep_cut=True,
        )


def _row(answers: Answers | Failure, source: str) -> list[Expression] | Failure:
    if isinstance(answers, Failure):
        return answers
    row = []
    for answer in answers:
        if isinstance(answer, Failure):
            return answer
        row.append(Expression(answer.text, source, answer.logprob))
    return row
