"""The key of an endpoint: sent in one header, and neither shown nor written anywhere else."""

from __future__ import annotations

import os
import re

from groundling.errors import InputError
from groundling.models.api.settings import EndpointConfig, is_loopback

SHOWN_AT_MOST = 7
"""Characters of a key in a row that a message may repeat; "sk-proj-" begins thousands of keys."""

_LONG_RUN = 16
"""Characters of a key in a row that an answer never holds by chance, nor a shorter key whole."""

_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")


class Secret:
    """A key, or none. Messages are shown without it; an answer that repeats it is none.

    People give servers of their own keys such as `token`, `none` or `1`. Words like these are no
    secret and stand in honest answers, so nothing is searched for them: a secret has at least 16
    characters, or 12 with a letter and a digit among them.
    """

    def __init__(self, value: str | None) -> None:
        self.value = value
        mixed = value is not None and re.search("[A-Za-z]", value) and re.search("[0-9]", value)
        self._sought = value if value and len(value) >= (12 if mixed else 16) else ""

    def __repr__(self) -> str:
        return "Secret()"

    def hide(self, text: str) -> str:
        """A text for people, with `[key]` in the place of the key and of longer parts of it."""
        if not self._sought:
            return text
        found, place = [], 0
        while place < len(text):
            length = self._run(text, place)
            hidden = length > SHOWN_AT_MOST
            found.append("[key]" if hidden else text[place])
            place += length if hidden else 1
        return "".join(found)

    def is_in(self, text: str) -> bool:
        r"""Whether an answer repeats the key, also across white space or in `\u` escapes."""
        if not self._sought:
            return False
        most = min(_LONG_RUN, len(self._sought))
        parts = {self._sought[at : at + most] for at in range(len(self._sought) - most + 1)}
        plain = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), text)
        forms = ("".join(form.split()) for form in (text, plain))
        return any(part in form for form in forms for part in parts)

    def _run(self, text: str, place: int) -> int:
        """Length of the longest part of the key that stands at a place of a text."""
        length = 0
        while text[place : place + length + 1] in self._sought and place + length < len(text):
            length += 1
        return length


def read_secret(config: EndpointConfig) -> Secret:
    """The key in the environment. Raises InputError for one that would travel in the clear."""
    variable = config.api_key_env
    key = os.environ.get(variable, "").strip() if variable else ""
    if not key:
        return Secret(None)
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(f"{variable}: not a key; wanted printable ASCII without spaces")
    if config.endpoint.startswith("http://") and not is_loopback(config.endpoint):
        raise InputError(
            f"{config.endpoint}: would get the key in {variable} unencrypted; use https, or set "
            "api_key_env to null (--api-key-env '') where no key is wanted"
        )
    return Secret(key)
