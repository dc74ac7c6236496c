"""The documents: generated ones are up to date, examples are correct, links have targets."""

import contextlib
import re
import ssl
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import BaseModel
from reference.__main__ import DOCS, WRITTEN, main

from exporter.config.settings import Settings
from exporter.config.tls_files import TlsVersion
from exporter.config.web_file import HeaderSettings, HttpSettings, WebSettings, load_web_config
from exporter.config.web_tls import ClientAuth, TlsSettings
from exporter.counting.ledger import Ledger
from exporter.model import Group, Stream, Target, minute_of
from exporter.storage.state import open_state
from exporter.units import from_units
from tests.support.fakes import FakeClock

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("name", WRITTEN)
def test_generated_documents_are_up_to_date(name: str) -> None:
    """The document is what `make docs` writes."""
    assert (DOCS / name).read_text(encoding="utf-8") == WRITTEN[name](), "make docs"


def test_make_docs_writes_each_document(tmp_path: Path) -> None:
    """It writes each generated document, and nothing else."""
    assert main(tmp_path) == 0
    assert {path.name for path in tmp_path.iterdir()} == set(WRITTEN)


def test_each_document_is_in_the_contents() -> None:
    """docs/README.md lists every document in docs/, and the README links to it."""
    contents = (DOCS / "README.md").read_text(encoding="utf-8")
    names = {path.name for path in DOCS.glob("*.md")} - {"README.md"}
    assert {name for name in names if f"]({name})" not in contents} == set()
    assert "](docs/README.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def prose(document: Path) -> str:
    """A document without its code blocks, which can contain text that looks like a link or a heading."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """The link targets in a document: its headings, as code hosts write them."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(document: Path) -> Iterator[tuple[Path, str]]:
    """The relative links of a document: a file and an anchor, or ""."""
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            yield ((ROOT / document).parent / path if path else ROOT / document), anchor


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_have_targets(document: Path) -> None:
    """Each link that is not to another site is to an existing file, and to a heading in it."""
    dead = []
    for path, anchor in links(document):
        there = path.exists() and (not anchor or anchor in anchors(path))
        if not there:
            dead.append(f"{path}#{anchor}")
    assert dead == []


def test_every_key_of_the_web_configuration_is_documented() -> None:
    """docs/web.md has each key that is accepted, each header, and each key that is refused."""
    text = (DOCS / "web.md").read_text(encoding="utf-8")
    models: tuple[type[BaseModel], ...] = (WebSettings, TlsSettings, HttpSettings, HeaderSettings)
    keys = {field.alias or name for model in models for name, field in model.model_fields.items()}
    assert {"cert_file", "key", "rate_limit", "X-Frame-Options"} <= keys
    assert {key for key in keys if f"`{key}`" not in text} == set()
    assert {value for kind in (ClientAuth, TlsVersion) for value in kind if f"`{value}`" not in text} == set()


def test_the_certificate_in_the_document_works(tmp_path: Path) -> None:
    """The commands of docs/web.md make files with which its example of a web configuration can be used."""
    text = (DOCS / "web.md").read_text(encoding="utf-8")
    [commands] = re.findall(r"^```sh\n(openssl .*?)^```$", text, re.MULTILINE | re.DOTALL)
    subprocess.run(["sh", "-ec", commands], cwd=tmp_path, check=True, capture_output=True)
    [example, *_] = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "web.yml").write_text(example)
    web = load_web_config(tmp_path / "web.yml")
    assert web.tls is not None
    assert list(web.users) == ["prometheus"]
    trusting = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    client, server = ssl.MemoryBIO(), ssl.MemoryBIO()
    connecting = trusting.wrap_bio(server, client, server_hostname="exporter.example.com")
    accepting = web.tls.wrap_bio(client, server, server_side=True)
    for side in (connecting, accepting, connecting, accepting):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    assert connecting.version() == "TLSv1.3"


def example() -> Iterator[tuple[float, dict[int, float], float, float]]:
    """The rows of the example in counting.md: time, rows of the answer, counter, owed value."""
    day = datetime(2026, 4, 1, tzinfo=UTC)
    table = re.findall(r"^\| (12:\d\d) \| (.*) \|$", (DOCS / "counting.md").read_text(encoding="utf-8"), re.MULTILINE)
    for when, line in table:
        *cells, _, counter, owed = line.split(" | ")
        at = day.replace(hour=12, minute=int(when[3:])).timestamp()
        noon = minute_of(day.replace(hour=12).timestamp())
        values = {noon + place: float(cell) for place, cell in enumerate(cells) if cell != "–"}
        yield at, values, float(counter), float(owed)


def test_the_ledger_counts_as_in_the_example(tmp_path: Path) -> None:
    """With the answers of the example, at its times, the ledger counts and owes what the table says."""
    answers = list(example())
    assert len(answers) == 5
    clock = FakeClock(answers[0][0] - 60)
    stream = Stream("m", "", Target.PLAY_COUNT, Group.ALL)
    account = {"id": "m", "api_key": "k", "mail_address": "a@example.com", "password": "p"}
    settings = Settings.model_validate({"merchants": [account]})
    state = open_state(tmp_path / "state.db", clock.now)
    ledger = Ledger(state, settings, on_revision=lambda age: None)
    ledger.configure(settings, clock.now())
    for at, values, counter, owed in answers:
        clock.advance(at - clock.now())
        ledger.show_counted(at)
        requested = ledger.to_ask(stream, at)
        ledger.enter(stream, requested, {minute: {"": value} for minute, value in values.items()}, at)
        [series] = ledger.snapshot.merchants["m"].streams[stream].series
        with state.read() as db:
            [[kept]] = db.execute("SELECT max(owed) FROM series").fetchall()
        assert (series.total, from_units(kept)) == (counter, owed), datetime.fromtimestamp(at, UTC)
    state.close()
