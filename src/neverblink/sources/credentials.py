"""User and password for a camera or a web server, written on our side of the relay (RFC 7616, RFC 7617)."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable
from urllib.request import parse_http_list, parse_keqv_list

from neverblink.sources.addresses import Place

HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}


def best_challenge(values: Iterable[str]) -> str | None:
    """The strongest of the WWW-Authenticate values of a 401 that can be answered."""
    found = [value.strip() for value in values]
    digests = [value for value in found if value.lower().startswith("digest")]
    digests = [value for value in digests if _fields(value).get("algorithm", "MD5").upper() in HASHES]
    digests.sort(key=lambda value: "SHA-256" not in value.upper())
    basics = [value for value in found if value.lower().startswith("basic")]
    return next(iter([*digests, *basics]), None)


def authorization(challenge: str, method: str, uri: str, place: Place, count: int = 1) -> str:
    """The value of an Authorization header (RFC 7616, RFC 7617); `count` requests were sent with this challenge."""
    if challenge.lower().startswith("basic"):
        return "Basic " + base64.b64encode(f"{place.user}:{place.password}".encode()).decode()
    asked = _fields(challenge)
    algorithm = asked.get("algorithm", "MD5")
    made = HASHES[algorithm.upper()]

    def digest(*parts: str) -> str:
        return made(":".join(parts).encode()).hexdigest()

    realm, nonce = asked.get("realm", ""), asked.get("nonce", "")
    secret, what = digest(place.user, realm, place.password), digest(method, uri)
    said = {"username": place.user, "realm": realm, "nonce": nonce, "uri": uri}
    if "auth" in re.split(r"[ ,]+", asked.get("qop", "")):
        ours = secrets.token_hex(8)
        said |= {"cnonce": ours, "response": digest(secret, nonce, f"{count:08x}", ours, "auth", what)}
        tail = f", qop=auth, nc={count:08x}"
    else:
        said["response"], tail = digest(secret, nonce, what), ""
    if "algorithm" in asked:
        tail += f", algorithm={algorithm}"
    if "opaque" in asked:
        said["opaque"] = asked["opaque"]
    quoted = ", ".join(f'{name}="{value}"' for name, value in said.items())
    return f"Digest {quoted}{tail}"


def _fields(challenge: str) -> dict[str, str]:
    pairs = [pair for pair in parse_http_list(challenge.partition(" ")[2]) if "=" in pair]
    return {name.lower(): value for name, value in parse_keqv_list(pairs).items()}
