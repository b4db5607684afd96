"""STOW-RS, QIDO-RS and WADO-RS towards an archive (DICOM PS3.18), by httpx. Only configured URLs are called."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx

from medseg.errors import PacsRejectedError, PacsUnreachableError
from medseg.pacs.flight import Flight
from medseg.pacs.multipart import read_parts
from medseg.pacs.options import DicomwebArchive, HttpServerOptions
from medseg.pacs.secret import read_secret
from medseg.pacs.sending import Outgoing, Sent, all_answered, left_for_later
from medseg.pacs.stow_answer import stow_answers
from medseg.pacs.tls import client_context

_JSON = "application/dicom+json"
_MAX_ANSWER = 64 << 20


class AnswerTooLongError(PacsRejectedError):
    """An answer is longer than what is taken."""


class DicomwebClient:
    """A DICOMweb server, or another HTTP server of an archive.

    Parameters
    ----------
    options : HttpServerOptions
        Base URL and how to log in.
    timeout_s : float
        Longest silence.
    """

    def __init__(self, options: HttpServerOptions, *, timeout_s: float) -> None:
        self.url = options.url.rstrip("/")
        headers, auth = {}, None
        if options.token is not None:
            headers["Authorization"] = f"Bearer {read_secret(options.token, field='token')}"
        if options.user is not None and options.password is not None:
            auth = httpx.BasicAuth(options.user, read_secret(options.password, field="password"))
        verify: ssl.SSLContext | bool = True
        if options.tls is not None:
            verify = client_context(options.tls, field="tls")
        # No proxies or redirects: nothing but the operator says where the data go.
        self._http = httpx.Client(
            headers={"Accept-Encoding": "identity"} | headers,
            auth=auth,
            verify=verify,
            timeout=timeout_s,
            follow_redirects=False,
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @contextlib.contextmanager
    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        content: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[httpx.Response]:
        """An answer as it comes in.

        Raises
        ------
        PacsUnreachableError
            No connection, silence, or an answer that says "later" (429, 5xx).
        PacsRejectedError
            Login refused, a redirect, a packed answer, or another error.
        """
        try:
            with self._http.stream(
                method, f"{self.url}{path}", params=params, content=content, headers=headers
            ) as answer:
                # Unpacking has no bounds in httpx, and was not asked for.
                if answer.headers.get("content-encoding", "identity").strip().lower() != "identity":
                    raise PacsRejectedError(f"{self.url} answers packed (Content-Encoding), unasked")
                yield answer
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as err:
            raise PacsUnreachableError(f"{self.url} does not answer: {_cause(err)}") from err

    def get_json(self, path: str, *, params: Mapping[str, str] | None = None, accept: str = _JSON) -> Any:
        """The JSON of a GET; None where the server has no content.

        Raises
        ------
        PacsUnreachableError, PacsRejectedError
        """
        with self.request("GET", path, params=params, headers={"Accept": accept}) as answer:
            self.check(answer)
            content = read_bounded(answer, _MAX_ANSWER)
        try:
            return json.loads(content) if content else None
        except (ValueError, RecursionError) as err:
            # The path has UIDs, and this sentence goes into the audit log.
            raise PacsRejectedError(f"{self.url}: an answer is not JSON") from err

    def find(self, path: str, params: Mapping[str, str]) -> list[Mapping[str, Any]]:
        """QIDO-RS: the data sets that match, as DICOM JSON."""
        found = self.get_json(path, params=params)
        return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []

    def retrieve(self, path: str, *, part_limit: int) -> Iterator[bytes]:
        """WADO-RS: the DICOM files below a resource, one after the other, in the transfer syntax they have.

        Raises
        ------
        PacsUnreachableError, PacsRejectedError
        """
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        with self.request("GET", path, headers={"Accept": accept}) as answer:
            self.check(answer)
            try:
                for part in read_parts(
                    answer.headers.get("content-type", ""), answer.iter_bytes(), part_limit=part_limit
                ):
                    yield part.content
            except ValueError as err:
                raise PacsRejectedError(f"{self.url}: {err}") from err

    def check(self, answer: httpx.Response) -> None:
        """Raise for an answer that is no success."""
        status = answer.status_code
        if 200 <= status < 300:
            return
        if status == 429 or status >= 500:
            raise PacsUnreachableError(f"{self.url} answered {status}: try later")
        raise PacsRejectedError(f"{self.url} answered {_meaning(status)}")


class DicomwebSender:
    """Delivers to one archive by STOW-RS.

    Parameters
    ----------
    options : DicomwebArchive
    """

    def __init__(self, options: DicomwebArchive) -> None:
        self._client = DicomwebClient(options, timeout_s=options.timeout)

    def echo(self) -> None:
        """A query for nothing: DICOMweb has no echo.

        Raises
        ------
        PacsUnreachableError, PacsRejectedError
        """
        self._client.find("/studies", {"limit": "1", "StudyInstanceUID": "1.2.3"})

    def send(self, files: Sequence[Outgoing], flight: Flight | None = None) -> list[Sent]:
        """STOW-RS of all files in one request; see `Sender`."""
        flight = flight or Flight()
        boundary = secrets.token_hex(16)
        headers = {
            "Accept": _JSON,
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        }
        try:
            with self._client.request(
                "POST", "/studies", content=_body(files, boundary, flight), headers=headers
            ) as answer:
                answers = self._judge(files, answer, flight)
        except _StoppedError:
            answers = left_for_later(files)
        except (PacsUnreachableError, PacsRejectedError) as err:
            answers = all_answered(files, "again", str(err))
        flight.end(answers)
        return answers

    def _judge(self, files: Sequence[Outgoing], answer: httpx.Response, flight: Flight) -> list[Sent]:
        status, url = answer.status_code, self._client.url
        if status in (200, 202, 409):
            kind = answer.headers.get("content-type", "")
            return stow_answers(files, read_bounded(answer, _MAX_ANSWER), status, kind)
        wait = _retry_after(answer)
        if status == 413 and len(files) > 1:
            # One by one they may be small enough.
            return [sent for file in files for sent in self.send([file], flight)]
        if status == 413:
            return all_answered(files, "refused", f"{url} answered 413: too large")
        # A login or an address is mended by a person; the results wait.
        sentence = f"{url} answered {_meaning(status)}"
        return [
            Sent(sop_instance_uid=file.sop_instance_uid, state="again", reason=sentence, retry_after_s=wait)
            for file in files
        ]


def _meaning(status: int) -> str:
    """A status that is no success, with what to do about it."""
    if status in (401, 403):
        return f"{status}: user, password or token are not accepted"
    if status == 404:
        return "404: there is no DICOMweb at this URL; correct it, such as http://HOST:8042/dicom-web for Orthanc"
    if status == 405:
        return "405: no such service at this URL; one that takes STOW-RS alone has no queries, which `echo` asks for"
    if 300 <= status < 400:
        return f"{status}, a redirect; set the URL that it leads to"
    return str(status)


def _cause(err: Exception) -> str:
    """Why there was no answer, without numbers of the system and of OpenSSL's source."""
    text = re.sub(r"^\[Errno -?\d+\] ", "", str(err)) or type(err).__name__
    if "WRONG_VERSION_NUMBER" in text:
        return "what listens there speaks no TLS; correct the port, or write http:// for a server without TLS"
    return text


class _StoppedError(Exception):
    """Nothing may be sent any more."""


def _body(files: Sequence[Outgoing], boundary: str, flight: Flight) -> Iterator[bytes]:
    # Asked for when there is a connection.
    if not flight.begin():
        raise _StoppedError
    for file in files:
        flight.moved()
        yield f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        yield file.content
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def read_bounded(answer: httpx.Response, limit: int) -> bytes:
    """The body of an answer.

    Raises
    ------
    AnswerTooLongError
        It has more than `limit` bytes; the rest is not read.
    """
    parts, size = [], 0
    for part in answer.iter_bytes():
        size += len(part)
        if size > limit:
            raise AnswerTooLongError(f"the answer has more than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds; None also where it is a date, or at once, which would be asked again and again."""
    text = answer.headers.get("retry-after", "")
    return float(text) or None if text.isascii() and text.isdigit() and len(text) < 8 else None
