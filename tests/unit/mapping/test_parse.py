"""What a mapping file may have, and what is refused with which line."""

import hashlib
import os
import shutil
from pathlib import Path

import msgspec
import pytest

from stream.errors import ArtifactError, ConfigError
from stream.manifest import MAPPING, Manifest, read_manifest, write_manifest
from stream.mapping.mapping import ClickMapping, MappingFile, Source
from stream.mapping.parse import check_key, mapping_of_model, parse_mapping, read_mapping

FIELDS = """
[fields]
user_id = ["userId", "anonymousId"]
item_id = "properties.product_id"
timestamp = "time"
"""
WHOLE = f"""{FIELDS}
event_type = "event"
price = 'cost."in.EUR"'

[event_types]
"Product Viewed" = "view"
3 = "cart"

[events]
drop = ["ping"]
drop_without = ["item_id", "price"]

[defaults]
category = 7
quantity = "1"

[time]
unit = "s"

[key]
holds = "other"

[log.fields]
user_id = "uid"
item_id = "sku"
timestamp = "ts"
price = "price"
"""


def test_a_whole_file_is_read() -> None:
    """Every section, and what is not there has its default."""
    assert parse_mapping(WHOLE, "x") == ClickMapping(
        Source(
            {
                "user_id": ("userId", "anonymousId"),
                "item_id": ("properties.product_id",),
                "timestamp": ("time",),
                "event_type": ("event",),
                "price": ('cost."in.EUR"',),
            },
            "s",
        ),
        Source({"user_id": ("uid",), "item_id": ("sku",), "timestamp": ("ts",), "price": ("price",)}),
        {"3": "cart", "Product Viewed": "view"},
        None,
        ("ping",),
        ("item_id", "price"),
        {"category": "7", "quantity": 1.0},
        "other",
    )


def test_a_name_for_an_event_type_is_read_as_from_a_message() -> None:
    """Text of a whole float is the whole number, or the type would depend on the way that a message is decoded."""
    assert parse_mapping(f"{FIELDS}[event_types]\nbuy = '2.0'\nview = '2.5'", "x").event_types == {
        "buy": "2", "view": "2.5",
    }  # fmt: skip


def test_the_names_of_types_are_compared_as_they_are_read() -> None:
    """A producer's 3, 3.0 and "3.0" are the type 3, so "3.0" in the file is that type, too."""
    read = parse_mapping(f"{FIELDS}[event_types]\n'3.0' = 'buy'\n[events]\nkeep = ['3.0', '4']\ndrop = ['5.0']", "x")
    assert read.event_types == {"3": "buy"}
    assert (read.keep, read.drop) == (("3", "4"), ("5",))


def test_the_hash_is_of_what_is_read() -> None:
    """Comments, order, quotes and the form of a path do not change it; any other change does."""
    same = (
        "# a comment\n[fields]\ntimestamp = 'time'  # here\nitem_id = ['\"properties\".product_id']\n"
        'user_id = ["userId", "anonymousId", "userId"]\n'
    )
    first = parse_mapping(FIELDS, "a").hash
    assert first == parse_mapping(same, "b").hash
    others = [
        FIELDS.replace('"time"', '"ts"'),
        FIELDS.replace('"userId", "anonymousId"', '"anonymousId", "userId"'),
        f'{FIELDS}[defaults]\ncategory = "x"\n',
        f'{FIELDS}[events]\nkeep = ["view"]\n',
        f'{FIELDS}[event_types]\na = "b"\n',
        f'{FIELDS}[key]\nholds = "nothing"\n',
        WHOLE,
    ]
    hashes = {parse_mapping(other, "c").hash for other in others}
    assert len(hashes) == len(others)
    assert first not in hashes


def test_the_hash_of_a_file_never_changes() -> None:
    """It is in the manifests of models that are in service: another one would make a new Eddy refuse all of them."""
    content = b'{"event_types":{"a":"view"},"topic":{"fields":{"item_id":["i"],"timestamp":["t"],"user_id":["u"]}}}'
    text = "[fields]\nuser_id = 'u'\nitem_id = 'i'\ntimestamp = 't'\n[event_types]\na = 'view'"
    assert parse_mapping(text, "x").hash == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the section [fields] is missing"),
        ("nonsense", "not TOML"),
        ("a = " + "[" * 5000, "not TOML"),
        ("a = " + "9" * 5000, "not TOML"),
        ("field = 3", "a section 'field', which is not known; did you mean 'fields'?"),
        ("fields = 3", "it must be a section [fields]"),
        ("[[fields]]", "it must be a section [fields]"),
        (FIELDS.replace("item_id", "itemid"), "[fields] has 'itemid', which is not known; did you mean 'item_id'?"),
        (FIELDS.replace("item_id", "zzz"), "[fields] has 'zzz', which is not known; known are user_id, item_id"),
        (FIELDS.replace('item_id = "properties.product_id"', ""), "[fields] has no item_id"),
        (FIELDS.replace('"time"', "3"), "[fields] timestamp is 3; it must be a path"),
        (FIELDS.replace('"time"', "[]"), "[fields] timestamp is []; it must be a path"),
        (FIELDS.replace('"time"', '"a..b"'), "[fields] timestamp: path 'a..b' is not readable"),
        (f"{FIELDS}[event_types]\na = 3", "[event_types] 'a' is 3"),
        (f"{FIELDS}[event_types]\na = ''", "[event_types] 'a' is ''"),
        (f"{FIELDS}[event_types]\na = '{'x' * 65}'", "a text of 1 to 64"),
        (f"{FIELDS}[event_types]\na = '1.5e20'", "[event_types] 'a' is '1.5e20', a float that is too large"),
        (f"{FIELDS}[event_types]\n3 = 'a'\n'3.0' = 'b'", "[event_types] has the type '3' twice, here as '3.0'"),
        (f"{FIELDS}[events]\nkeep = ['3']\ndrop = ['3.0']", "keep and drop both have 3"),
        (f"{FIELDS}[events]\nkeeps = []", "did you mean 'keep'?"),
        (f"{FIELDS}[events]\nkeep = []", "[events] keep is empty"),
        (f"{FIELDS}[events]\nkeep = 'a'", "it must be a list of names"),
        (f"{FIELDS}[events]\nkeep = ['a']\ndrop = ['a']", "keep and drop both have a"),
        (f"{FIELDS}[events]\ndrop_without = ['item']", "did you mean 'item_id'?"),
        (f"{FIELDS}[events]\ndrop_without = ['price']", "drop_without has price, which has no path in [fields]"),
        (WHOLE.rpartition("price = ")[0], "drop_without has price, which has no path in [log.fields]"),
        (f"{FIELDS}[defaults]\nuser_id = 'u'", "[defaults] has 'user_id'"),
        (f"{FIELDS}[defaults]\nprice = 'cheap'", "[defaults] price is 'cheap', not a number >= 0"),
        (f"{FIELDS}[defaults]\ncategory = ''", "[defaults] category is empty"),
        (f"{FIELDS}[time]\nunit = 'm'", "[time] unit is 'm'; it must be one of s, ms, us, ns"),
        (f"{FIELDS}[time]\nunit = [1]", "[time] unit is [1]"),
        (f"{FIELDS}[key]\nholds = 'user'", "it must be one of user_id, other, nothing"),
        (
            f'{FIELDS}event_type = "$headers.ce_type"\n[message]\nformat = "avro"',
            "[fields] has paths in $headers, which need messages in JSON; [message] format is avro",
        ),
        (f"{FIELDS}[key]\nrekey = 'yes'", "[key] rekey is 'yes'; it must be true or false"),
        (f"{FIELDS}[log]", "the section [log.fields] is missing"),
        (f"{FIELDS}[log.fields]\nuser_id = 'u'", "[log.fields] has no item_id"),
        (f"{FIELDS}[log.time]\nunits = 's'", "the section [log.fields] is missing"),
    ],
)
def test_a_wrong_file_is_one_line_with_what_it_must_be(text: str, words: str) -> None:
    """The line names the file, the section, what it has and what it must have."""
    with pytest.raises(ConfigError) as error:
        parse_mapping(text, "shop.toml")
    assert str(error.value).startswith("mapping shop.toml: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    """A missing file, a directory, what is no regular file, and a file that is not UTF-8."""
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    for path, words in (
        (tmp_path, "a directory or a pipe, and no file; `eddy init`"),
        (Path(os.devnull), "a directory or a pipe, and no file"),
        (tmp_path / "x", "no such file; `eddy init`"),
        (tmp_path / "latin.toml", "not UTF-8"),
    ):
        with pytest.raises(ConfigError, match=words):
            read_mapping(path)


# -- the mapping of a model -------------------------------------------------------------------------------------------


def mapped(text: str = WHOLE, name: str = "shop.toml") -> MappingFile:
    return MappingFile(name, text, parse_mapping(text, name))


@pytest.fixture
def trained(model_dir: Path, tmp_path: Path) -> tuple[Manifest, Path]:
    """The manifest of a model that was trained with WHOLE, and a directory with the copy of the file."""
    (tmp_path / MAPPING).write_text(WHOLE)
    return msgspec.structs.replace(read_manifest(model_dir), mapping=parse_mapping(WHOLE, "x").hash), tmp_path


def test_without_an_option_the_model_s_own_mapping_is_used(trained: tuple[Manifest, Path]) -> None:
    """The copy in the model's directory; a model without a mapping needs none."""
    manifest, directory = trained
    own = mapping_of_model(None, manifest, directory)
    assert own is not None
    assert own.mapping == parse_mapping(WHOLE, "x")
    assert mapping_of_model(None, msgspec.structs.replace(manifest, mapping=msgspec.UNSET), directory) is None


def test_a_mapping_that_differs_only_in_comments_is_the_model_s(trained: tuple[Manifest, Path]) -> None:
    """The content counts, not the bytes."""
    given = mapped(f"# moved to production\n{WHOLE}")
    assert mapping_of_model(given, *trained) is given


def test_a_topic_that_gets_another_key_needs_no_training(trained: tuple[Manifest, Path]) -> None:
    """A shop that keys its topic by the user from now on ends the re-keying; what is read of a click stays."""
    assert 'holds = "other"' in WHOLE
    for key in ('holds = "user_id"', 'holds = "nothing"\nrekey = true', 'holds = "other"\nrekey = true'):
        given = mapped(WHOLE.replace('holds = "other"', key))
        assert mapping_of_model(given, *trained) is given
    with pytest.raises(ConfigError, match="is not the one"):
        mapping_of_model(mapped(WHOLE.replace('holds = "other"', "").replace("ping", "pong")), *trained)


def test_another_mapping_than_the_model_s_is_refused(trained: tuple[Manifest, Path]) -> None:
    """Both files are named, and what to do; also for a model that was trained without a mapping."""
    manifest, directory = trained
    with pytest.raises(ConfigError, match=r"shop.toml is not the one .*\. Omit --mapping .* or train again"):
        mapping_of_model(mapped(WHOLE.replace("ping", "pong")), manifest, directory)
    with pytest.raises(ConfigError, match=r"was trained without a mapping: train it with --mapping shop.toml"):
        mapping_of_model(mapped(), msgspec.structs.replace(manifest, mapping=msgspec.UNSET), directory)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('["userId", "anonymousId"]', '"visitor"', "[fields] user_id: model ['userId', 'anonymousId'], file 'visitor'"),
        (
            "event_type = ",
            "session_id = ",
            "[fields] event_type: model 'event', file none; [fields] session_id: model ",
        ),
        ("3 = ", "4 = ", "[event_types] '3': model 'cart', file none; [event_types] '4': model none, file 'cart'"),
        ("drop = ", "keep = ", "[events] drop: model 'ping', file none; [events] keep: model none, file 'ping'"),
        ('quantity = "1"', "quantity = 2", "[defaults] quantity: model 1.0, file 2.0"),
        ('unit = "s"', "", "[time] unit: model 's', file none"),
        ('"uid"', '"x"', "[log.fields] user_id: model 'uid', file 'x'"),
        ("ping", "p" * 200, f"[events] drop: model 'ping', file '{'p' * 79}. "),
    ],
)
def test_a_refused_mapping_is_said_with_what_differs(
    trained: tuple[Manifest, Path], old: str, new: str, said: str
) -> None:
    """Two files of many lines are not compared by eye. The key, which needs no training, is no difference."""
    text = WHOLE.replace(old, new, 1).replace('holds = "other"', 'holds = "nothing"')
    assert text.replace('holds = "nothing"', 'holds = "other"') != WHOLE
    with pytest.raises(ConfigError) as refused:
        mapping_of_model(mapped(text), *trained)
    assert f" model tiny/1 was trained with. {said}" in str(refused.value)
    assert "more" not in str(refused.value)


def test_of_many_differences_the_first_are_said_and_the_others_counted(trained: tuple[Manifest, Path]) -> None:
    """Also without the section of the log, all of whose entries are then missing."""
    with pytest.raises(ConfigError) as refused:
        mapping_of_model(mapped(WHOLE.split("[log.fields]")[0].replace("ping", "pong")), *trained)
    message = str(refused.value)
    assert "[log.fields] user_id: model 'uid', file none; [log.fields] item_id: " in message
    assert "; and 2 more. Omit --mapping" in message


def test_a_copy_that_is_not_what_the_manifest_says_is_refused(trained: tuple[Manifest, Path]) -> None:
    """A copy of another content, and one that is not a mapping."""
    manifest, directory = trained
    for text in (FIELDS, "nonsense"):
        (directory / MAPPING).write_text(text)
        with pytest.raises(ArtifactError):
            mapping_of_model(None, manifest, directory)


def test_a_model_without_its_copy_of_the_mapping_is_refused(model_dir: Path, tmp_path: Path) -> None:
    """As any file that the manifest needs: the directory was not copied whole."""
    directory = tmp_path / "m" / "1"
    shutil.copytree(model_dir, directory)
    write_manifest(directory, msgspec.structs.replace(read_manifest(directory), mapping="0" * 64))
    with pytest.raises(ArtifactError, match=r"mapping\.toml is missing; copy the whole directory again"):
        read_manifest(directory)


def test_a_worker_refuses_a_topic_that_is_not_keyed_by_the_user() -> None:
    """The key decides which worker has a user's state. With `rekey` the workers copy the messages to another topic."""
    with pytest.raises(
        ConfigError, match=r"\[key\] holds = 'other', but a worker needs .* add rekey = true to \[key\]"
    ):
        check_key(mapped())
    check_key(mapped(FIELDS))
    check_key(mapped(f"{FIELDS}[key]\nholds = 'nothing'\nrekey = true\n"))


def test_a_state_goes_over_only_through_copies() -> None:
    """The ids may be in different partitions. What is read is another content, so the model knows it."""
    fields = '[fields]\nuser_id = "u"\nitem_id = "i"\ntimestamp = "t"\n'
    with_anonymous = fields + 'anonymous_id = ["a", "b"]\n'
    mapping = parse_mapping(with_anonymous, "shop.toml")
    assert mapping.carries
    assert mapping.hash != parse_mapping(fields.replace('"u"', '["u", "a", "b"]'), "shop.toml").hash
    assert mapping.of_topic().paths == parse_mapping(fields.replace('"u"', '["u", "a", "b"]'), "s").of_topic().paths
    with pytest.raises(ConfigError, match=r"\[fields\] has anonymous_id, .* add rekey = true to \[key\]"):
        check_key(MappingFile("shop.toml", with_anonymous, mapping))
    rekeyed = with_anonymous + "[key]\nrekey = true\n"
    check_key(MappingFile("shop.toml", rekeyed, parse_mapping(rekeyed, "shop.toml")))


def test_a_topic_can_be_rekeyed_without_training_again() -> None:
    """`rekey` does not change what is read, so the hash in the model's manifest fits a file with it."""
    one, two = (parse_mapping(f"{FIELDS}[key]\nrekey = {value}\n", "a") for value in ("true", "false"))
    assert (one.rekey, two.rekey) == (True, False)
    assert one.hash == two.hash == parse_mapping(FIELDS, "b").hash
