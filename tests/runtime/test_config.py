from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from weft.runtime.config import (
    REFERENCE_MODEL,
    ConfigError,
    ModelSettings,
    Settings,
    WorkerConfig,
    client_settings,
    load_settings,
)
from weft.runtime.scheduler.policies import Policies


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in an empty working folder, without variables of the machine."""
    monkeypatch.chdir(tmp_path)
    for variable in [name for name in os.environ if name.startswith("WEFT_")]:
        monkeypatch.delenv(variable)


def _write(text: str, file: str = "weft.toml") -> Path:
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_the_default_is_the_reference_model_on_this_machine() -> None:
    settings = load_settings()
    assert [model.name for model in settings.models] == ["reference"]
    assert Path(settings.models[0].path) == REFERENCE_MODEL
    assert (REFERENCE_MODEL / "config.json").is_file()
    assert settings.server is None
    assert settings.listen.startswith("127.0.0.1:")


def test_arguments_win_over_variables_over_the_file_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    _write('listen = "127.0.0.1:1"\nlog_level = "error"\nmax_message_mb = 2\n')
    monkeypatch.setenv("WEFT_LISTEN", "127.0.0.1:3")
    monkeypatch.setenv("WEFT_LOG_LEVEL", "debug")
    settings = load_settings(listen="127.0.0.1:4", log_level=None)
    assert settings.listen == "127.0.0.1:4"
    assert settings.log_level == "debug"
    assert settings.max_message_mb == 2


def test_the_file_is_the_named_one_or_that_of_the_variable_or_weft_toml(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _write("max_message_mb = 1")
    variable, named = _write("max_message_mb = 2", "b.toml"), _write("max_message_mb = 3", "c.toml")
    assert load_settings().max_message_mb == 1
    monkeypatch.setenv("WEFT_CONFIG", str(variable))
    assert load_settings().max_message_mb == 2
    assert load_settings(named).max_message_mb == 3


def test_policies_come_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    _write('[scheduler]\nplacement = "sticky"\nweights = {a = 2}\n')
    monkeypatch.setenv("WEFT_SCHEDULER__TRANSFER", "never")
    settings = load_settings()
    assert settings.scheduler == Policies(placement="sticky", transfer="never", weights={"a": 2.0})
    assert Settings.model_validate_json(settings.model_dump_json()).scheduler == settings.scheduler


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'placment = "sticky"',
            "scheduler: unknown key 'placment'; did you mean 'placement'? known: batching,",
        ),
        ('placement = "best"', "unknown placement policy 'best'; known: 'affinity'"),
        ("longest_wait_s = []", "weft.toml: scheduler.longest_wait_s: "),
        ("grace_s = -1", "grace_s is -1.0, but nobody waits less than 0 s"),
        ("link_mb_s = 0", "link_mb_s is 0.0, but KV must take some time to come"),
    ],
)
def test_a_policy_that_is_not_is_refused(text: str, message: str) -> None:
    _write(f"[scheduler]\n{text}\n")
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_settings()


def test_lists_are_json_in_variables_and_tables_have_double_underscores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WEFT_MODELS", '[{"path": "/models/small"}]')
    monkeypatch.setenv("WEFT_PROGRAMS__ANSWER", "answer.json")
    settings = load_settings()
    assert settings.models == [ModelSettings(name="small", path="/models/small")]
    assert settings.programs == {"answer": Path("answer.json")}


def test_tables_of_file_and_variables_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    _write('[programs]\none = "1.json"\ntwo = "2.json"\n')
    monkeypatch.setenv("WEFT_PROGRAMS__TWO", "other.json")
    assert load_settings().programs == {"one": Path("1.json"), "two": Path("other.json")}


def test_paths_in_a_file_are_relative_to_it() -> None:
    Path("conf/model").mkdir(parents=True)
    file = _write(
        'data = "store"\nimport_paths = ["tools"]\nembedder = "absent/model"\n'
        '[programs]\nanswer = "answer.json"\n'
        '[[models]]\npath = "model"\n[[models]]\npath = "org/name"\n',
        "conf/weft.toml",
    )
    settings = load_settings(file)
    assert settings.data == Path("conf/store")
    assert settings.import_paths == [Path("conf/tools")]
    assert settings.programs == {"answer": Path("conf/answer.json")}
    assert [model.path for model in settings.models] == ["conf/model", "org/name"]  # the latter from a hub
    assert [model.name for model in settings.models] == ["model", "name"]
    assert settings.embedder == "absent/model"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lisen = 1", "weft.toml: unknown key 'lisen'; did you mean 'listen'? known: listen, server, data"),
        ("zzz = 1", "weft.toml: unknown key 'zzz'; known: listen, server, data"),
        ('Data = "a"', "weft.toml: unknown key 'Data'; did you mean 'data'? known: listen"),
        ('[[model]]\npath = "a"', "weft.toml: unknown key 'model'; did you mean 'models'?"),
        (
            '[[models]]\npath = "a"\ndtyp = "x"',
            "unknown key 'models.0.dtyp'; did you mean 'dtype'? known: name",
        ),
        ("[[models]]\n", "weft.toml: models.0.path: Field required"),
        ('[[models]]\npath = "a"\ndtype = "int8"', "weft.toml: models.0.dtype: Input should be 'auto'"),
        ('models = "small"', "weft.toml: models: Input should be a valid list: a table [[models]] for"),
        (
            '[models]\npath = "a"',
            "weft.toml: models: Input should be a valid list: a table [[models]] for each",
        ),
        ('data = ["a"]', "weft.toml: data: Input is not a valid path"),
        ('http = "8000"', "weft.toml: http: an HTTP address is 'HOST:PORT', not '8000'"),
        ('metrics = "9090"', "weft.toml: metrics: an HTTP address is 'HOST:PORT', not '9090'"),
        ('traces = "collector:4317"', "weft.toml: traces: "),
        ('listen = "nowhere"', "weft.toml: listen: an address is 'HOST:PORT' or 'unix:PATH', not 'nowhere'"),
        ('listen = "here:99999"', "weft.toml: listen: an address is"),
        ('tools = ["shop.price"]', "weft.toml: tools.0: a tool is named 'module:function', not 'shop.price'"),
        (
            '[[models]]\npath = "a"\nurl = "host:8000"',
            "URL of a server is 'http://HOST:PORT/v1', not 'host:8000'",
        ),
        ('[[models]]\npath = "a"\nurl = "http://me:pw@h/v1"', "a password does not belong in a URL"),
        (
            '[[models]]\npath = "a"\nurl = "http://h/v1"\nkv_tokens = 9',
            "weft.toml: models.0: 'kv_tokens' is the other server's business: leave it out",
        ),
        (
            '[[models]]\npath = "a"\nserved_as = "b"',
            "weft.toml: models.0: 'served_as' goes with 'url' only: leave it out of the table of model 'a'",
        ),
        ("max_message_mb = 0", "weft.toml: max_message_mb: Input should be greater than 0"),
        ("listen = ", "weft.toml: not TOML: Invalid value (at end of document)"),
        ('[[models]]\npath = "x/a"\n[[models]]\npath = "y/a"', "two models are called 'a': give each a name"),
    ],
)
def test_a_wrong_file_is_refused_with_file_and_key(text: str, message: str) -> None:
    _write(text)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("WEFT_LISEN", "x", "unknown variable 'WEFT_LISEN'; did you mean 'WEFT_LISTEN'? known: WEFT_CONFIG,"),
        ("WEFT_MODELS", "small", 'environment: error parsing value for field "models"'),
        ("WEFT_PROFILE_S", "inf", "environment: profile_s: Input should be a finite number"),
        ("WEFT_SCHEDULER__GRACE_S", "inf", "environment: scheduler.grace_s: Input should be a finite number"),
        ("WEFT_LOG_LEVEL", "loud", "environment: log_level: Input should be 'debug', 'info'"),
        ("WEFT_CONFIG", "gone.toml", "configuration file 'gone.toml' (named by WEFT_CONFIG) does not exist"),
    ],
)
def test_a_wrong_variable_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("called", "variables", "key"),
    [
        (None, {}, "in-the-file"),
        ("a:1", {}, "in-the-file"),
        ("b:1", {}, None),
        ("grpcs://a:1", {}, None),
        (None, {"WEFT_SERVER": "b:1"}, None),
        ("a:1", {"WEFT_SERVER": "b:1"}, "in-the-file"),
        ("b:1", {"WEFT_API_KEY": "variable"}, "variable"),
    ],
)
def test_the_key_of_a_file_is_sent_to_the_server_of_the_file(
    called: str | None, variables: dict[str, str], key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("weft.toml").write_text('server = "a:1"\napi_key = "in-the-file"\n')
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert client_settings(server=called).key == key


def test_the_key_of_a_file_without_a_server_is_sent_to_any() -> None:
    Path("weft.toml").write_text('api_key = "k"\n')
    assert client_settings(server="a:1").key == "k"


def test_files_for_tls_are_relative_to_the_configuration(tmp_path: Path) -> None:
    Path("there").mkdir()
    Path("there/weft.toml").write_text('tls_cert = "c.pem"\ntls_key = "k.pem"\ntls_ca = "ca.pem"\n')
    settings = load_settings(Path("there/weft.toml")).absolute()
    assert settings.tls_cert == tmp_path / "there/c.pem"
    assert settings.tls_key == tmp_path / "there/k.pem"
    assert settings.tls_ca == tmp_path / "there/ca.pem"
    assert settings.called == "grpcs://127.0.0.1:7420"


def test_a_wrong_argument_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^arguments: server: an address is"):
        load_settings(server="localhost")
    with pytest.raises(ConfigError, match=r"^configuration file 'gone.toml' does not exist$"):
        load_settings(Path("gone.toml"))


def test_a_file_that_is_no_text_is_refused() -> None:
    Path("weft.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"^weft.toml: cannot be read: "):
        load_settings()


def test_settings_survive_the_way_to_another_process(tmp_path: Path) -> None:
    settings = Settings(data=Path("store"), programs={"a": Path("a.json")}).absolute()
    assert settings.data == tmp_path / "store"
    assert settings.programs == {"a": tmp_path / "a.json"}
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_a_worker_gets_its_part_of_the_settings(tmp_path: Path) -> None:
    settings = Settings(tools=["shop:price"], profile_s=0, log_level="debug")
    config = WorkerConfig.of(settings, ("tool",), listen="unix:w", orchestrator="unix:o")
    assert config.data == tmp_path / ".weft"
    assert (config.tools, config.profile_s, config.log_level) == (["shop:price"], 0, "debug")
    assert WorkerConfig.model_validate_json(config.model_dump_json()) == config


def test_a_model_elsewhere_survives_the_way_to_a_worker_but_for_its_key() -> None:
    _write(
        '[[models]]\nname = "m"\npath = "org/m"\nurl = "http://h:8000/v1/"\nkey = "hidden"\nmax_running = 9\n'
    )
    (model,) = load_settings().models
    assert model.url == "http://h:8000/v1"
    assert model.key is not None
    assert "hidden" not in f"{model!r} {model.model_dump_json()}"
    arrived = ModelSettings.model_validate_json(model.model_dump_json())
    assert arrived == model.model_copy(update={"key": None})


@pytest.mark.parametrize("key", ["indexes", "journal"])
def test_a_database_is_shown_to_nobody(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://weft:hidden@host/runs"
    monkeypatch.setenv(f"WEFT_{key.upper()}", url)
    settings = load_settings()
    assert getattr(settings, key).get_secret_value() == url
    assert "hidden" not in f"{settings!r} {settings.model_dump_json()}"
    assert not getattr(load_settings(None, **{key: ""}), key)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://weft:hidden@host/runs",
        "postgresql://weft:hid@hidden@host/runs",
        "postgresql://weft:1/hidden@host/runs",
        "postgresql://weft:1?hidden@host/runs",
        "postgresql://weft:hidden/runs",
    ],
)
def test_a_database_is_named_by_a_url_whose_password_none_could_take_for_a_host(url: str) -> None:
    with pytest.raises(ConfigError, match="a database is 'postgresql://USER@HOST:PORT/DATABASE'") as raised:
        load_settings(journal=url)
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///runs",
        "postgres://weft:a%40b:c!$@host:5432/runs?sslmode=verify-full",
        "postgresql://weft@[::1]:5432,other/runs",
        "postgresql://?host=/run/postgresql&dbname=runs",
        "postgresql://weft@%2Frun%2Fpostgresql/runs",
    ],
)
def test_the_urls_of_databases_are_those_of_libpq(url: str) -> None:
    assert load_settings(journal=url).journal.get_secret_value() == url
    assert conninfo_to_dict(url)["dbname"] == "runs"


def test_a_workers_defaults_can_be_left_out_of_its_document() -> None:
    config = WorkerConfig.model_validate_json('{"kinds": ["embed"], "orchestrator": "unix:o"}')
    assert config == WorkerConfig(kinds=("embed",), orchestrator="unix:o")
    assert config.data == Path(".weft")


def test_a_worker_of_language_models_needs_one() -> None:
    with pytest.raises(ValueError, match="needs a model"):
        WorkerConfig.of(Settings(), ("llm",), listen="unix:w", orchestrator="unix:o")
