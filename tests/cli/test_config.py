"""The configuration: defaults, file, environment, and messages that tell an admin what to mend."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from dcmpress.cli.wiring import pipeline_settings
from dcmpress.config import Config, ConfigError, changed_keys, load, taken_over
from tests.corpus_files import PROJECT


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def problem(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return str(caught.value)


def test_the_commented_file_holds_every_key_with_its_default() -> None:
    shipped = YAML(typ="safe").load(PROJECT / "config.yaml")
    defaults = Config()
    for section in Config.model_fields:
        model = getattr(defaults, section)
        assert set(shipped[section]) == set(type(model).model_fields), section
    loaded = load(PROJECT / "config.yaml")
    assert loaded.model_copy(update={"storage": defaults.storage}) == defaults
    assert loaded.root == PROJECT / "data"


def test_without_a_file_the_defaults_count(tmp_path: Path) -> None:
    config = load()
    assert config.dicom.ae_title == "DCMPRESS"
    assert config.dicom.port == 11112
    assert config.root == tmp_path / "data"
    assert config.catalog_url == f"sqlite:///{tmp_path}/data/catalog.sqlite"


def test_config_yaml_in_the_working_directory_is_found(tmp_path: Path) -> None:
    written(tmp_path, "dicom: {port: 4242}")
    assert load().dicom.port == 4242


def test_unknown_key_is_named_with_line_and_nearest_key(tmp_path: Path) -> None:
    path = written(tmp_path, "dicom:\n  port: 104\n  ae_titel: X\n")
    assert problem(path) == f"{path}, line 3: unknown key dicom.ae_titel; did you mean ae_title?"


def test_unknown_section_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "dcom:\n  port: 104\n")
    assert problem(path) == f"{path}, line 1: unknown key dcom; did you mean dicom?"


def test_wrong_value_is_named_with_line_and_value(tmp_path: Path) -> None:
    path = written(tmp_path, "pipeline:\n  workers: 1\ndicom:\n  port: 70000\n")
    message = problem(path)
    assert message.startswith(f"{path}, line 4: dicom.port:")
    assert "70000" in message


def test_every_problem_has_a_line_of_its_own(tmp_path: Path) -> None:
    path = written(tmp_path, "dicom:\n  port: x\nlog:\n  level: loud\n")
    lines = problem(path).splitlines()
    assert [line.split(":")[0] for line in lines] == [f"{path}, line 2", f"{path}, line 4"]


def test_a_rule_inside_a_list_is_found(tmp_path: Path) -> None:
    path = written(tmp_path, "compression:\n  rules:\n    - codec: zstd\n    - codec: interfrme\n")
    message = problem(path)
    assert message.startswith(f"{path}, line 4: compression.rules.1.codec:")
    assert "did you mean interframe?" in message


def test_a_rule_cannot_match_on_what_is_not_known(tmp_path: Path) -> None:
    path = written(tmp_path, "compression:\n  rules:\n    - {codec: zstd, match: {Modalty: CT}}\n")
    assert "did you mean Modality?" in problem(path)


def test_a_codec_parameter_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "compression:\n  rules:\n    - {codec: interframe, effort: heroic}\n")
    assert "heroic" in problem(path)


def test_broken_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, "dicom:\n  port: [1\n")
    assert problem(path).startswith(f"{path}, line ")


def test_missing_file(tmp_path: Path) -> None:
    assert "No such file" in problem(tmp_path / "absent.yaml")


def test_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "dicom:\n  port: 104\n  ae_title: FILE\n")
    monkeypatch.setenv("DCMPRESS_DICOM__PORT", "11113")
    monkeypatch.setenv(
        "DCMPRESS_DICOM__PEERS", '{"ws1": {"ae_title": "WS1", "host": "127.0.0.1", "port": 11113}}'
    )
    monkeypatch.setenv("DCMPRESS_COMPRESSION__RULES", '[{"codec": "zstd"}]')
    config = load(path)
    assert (config.dicom.port, config.dicom.ae_title) == (11113, "FILE")
    assert config.dicom.peers["ws1"].ae_title == "WS1"
    assert config.compression.rules[0].codec == "zstd"


def test_wrong_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCMPRESS_DICOM__PORT", "many")
    with pytest.raises(ConfigError, match="DCMPRESS_DICOM__PORT"):
        load()


def test_environment_that_is_not_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCMPRESS_DICOM__PEERS", "{oops")
    with pytest.raises(ConfigError, match="JSON"):
        load()


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    path = written(folder, "storage:\n  root: archive\n  blob_url: blobs\n")
    config = load(path)
    assert config.root == folder / "archive"
    assert config.blob_folder == folder / "blobs"


def test_paths_in_the_environment_are_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    monkeypatch.setenv("DCMPRESS_STORAGE__ROOT", "here")
    assert load(written(folder, "{}")).root == tmp_path / "here"


def test_listening_wider_needs_a_word_on_who_may_call(tmp_path: Path) -> None:
    path = written(tmp_path, "dicom:\n  bind: 0.0.0.0\n")
    assert "dicom.accept_any_caller" in problem(path)
    assert load(written(tmp_path, "dicom:\n  bind: 0.0.0.0\n  accept_any_caller: true\n"))
    assert load(written(tmp_path, "dicom:\n  bind: 0.0.0.0\n  allow: [{ae_title: CT1}]\n"))
    assert load(written(tmp_path, "dicom:\n  bind: '::1'\n"))


def test_a_wrong_network_is_one_problem_in_one_line(tmp_path: Path) -> None:
    path = written(tmp_path, "dicom:\n  allow:\n    - networks: [192.0.2.0/24, 192.0.2.0/33]\n")
    assert problem(path).startswith(f"{path}, line 3: dicom.allow.0.networks.1: '192.0.2.0/33' does not")
    assert len(problem(path).splitlines()) == 1


def test_ae_titles_have_at_most_16_characters(tmp_path: Path) -> None:
    assert "dicom.ae_title" in problem(written(tmp_path, "dicom:\n  ae_title: 12345678901234567\n"))


def test_pixel_exact_is_for_codecs_of_images_and_off_unless_asked_for(tmp_path: Path) -> None:
    assert not any(rule.pixel_exact for rule in load(written(tmp_path, "{}")).compression.rules)
    rules = "compression:\n  rules:\n    - {{codec: {}, pixel_exact: true}}\n"
    choice = pipeline_settings(load(written(tmp_path, rules.format("interframe")))).rules[0].choice
    assert choice.pixel_exact
    for codec in ("zstd", "store"):
        with pytest.raises(ConfigError, match="keeps the bytes as they come"):
            load(written(tmp_path, rules.format(codec)))
    cold = "compression:\n  cold: {{codec: {}, pixel_exact: true}}\n"
    assert not load(written(tmp_path, "{}")).compression.cold.pixel_exact
    assert load(written(tmp_path, cold.format("jpeg-ls"))).compression.cold.pixel_exact
    with pytest.raises(ConfigError, match="keeps the bytes as they come"):
        load(written(tmp_path, cold.format("zstd")))


def test_idle_time_recompression_has_the_effort_of_its_codec(tmp_path: Path) -> None:
    assert load(written(tmp_path, "{}")).compression.cold.codec_parameters == {"effort": "dense"}
    cold = load(written(tmp_path, "compression:\n  cold: {codec: jpeg-ls}\n")).compression.cold
    assert cold.codec_parameters == {}


def test_changed_keys_are_told_apart_by_what_a_running_node_can_take_over(tmp_path: Path) -> None:
    old = load(written(tmp_path, "{}"))
    new = load(
        written(
            tmp_path,
            "dicom:\n  port: 104\n  peers: {a: {ae_title: A, host: h, port: 1}}\nlog: {level: debug}\n",
        )
    )
    now, later = changed_keys(old, new)
    assert "log.level" in now
    assert [key for key in now if key.startswith("dicom.peers")] == ["dicom.peers.a"]
    assert changed_keys(new, old)[0] == now
    assert later == ["dicom.port"]


def test_a_reload_never_opens_the_node_to_everybody(tmp_path: Path) -> None:
    old = load(written(tmp_path, "dicom: {bind: 0.0.0.0, allow: [{ae_title: CT1}]}\n"))
    new = load(written(tmp_path, "dicom: {bind: 127.0.0.1, max_associations: 5}\n"))
    with pytest.raises(ConfigError, match=r"stays until a restart: bind: 0\.0\.0\.0 is open"):
        taken_over(old, new)
    closed = load(written(tmp_path, "dicom: {bind: 127.0.0.1, allow: [{ae_title: MR1}]}\n"))
    taken = taken_over(old, closed)
    assert (taken.dicom.bind, taken.dicom.allow[0].ae_title) == ("0.0.0.0", "MR1")


def test_transfer_syntaxes_are_known_by_name_and_uid(tmp_path: Path) -> None:
    text = "dicom:\n  transfer_syntaxes: [stored, htj2k, 1.2.840.10008.1.2.5]\n"
    prefix = "1.2.840.10008.1.2."
    assert load(written(tmp_path, text)).dicom.transfer_syntaxes == ("stored", f"{prefix}4.201", f"{prefix}5")
    path = written(tmp_path, "dicom:\n  transfer_syntaxes:\n    - jpegls\n")
    assert problem(path).startswith(f"{path}, line 3: dicom.transfer_syntaxes.0: no transfer syntax 'jpegls'")
    assert "did you mean jpeg-ls?" in problem(path)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("dicom: hello\n", 1, "dicom: a map is wanted (not 'hello')"),
        ("dicom:\n  peers: [1]\n", 2, "dicom.peers: a map is wanted (not [1])"),
        ("dicom:\n  allow:\n    - CT1\n", 3, "dicom.allow.0: a map is wanted (not 'CT1')"),
        ("dicom:\n  allow: CT1\n", 2, "dicom.allow: a list is wanted (not 'CT1')"),
        ("dicom:\n  ae_title: 123\n", 2, "dicom.ae_title: text is wanted; put a number in quotes (not 123)"),
        ("dicom:\n  peers:\n    a: {ae_title: A, host: h}\n", 3, "dicom.peers.a.port: is missing"),
        (
            "dicom:\n  ae_title: Größe\n",
            2,
            "dicom.ae_title: 1 to 16 ASCII characters, no backslash, are wanted (not 'Größe')",
        ),
    ],
)
def test_a_wrong_kind_of_value_is_explained_in_plain_words(
    text: str, line: int, what: str, tmp_path: Path
) -> None:
    path = written(tmp_path, text)
    assert problem(path) == f"{path}, line {line}: {what}"


def test_two_peers_of_one_title_are_a_mistake(tmp_path: Path) -> None:
    peers = (
        "dicom:\n  peers:\n    a: {ae_title: WS, host: h, port: 1}\n    b: {ae_title: WS, host: g, port: 2}\n"
    )
    assert problem(written(tmp_path, peers)).endswith("peers: a and b have the same ae_title WS")


def test_a_peer_by_tls_needs_somebody_who_vouches_for_it(tmp_path: Path) -> None:
    path = written(tmp_path, "dicom:\n  peers:\n    a: {ae_title: WS, host: h, port: 1, tls: true}\n")
    assert "dicom.tls.authorities" in problem(path)


def test_the_tls_port_is_another_one(tmp_path: Path) -> None:
    tls = "dicom:\n  port: 4\n  tls: {port: 4, certificate: c, key: k, require_client_certificate: false}\n"
    assert problem(written(tmp_path, tls)).endswith("tls.port: 4 is the plain port already")


@pytest.mark.parametrize(
    ("variable", "what"),
    [
        ("DCMPRESS_DICM__PORT", "unknown section dicm; did you mean dicom?"),
        (
            "DCMPRESS_DICOM_PORT",
            "two underscores are wanted after the section, as in DCMPRESS_DICOM__PORT",
        ),
    ],
)
def test_a_variable_that_would_change_nothing_is_named(
    variable: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "104")
    with pytest.raises(ConfigError) as caught:
        load()
    assert str(caught.value) == f"environment variable {variable}: {what}"


def test_the_variable_that_is_not_json_is_named_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCMPRESS_DICOM__ALLOW", "CT1")
    monkeypatch.setenv("DCMPRESS_DICOM__AE_TITLE", "CT1")
    with pytest.raises(ConfigError) as caught:
        load()
    (line,) = str(caught.value).splitlines()
    assert line.startswith("environment variable DCMPRESS_DICOM__ALLOW: maps and lists are written as JSON: ")
