"""Media in files: YAML and CSV, their errors, changes while the exporter runs, and what stays after a mistake."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.config.load import dump, load, summary
from exporter.config.media_files import MediaFiles, load_all
from exporter.config.settings import MediaSettings, Settings
from exporter.errors import ConfigError
from tests.support.configs import ENVIRON, merchant


def write(name: str, content: str | bytes) -> None:
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def configured(*merchants: dict[str, Any], **keys: Any) -> Path:
    """A configuration file of one merchant with these keys, or of several."""
    data = merchant(**keys)
    if merchants:
        data["merchants"] = [{**data["merchants"][0], "id": f"m{n}", **each} for n, each in enumerate(merchants)]
    write("config.yaml", yaml.safe_dump(data))
    return Path("config.yaml")


def media(settings: Settings) -> list[str]:
    """The ids, then the reference ids, of the media of all merchants."""
    found = [each for merchant in settings.merchants for each in (*merchant.media, *merchant.pending)]
    return [each.id or f"ref:{each.ref_id}" for each in found]


def errors_of(**keys: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_all(configured(**keys), ENVIRON)
    return tuple(caught.value.errors)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def files() -> MediaFiles:
    return MediaFiles(Path())


def test_a_yaml_file_has_the_entries_of_media() -> None:
    """Each entry is validated as in the configuration, and has all of its keys."""
    entry = {"id": "a", "name": "News", "priority": 2, "drop": {"warning": 0.5}, "labels": {"channel": "x"}}
    write("media/a.yaml", yaml.safe_dump([entry, {"ref_id": "r"}]))
    [found] = load_all(configured(media_files=["media/*.yaml"]), ENVIRON).merchants
    assert found.media == (MediaSettings.model_validate(entry),)
    assert found.pending == (MediaSettings(ref_id="r"),)


@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_a_csv_file_has_columns(start: str, end: str) -> None:
    """Known columns are settings, others labels; empty cells are not set; quotes, empty rows and columns are read."""
    lines = [
        "ref_id,id,name,priority,channel, site,,",
        ',a,朝のニュース,2.5,news,"jp, tw",,',
        ",,,,,,,",
        "",
        '"cup, final",,"Cup ""final""",,,',
        "r2",
    ]
    write("media.csv", start + end.join(lines) + end)
    [found] = load_all(configured(media_files=["media.csv"]), ENVIRON).merchants
    labels = {"channel": "news", "site": "jp, tw"}
    assert found.media == (MediaSettings(id="a", name="朝のニュース", priority=2.5, labels=labels),)
    assert found.pending == (MediaSettings(ref_id="cup, final", name='Cup "final"'), MediaSettings(ref_id="r2"))


def test_media_of_the_configuration_come_first() -> None:
    """Then those of the files, in the order of the patterns and of the names; a file of two patterns counts once."""
    write("b.csv", "id\nb\n")
    write("a.csv", "id\na\n")
    write("z.yaml", "- id: z\n")
    path = configured(media_files=["z.yaml", "*.csv", "a*.csv"], media=[{"id": "m"}])
    assert media(load_all(path, ENVIRON)) == ["m", "z", "a", "b"]
    assert media(load(path, ENVIRON)) == ["m"]


def test_names_are_relative_to_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to the working directory; absolute names and patterns are possible."""
    Path("conf").mkdir()
    write("conf/media/a.csv", "id\na\n")
    write("b.csv", "id\nb\n")
    write("conf/config.yaml", yaml.safe_dump(merchant(media_files=["media/*.csv", f"{tmp_path}/b*.csv"])))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert media(load_all(Path("../conf/config.yaml"), ENVIRON)) == ["a", "b"]


def test_no_match_is_no_error() -> None:
    """A pattern may match nothing, a file may have no entries."""
    write("empty.yaml", "[]\n")
    write("empty.csv", "id,name\n")
    assert media(load_all(configured(media_files=["e*y.yaml", "e*y.csv", "none/*.csv"]), ENVIRON)) == []


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", None, "a.csv: no such file; create it, or name another file"),
        ("a.csv", "", "a.csv:1: is empty; begin with a header such as id,name,priority"),
        ("a.csv", "name\nx\n", "a.csv:1: no column id or ref_id; begin with a header such as id,name,priority"),
        ("a.csv", "\n\nID,id\n", "a.csv:3: unknown column ID; write it as id"),
        ("a.csv", "id,x,x\n", "a.csv:1: duplicate column x; keep one"),
        ("a.csv", "id,,x\n", "a.csv:1: column 2 has no name; name it, or remove it"),
        ("a.csv", "id,drop\n", "a.csv:1: a column drop is not possible; write these media in a YAML file"),
        ("a.csv", "id;name\n", "a.csv:1: the columns are not separated by commas; save it as CSV with commas"),
        ("a.csv", "id\na\nb\x00\n", "a.csv:3: id: contains U+0000 NULL at position 2; remove it"),
        ("a.csv", "id\n\na b\n", "a.csv:3: id: `a b` is not a valid id; write it without spaces and slashes"),
        ("a.csv", 'id,name\na,"x\ny"\nb c,\n', "a.csv:2: name: contains U+000A LINE FEED at position 2; remove it"),
        ("a.csv", "id,name\n,x\n", "a.csv:2: id: is missing; add it, or ref_id"),
        ("a.csv", "id,ref_id\nx,y\n", "a.csv:2: ref_id: is given beside id; remove one of them"),
        ("a.csv", "id\na\na\n", "a.csv:3: id: `a` is a duplicate of line 2; keep one"),
        ("a.csv", "id,name\na,b,c\n", "a.csv:2: has more values than the header; put a value with a comma in quotes"),
        (
            "a.csv",
            "id,priority\na,high\n",
            "a.csv:2: priority: expected a number, found `high`; write one such as 0.5, without quotes",
        ),
        ("a.csv", "id,priority\na,0\n", "a.csv:2: priority: `0` is too small; write a number greater than 0"),
        (
            "a.csv",
            "id,a-b\na,x\n",
            "a.csv:1: column a-b: is not a valid label name; use letters, digits and _, and start with a letter",
        ),
        ("a.csv", "id,media_id\na,x\n", "a.csv:1: column media_id: is reserved for the exporter; choose another name"),
        (
            "a.csv",
            'id\n"a\n',
            "a.csv:2: is not valid CSV (unexpected end of data); check the quotes in and above this line",
        ),
        ("a.csv", "id,name\na,ニュース\n".encode("cp932"), "a.csv: is not UTF-8 text; save it as CSV UTF-8"),
        ("a.csv", "id\n".encode("utf-16"), "a.csv: is UTF-16 text; save it as CSV UTF-8"),
        ("a.yaml", "あ".encode("cp932"), "a.yaml: is not UTF-8 text; save it as UTF-8"),
        ("a.yaml", "", "a.yaml: is empty; write [] for no entries"),
        ("a.yaml", "media: [{id: a}]", "a.yaml: expected a list, found keys with values; start each entry with a dash"),
        ("a.yaml", "- id: 5", "a.yaml:1: [0].id: expected text, found `5` (a number); put it in quotes"),
        ("a.yaml", "- {id: a}\n- {idd: b}", "a.yaml:2: [1].id: is missing; add it, or ref_id"),
        ("a.yaml", "- {id: a, nam: b}", "a.yaml:1: [0].nam: unknown key; did you mean name?"),
        ("a.yaml", "- {id: a, id: b}", "a.yaml:1: [0].id: duplicate key; keep one"),
        ("a.yaml", "- {id: a, drop: {warn: 0.5}}", "a.yaml:1: [0].drop.warn: unknown key; did you mean warning?"),
        ("a.yaml", "- {id: a}\n- {id: a}", "a.yaml:2: [1].id: `a` is a duplicate of entry [0]; keep one"),
        ("a.yaml", "- id: a\n- [", "a.yaml:"),
    ],
)
def test_an_error_is_one_line(name: str, content: str | bytes | None, expected: str) -> None:
    """It has the file, the place, what is wrong and how to fix it; it is an error of the whole check."""
    if content is not None:
        write(name, content)
    lines = errors_of(media_files=[name])
    assert lines[0].startswith(expected) if expected == "a.yaml:" else lines[0] == expected


def test_all_errors_of_all_files_at_once() -> None:
    """Up to a limit for each file; how many more there are is the last line."""
    write("a.csv", "id,priority\n" + "".join(f"m{n},x\n" for n in range(70)))
    write("b.yaml", "- {id: a, b: c}\n- {id: /}\n")
    lines = errors_of(media_files=["*.csv", "b.yaml"])
    assert [line.partition(": ")[0] for line in lines] == [
        *(f"a.csv:{n + 2}" for n in range(50)),
        "and 20 more errors",
        "b.yaml:1",
        "b.yaml:2",
    ]


@pytest.mark.parametrize("key", ["id", "ref_id"])
def test_a_duplicate_names_both_places(key: str, files: MediaFiles) -> None:
    """The first wins: the configuration before the files, these in their order."""
    write("a.csv", f"{key},name\nx,of a\ny,of a\n")
    write("b.yaml", f"- {{{key}: y, name: of b}}\n- {{{key}: z}}\n")
    keys = {"media": [{key: "x"}], "media_files": ["a.csv", "b.yaml"]}
    lines = (
        f"a.csv:2: {key} `x` is a duplicate of media of the configuration file; keep one",
        f"b.yaml:1: {key} `y` is a duplicate of a.csv:3; keep one",
    )
    assert errors_of(**keys) == lines
    reading = files.read(load(configured(**keys), ENVIRON))
    assert reading.errors == {"m": lines}
    [found] = reading.settings.merchants
    assert [(each.id or each.ref_id, each.name) for each in (*found.media, *found.pending)] == [
        ("x", None),
        ("y", "of a"),
        ("z", None),
    ]


def test_a_label_of_the_catalog_is_no_label_of_a_file() -> None:
    """The entry is left out."""
    write("a.csv", "id,tags\nx,mine\ny,\n")
    expected = "a.csv:2: labels.tags: is a label of catalog_labels, too; rename it, or change catalog_labels"
    assert errors_of(media_files=["a.csv"], catalog_labels=["tags"]) == (expected,)
    assert media(load_all(configured(media_files=["a.csv"]), ENVIRON)) == ["x", "y"]


def test_a_changed_file_is_read_again(files: MediaFiles) -> None:
    """Its content counts, not its time: also one of the same size, second and inode; a new file is found."""
    settings = load(configured(media_files=["*.csv"]), ENVIRON)
    write("a.csv", "id\na\n")
    before = Path("a.csv").stat()
    assert media(files.read(settings).settings) == ["a"]
    write("a.csv", "id\nb\n")
    os.utime("a.csv", ns=(before.st_atime_ns, before.st_mtime_ns))
    write("b.csv", "id\nc\n")
    assert media(files.read(settings).settings) == ["b", "c"]


def test_a_config_map_is_swapped(files: MediaFiles, tmp_path: Path) -> None:
    """Kubernetes replaces the link to the folder that the links to the files go through."""
    for version in ("1", "2"):
        write(f"..{version}/a.csv", f"id\nv{version}\n")
    Path("..data").symlink_to("..1")
    Path("a.csv").symlink_to("..data/a.csv")
    settings = load(configured(media_files=["*.csv"]), ENVIRON)
    assert media(files.read(settings).settings) == ["v1"]
    Path("..new").symlink_to("..2")
    Path("..new").replace("..data")
    assert media(files.read(settings).settings) == ["v2"]


@pytest.mark.parametrize("broken", ['id,name\na,"half', None], ids=["half written", "deleted"])
def test_the_last_good_content_stays(files: MediaFiles, broken: str | None) -> None:
    """The error is reported at each reading until the file is good again; nothing else is affected."""
    write("a.csv", "id\na\n")
    write("b.csv", "id\nb\n")
    path = configured({"media_files": ["*.csv"]}, {"media_files": ["b.csv"]}, {})
    settings = load(path, ENVIRON)
    assert files.read(settings).errors == {"m0": (), "m1": ()}
    if broken is None:
        Path("a.csv").unlink()
    else:
        write("a.csv", broken)
    write("b.csv", "id\nb2\n")
    for _ in range(2):
        reading = files.read(settings)
        [line] = reading.errors["m0"]
        assert line.startswith("a.csv:")
        assert line.endswith("(its last valid content stays in use)")
        assert reading.errors["m1"] == ()
        assert media(reading.settings) == ["a", "b2", "b2"]
    write("a.csv", "id\nc\n")
    reading = files.read(settings)
    assert reading.errors == {"m0": (), "m1": ()}
    assert media(reading.settings) == ["c", "b2", "b2"]


def test_a_file_that_was_never_good_has_no_media(files: MediaFiles) -> None:
    """The merchant starts with its other media; when the file is deleted, so is its error."""
    write("a.csv", "id\na b\n")
    settings = load(configured(media_files=["*.csv"], media=[{"id": "m"}]), ENVIRON)
    reading = files.read(settings)
    assert media(reading.settings) == ["m"]
    assert reading.errors == {"m": ("a.csv:2: id: `a b` is not a valid id; write it without spaces and slashes",)}
    Path("a.csv").unlink()
    assert files.read(settings).errors == {"m": ()}


def test_the_dump_shows_all_media() -> None:
    """Those of the files, too; a pending one with its reference id."""
    write("a.csv", "id,ref_id\na,\n,r\n")
    settings = load_all(configured(media_files=["a.csv"]), ENVIRON)
    [shown] = yaml.safe_load(dump(settings))["merchants"]
    assert [(each.get("id"), each.get("ref_id")) for each in shown["media"]] == [("a", None), (None, "r")]
    assert summary(settings) == "1 merchant, 2 media, 9 streams, 45 requests a minute allowed"


def test_5000_media_take_seconds() -> None:
    """The time grows with the number of media, not with its square."""

    def seconds(number: int) -> float:
        write("a.csv", "id,name,channel\n" + "".join(f"id{n},Name {n},news\n" for n in range(number)))
        path = configured(media_files=["a.csv"])
        began = time.process_time()
        assert len(load_all(path, ENVIRON).merchants[0].media) == number
        return time.process_time() - began

    assert seconds(5000) < 20 * max(0.05, seconds(1000))
