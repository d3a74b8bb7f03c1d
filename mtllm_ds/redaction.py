"""What may not stand in a line that people copy into issues: passwords and signatures in URLs, tokens of the hub."""

import re

_LOGIN = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s'\"@]*@", re.IGNORECASE)
_QUERY = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s'\"?]*\?)[^\s'\"]+", re.IGNORECASE)
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")


def redacted(text: str) -> str:
    """`text` with `***` for logins and queries of URLs and for tokens of the hub; everything else as it was."""
    return _TOKEN.sub("hf_***", _QUERY.sub(r"\1***", _LOGIN.sub(r"\1***@", text)))
