"""The URL of a server, which may have a password that nothing must show."""

import re
from urllib.parse import unquote


class Url:
    """A URL, its text without the password, and texts of libraries without it.

    text   the URL itself
    shown  for logs and errors. It is no more than the scheme if the text has an unusual form
    """

    def __init__(self, text: str) -> None:
        found = re.fullmatch(
            r"(?P<scheme>[a-z+]+)://((?P<user>[^:@/?#]*)(:(?P<password>[^@/?#]*))?@)?(?P<rest>[^@]*)", text
        )
        self.text = text
        self._secrets = {text}
        self.has_password = "@" in text or "password" in text  # of an unusual URL: it may have one
        self.shown = f"{text.partition(':')[0][:20]}://..." if "://" in text else "the URL"
        if found:
            password = found["password"] or ""
            hidden = re.search(r"[?&]password=([^&]*)", found["rest"])
            self._secrets |= {password, unquote(password)} | ({hidden[1], unquote(hidden[1])} if hidden else set())
            user = f"{found['user']}@" if found["user"] else ""
            self.shown = f"{found['scheme']}://{user}{found['rest'].partition('?')[0]}"
            self.has_password = bool(password or hidden)

    def __repr__(self) -> str:
        return f"Url({self.shown})"

    def redact(self, error: object) -> str:
        """The text of a library's error in one line, without the password and without the URL."""
        text = " ".join(str(error).split())
        for secret in sorted(filter(None, self._secrets), key=len, reverse=True):
            text = text.replace(secret, "<url>")
        return text
