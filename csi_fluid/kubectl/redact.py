"""Hide what is a secret, in objects of the API server and in text.  Pure.

What a key calls a secret is hidden whatever its value, and what looks like a secret is hidden
whatever its key: an access key in a command line, a token in a log, a password in a URL.  It hides
too much rather than too little.
"""

import json
import re
from typing import Any

from csi_fluid.log import REDACTED, is_secret

_WHOLE = frozenset({"managedFields", "kubectl.kubernetes.io/last-applied-configuration"})
"""Left out: copies of what stands in the object anyway."""

_NAMES = frozenset({"name", "secretName", "secretRef", "secretKeyRef", "tokenExpirationSeconds"})
"""Keys with "secret" or "token" in them whose values name something and give nothing away."""

_KEY = r"[\w.-]*(?:secret|passw|token|credential|private|(?:access|api|auth).?key|signature)[\w.-]*"
_PATTERNS = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), replacement)
    for pattern, replacement in (
        (
            r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?-----END \1-----",
            REDACTED,
        ),
        (r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", rf"\1 {REDACTED}"),
        (r"\beyJ[\w-]+\.[\w-]+\.[\w-]*", REDACTED),  # a JSON web token
        (r"\b(?:AKIA|ASIA|LTAI)[A-Z0-9]{12,}\b", REDACTED),  # access keys of AWS and of Alibaba
        (r"(\w+://)[^/\s:@]*:[^/\s@]+@", rf"\1{REDACTED}@"),
        (rf'("{_KEY}"\s*:\s*)"(?:[^"\\]|\\.)*"', rf'\1"{REDACTED}"'),
        (rf'(\b{_KEY}=)("(?:[^"\\]|\\.)*"|[^\s,"&]+)', rf"\1{REDACTED}"),
        (rf"(--?{_KEY} )([^\s-]\S*)", rf"\1{REDACTED}"),
    )
)


def text(content: str) -> str:
    """Return a text without what looks like a secret."""
    for pattern, replacement in _PATTERNS:
        content = pattern.sub(replacement, content)
    return content


def tree(found: Any, *, under: str = "") -> Any:
    """Return JSON data without secrets; under is the key that it stands under."""
    match found:
        case dict():
            return _mapping(found)
        case list():
            return [tree(each, under=under) for each in found]
        case str() if under and is_secret(under) and under not in _NAMES:
            return REDACTED
        case str():
            return _embedded(found)
        case _:
            return found


def _mapping(found: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in found.items() if key not in _WHOLE}
    name = kept.get("name")
    if isinstance(name, str) and is_secret(name) and isinstance(kept.get("value"), str):
        kept = kept | {"value": REDACTED}  # a variable of a container
    return {key: _value(key, value) for key, value in kept.items()}


def _value(key: str, value: Any) -> Any:
    """Return the value of a key; what stands below a secret reference are names."""
    return value if key in {"secretRef", "secretKeyRef"} else tree(value, under=key)


def _embedded(content: str) -> str:
    """Return a string without secrets; it may hold JSON itself, as an annotation does."""
    if content[:1] in {"{", "["}:
        try:
            return json.dumps(tree(json.loads(content)))
        except (ValueError, RecursionError):
            pass
    return text(content)
