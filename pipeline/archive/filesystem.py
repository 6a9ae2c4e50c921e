"""One interface to files: on the local disk, in object stores, and on every file system that fsspec knows."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import BinaryIO
from urllib.parse import parse_qsl, quote, unquote_to_bytes, urlsplit

import fsspec
import pyarrow as pa
from pyarrow import ArrowInvalid
from pyarrow import fs as pafs

from pipeline.archive.ranges import BlockCache, PatientReader, RangeReader
from pipeline.errors import UsageError

# Schemes that Arrow's own C++ clients serve; fsspec serves all others.
_ARROW_SCHEMES = ("s3", "gs", "gcs", "hdfs", "abfs", "abfss")

# A store that throttles is retried after 0.05, 0.1, 0.2 ... seconds. Arrow's own three attempts end too soon.
_S3_ATTEMPTS = 10
_S3_CONNECT_S = 10.0

# The cache is for videos, because nobody overwrites them while they are read.
_CACHE = BlockCache()


def is_local(uri: str) -> bool:
    """Whether a URI is a plain path or a `file://` URI."""
    scheme = urlsplit(uri).scheme if "://" in uri else ""
    return scheme in ("", "file")


def local_path(uri: str) -> str:
    """Return the absolute path that a local URI names; a `file://` URI may be percent-encoded."""
    if uri.startswith("file://"):
        return os.path.abspath(os.fsdecode(unquote_to_bytes(uri.removeprefix("file://"))))
    return os.path.abspath(os.path.expanduser(uri))


def canonical_uri(uri: str) -> str:
    """Return the one spelling of a URI that ids are made from: an absolute path, or the URI as it is.

    A path that is not UTF-8, which no table could hold, becomes a percent-encoded `file://` URI.
    """
    if not is_local(uri):
        return uri
    path = local_path(uri)
    return path if is_text(path) else f"file://{quote(os.fsencode(path))}"


def is_text(path: str) -> bool:
    """Whether a path can be written as UTF-8; file names on Linux may be any bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system that serves a URI, and the path on it.

    Raises:
        UsageError: No installed package serves the URI's scheme, or the URI can't be understood.
    """
    if is_local(uri):
        return pafs.LocalFileSystem(), local_path(uri)
    client, path = _client(uri)
    return pafs.PyFileSystem(_ReadPatiently(client)), path


def open_bytes(uri: str) -> BinaryIO:
    """Open a local or remote video for reading bytes.

    Raises:
        UsageError: As for `resolve`.
        OSError: The file can't be reached or does not exist.
    """
    return open(local_path(uri), "rb") if is_local(uri) else io.BufferedReader(open_ranges(uri))


def open_ranges(uri: str) -> RangeReader:
    """Open a remote video for reading; the parts of all videos that were read last are kept in memory.

    Raises:
        UsageError: As for `resolve`.
        OSError: The file can't be reached or does not exist.
    """
    return RangeReader(*_client(uri), uri, _CACHE)


def _client(uri: str) -> tuple[pafs.FileSystem, str]:
    scheme = urlsplit(uri).scheme
    if urlsplit(uri).password is not None:
        raise UsageError(
            f"{scheme}://...: a URI with a password in it would be written to tables and logs; set it in the "
            "environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or whatever the store's client reads"
        )
    try:
        if scheme in _ARROW_SCHEMES:
            served, path = pafs.FileSystem.from_uri(uri)
            return (_patient(served, uri) if isinstance(served, pafs.S3FileSystem) else served), path
        filesystem, path = fsspec.core.url_to_fs(uri)
        return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path
    except (ImportError, ValueError, ArrowInvalid) as error:
        raise UsageError(f"{uri}: no file system for {scheme}:// ({error})") from error


def _patient(served: pafs.S3FileSystem, uri: str) -> pafs.S3FileSystem:
    """Return a client that retries for longer if a store is busy or a connection breaks."""
    options = dict(parse_qsl(urlsplit(uri).query))
    # The endpoint is found here as `from_uri` would find it.
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    endpoint = urlsplit(named if "://" in named else f"//{named}")
    return pafs.S3FileSystem(
        region=served.region,
        scheme=options.get("scheme") or endpoint.scheme or "https",
        endpoint_override=options.get("endpoint_override") or endpoint.netloc or None,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=_S3_ATTEMPTS),
        connect_timeout=_S3_CONNECT_S,
        # A small file is written by one request instead of three.
        allow_delayed_open=True,
    )


def join(uri: str, *parts: str) -> str:
    """Append path components to a local or remote URI."""
    return "/".join([uri.rstrip("/"), *parts])


class _ReadPatiently(pafs.FileSystemHandler):  # type: ignore[misc]
    """A remote file system whose files are read by `PatientReader`; its client does everything else."""

    def __init__(self, client: pafs.FileSystem) -> None:
        self._client = client

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ReadPatiently) and bool(self._client == other._client)

    __hash__ = None  # type: ignore[assignment]

    def get_type_name(self) -> str:
        return str(self._client.type_name)

    def normalize_path(self, path: str) -> str:
        return str(self._client.normalize_path(path))

    def get_file_info(self, paths: Sequence[str]) -> list[pafs.FileInfo]:
        return list(self._client.get_file_info(paths))

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        return list(self._client.get_file_info(selector))

    def create_dir(self, path: str, recursive: bool) -> None:
        self._client.create_dir(path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self._client.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self._client.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        self._client.delete_dir_contents("/", accept_root_dir=True)

    def delete_file(self, path: str) -> None:
        self._client.delete_file(path)

    def move(self, source: str, target: str) -> None:
        self._client.move(source, target)

    def copy_file(self, source: str, target: str) -> None:
        self._client.copy_file(source, target)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(PatientReader(self._client, path), mode="r")

    def open_output_stream(self, path: str, metadata: dict[str, str]) -> pa.NativeFile:
        return self._client.open_output_stream(path, metadata=metadata)

    def open_append_stream(self, path: str, metadata: dict[str, str]) -> pa.NativeFile:
        return self._client.open_append_stream(path, metadata=metadata)
