"""Cookies from a file in Netscape's format, for the hosts that they name and no other."""

from __future__ import annotations

import os
import re
import urllib.request
from http.cookiejar import DefaultCookiePolicy, MozillaCookieJar
from pathlib import Path

from vidcurate.errors import UserError

# Domain (with a dot in front where it holds for the hosts below), flag, path, secure, expires,
# name, value; or a comment.
_COOKIE = re.compile(
    r"#(?!HttpOnly_).*|(#HttpOnly_)?(\.[^\t]+\tTRUE|[^.\t][^\t]*\tFALSE)\t[^\t]*\t(TRUE|FALSE)"
    r"\t\d*\t[^\t]*\t[^\t]*"
)


def load_cookies(given: str | None) -> MozillaCookieJar | None:
    """The cookies of a file, or of that which VIDCURATE_COOKIES names; None where there is none.

    Raises:
        UserError: the file cannot be read. It never quotes a line: that holds secrets.
    """
    name = given or os.environ.get("VIDCURATE_COOKIES")
    if not name:
        return None
    path = Path(name).expanduser()
    try:
        # Looked at first: of a wrong line http.cookiejar warns, with the line in the warning.
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip() and not _COOKIE.fullmatch(line.rstrip("\n")):
                    raise UserError(
                        f"acquire.download.cookies: {name}:{number}: no cookie in Netscape's "
                        "format (seven columns, tabs between them)"
                    )
        # Strict: what is for one host does not go to the hosts below it.
        policy = DefaultCookiePolicy(strict_ns_domain=DefaultCookiePolicy.DomainStrictNonDomain)
        jar = MozillaCookieJar(path, policy=policy)
        jar.load(ignore_discard=True, ignore_expires=True)
    except (OSError, UnicodeDecodeError) as error:
        why = (
            "there is no such file"
            if isinstance(error, FileNotFoundError)
            else "not a file of cookies; its first line must be: # Netscape HTTP Cookie File"
        )
        raise UserError(f"acquire.download.cookies: {name}: {why}") from None
    for cookie in jar:
        if cookie.expires == 0:  # how browsers write that it ends with their session
            cookie.expires = None
    return jar


def cookie_header(jar: MozillaCookieJar, url: str) -> str | None:
    """The Cookie header for a request of that URL; None where no cookie is for it."""
    request = urllib.request.Request(url)
    jar.add_cookie_header(request)
    return str(request.get_header("Cookie")) if request.has_header("Cookie") else None
