"""A transport that calls the simulated API as a function: the client's whole work, without sockets and threads."""

import io
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
import urllib3
from requests.adapters import BaseAdapter

from exporter.httpd.messages import Request
from exporter.simulator.app import SimulatorApp

URL = "http://api.invalid/v1"


class DirectAdapter(BaseAdapter):
    """Sends requests to a simulated API. It has no deadline: a response that hangs, hangs."""

    def __init__(self, app: SimulatorApp) -> None:
        super().__init__()
        self._app = app

    def send(self, request: requests.PreparedRequest, *_args: Any, **_kwargs: Any) -> requests.Response:
        """Get the response."""
        assert request.url is not None
        assert request.method is not None
        url = urlsplit(request.url)
        body = request.body or b""
        headers = {name.lower(): value for name, value in request.headers.items()}
        content = body.encode() if isinstance(body, str) else body
        given = self._app(Request(request.method, unquote(url.path), url.query, headers, content))
        size = len(given.body) // 2 if given.truncated else len(given.body)
        response = requests.Response()
        response.url = request.url
        response.request = request
        response.status_code = given.status
        response.reason = HTTPStatus(given.status).phrase
        response.headers.update({**dict(given.headers), "Content-Length": str(len(given.body))})
        response.raw = urllib3.HTTPResponse(
            io.BytesIO(given.body[:size]), response.headers, given.status, preload_content=False
        )
        return response

    def close(self) -> None:
        """Nothing is open."""
