import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest
import yaml

from cellcode import config as configuration
from cellcode.cli import main
from cellcode.config import Config, MachineConfig
from cellcode.errors import InputError, UsageError

ROOT = Path(__file__).parent.parent
SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))
SAVED = sorted((ROOT / "tests" / "saved_configs").glob("*.yaml"))


def _file(folder: Path, text: str) -> Path:
    path = folder / "made.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("values", "unknown", "nearest"),
    [
        ({"trainning": {"epochs": 3}}, "trainning", "training"),
        ({"training": {"epoch": 3}}, "training.epoch", "training.epochs"),
        ({"model": {"ground": {"backbon": "tiny"}}}, "model.ground.backbon", "model.ground.backbone"),
        ({"model": {"aerial": {"aggregation": {"gemp": 3}}}}, "gemp", "model.aerial.aggregation.gem_p"),
        ({"epochs": 3}, "epochs", "training.epochs"),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_known_one_named(
    values: dict[str, object], unknown: str, nearest: str
) -> None:
    with pytest.raises(UsageError) as caught:
        configuration.parse(values, "my.yaml")
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert message.startswith("my.yaml: ")
    assert unknown in message
    assert message.endswith(f"the nearest known key is {nearest}")
    assert "\n" not in message


def test_an_unknown_key_of_an_override_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UsageError, match=r"the nearest known key is training\.epochs"):
        configuration.load(SHIPPED[0], ["training.epocs=2"])


def test_several_mistakes_are_all_named() -> None:
    with pytest.raises(UsageError) as caught:
        configuration.parse({"model": {"dim": 0}, "training": {"epochs": "many"}, "lost": {}})
    for key in ("model.dim", "training.epochs", "lost"):
        assert key in str(caught.value)


def test_an_override_wins_over_the_file_and_leaves_the_rest(tmp_path: Path) -> None:
    path = _file(tmp_path, "training: {epochs: 7, batch_size: 32}\n")
    plain = configuration.load(path)
    changed = configuration.load(path, ["training.epochs=5"])
    assert (plain.training.epochs, changed.training.epochs) == (7, 5)
    assert changed.training.batch_size == 32
    assert configuration.differences(plain, changed) == ["training.epochs: 7 -> 5"]


def test_overrides_take_yaml_values_of_every_kind(tmp_path: Path) -> None:
    config = configuration.load(
        _file(tmp_path, ""),
        [
            "training.learning_rate=1e-3",
            "training.backbone_learning_rate=null",
            "evaluation.radii_m=[5, 10]",
            "model.ground.pretrained=false",
            "model.ground.backbone=hf:models/a=b",
            "loss={kind: softmax, scale: 12}",
            "loss.scale=15",
        ],
    )
    assert config.training.learning_rate == 1e-3
    assert config.training.backbone_learning_rate is None
    assert config.evaluation.radii_m == (5.0, 10.0)
    assert config.model.ground.pretrained is False
    assert config.model.aerial.pretrained is True
    assert config.model.ground.backbone == "hf:models/a=b"
    assert (config.loss.kind, config.loss.scale) == ("softmax", 15)


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert configuration.load(_file(tmp_path, "")) == Config()


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("training.epochs", "expected key=value"),
        ("=5", "expected key=value"),
        ("name.epochs=5", "name is a value, not a section"),
        ("training.epochs=[", "not a YAML value"),
    ],
)
def test_an_override_that_cannot_be_understood_is_refused(tmp_path: Path, override: str, named: str) -> None:
    with pytest.raises(UsageError, match="--set") as caught:
        configuration.load(_file(tmp_path, "name: mine"), [override])
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "training.epochs=0",
        "training.epochs=2.5",
        "training.batch_size=many",
        "training.regime=half",
        "model.dim=1",
        "model.interpolation_radius_cells=1.21",
        "validation.share=1.1",
        "augmentation.tile_rotation_deg=181",
        "tile.size_m=0",
        "tile.scales=[1, 0]",
        "tile.scales=[]",
        "tile.scales=[1, 4, 2]",
        "tile.scales=[1, 1]",
        "loss.haversine_m=0",
        "levels.cell=31",
        "loss.alpha=-1",
        "training.sampling_exponent=1.5",
        "training.hard_group_size=0",
    ],
)
def test_a_value_out_of_its_range_is_refused_by_the_name_of_its_key(override: str) -> None:
    with pytest.raises(UsageError) as caught:
        configuration.load(SHIPPED[0], [override])
    assert override.split("=", maxsplit=1)[0] in str(caught.value)
    assert caught.value.exit_code == 2


def test_cells_must_lie_inside_prototype_cells() -> None:
    with pytest.raises(UsageError, match=r"levels\.cell must be at least levels\.prototype"):
        configuration.parse({"levels": {"prototype": 17, "cell": 16}})
    assert configuration.parse({"levels": {"prototype": 17, "cell": 17}}).levels.cell == 17


def test_a_configuration_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().training.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_configuration_loads_and_survives_dump_and_parse(path: Path) -> None:
    config = configuration.load(path)
    assert config.name == path.stem
    assert configuration.load(path.stem) == config
    assert configuration.parse(yaml.safe_load(configuration.dump(config, machine=True))) == config


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_shipped_configurations_are_what_they_were_and_saved_ones_of_before_open(path: Path) -> None:
    """The files were written by the version before keys were renamed, defaults changed and files could extend others."""
    saved = configuration.load_saved(path)
    assert configuration.differences(saved, configuration.load(path.stem)) == []
    assert saved.machine == MachineConfig()


def test_no_default_is_one_that_every_shipped_file_overrides() -> None:
    default = Config()
    changed = [
        {line.partition(":")[0] for line in configuration.differences(default, configuration.load(path))}
        for path in SHIPPED
    ]
    assert set.intersection(*changed) == {"name"}


def test_there_are_shipped_configurations() -> None:
    assert {path.stem for path in SHIPPED} >= {"demo", "campus"}


def test_dump_and_parse_keep_values_far_from_the_defaults() -> None:
    config = configuration.parse(
        {
            "name": "Straße: 5",
            "training": {"learning_rate": 1e-05, "backbone_learning_rate": 3e-7, "ema_decay": 0.999, "seed": 11},
            "evaluation": {"radii_m": [5], "ranks": [1, 2]},
            "build": {"kappa": 17.25, "unvisited_weight": 0.0},
        }
    )
    again = configuration.parse(yaml.safe_load(configuration.dump(config)))
    assert again == config
    assert configuration.differences(config, again) == []


def test_differences_name_every_changed_key() -> None:
    new = configuration.parse({"training": {"seed": 4}, "model": {"ground": {"aggregation": {"name": "gem"}}}})
    assert sorted(configuration.differences(Config(), new)) == [
        "model.ground.aggregation.name: optimal_transport -> gem",
        "training.seed: 0 -> 4",
    ]


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.yaml"):
        configuration.load(tmp_path / "absent.yaml")


def test_a_folder_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        configuration.load(tmp_path)


@pytest.mark.parametrize("text", ["training: {epochs: 3", "a: b: c", "- just\n- a list", "only words"])
def test_a_file_that_is_no_yaml_mapping_is_an_input_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"made\.yaml") as caught:
        configuration.load(_file(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


def test_yaml_from_anyone_is_read_within_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellcode.config.yaml_text.MAX_VALUES", 2000)
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for name, before in zip("bcdefgh", "abcdefg", strict=True):
        laughs += f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    bad = {
        "training:\n  epochs: 1\n  seed: 2\n  epochs: 3\n": "the key epochs is given twice, in line 2 and line 4; keep one",
        "name: a\ntraining: {seed: 1}\nname: b\n": "the key name is given twice, in line 1 and line 3; keep one",
        laughs: "more than 2000 values",
        "a: &a [*a]": "contains itself",
        "[" * 2000: "nested",
        "k: " + "x" * 2**20: "longer than 1024 KiB",
        "[" + "a," * 3000 + "]": "more than 2000 values",
        "a: 2024-13-45": "month must be in 1..12",
        "!!bool x": "the form of its type",
        "!!timestamp x": "the form of its type",
        "a: " + "9" * 5000: "digits",
        "!!python/object/apply:os.getcwd []": "could not determine a constructor",
    }
    for text, words in bad.items():
        with pytest.raises(InputError, match=r"made\.yaml is not valid YAML: ") as caught:
            configuration.load(_file(tmp_path, text))
        assert words in str(caught.value)
        assert len(str(caught.value)) < 400
    with pytest.raises(UsageError, match="the key seed is given twice"):
        configuration.load("demo", ["training={seed: 1, seed: 2}"])
    merged = "training: &t {seed: 1}\nevaluation: {ranks: [1]}\n"  # anchors and merge keys stay
    assert configuration.load(_file(tmp_path, merged)).training.seed == 1
    with pytest.raises(UsageError, match=r"unknown key k0; .*; and 290 more$"):
        configuration.parse({f"k{number}": 1 for number in range(300)}, "made.yaml")


def test_a_binary_file_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "photo.yaml"
    path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(range(256)))
    with pytest.raises(InputError, match=r"photo\.yaml is not valid YAML"):
        configuration.load(path)


def test_overrides_of_a_section_change_it_alone() -> None:
    changed = configuration.overridden(Config(), ["build.kappa=0.5"], "build")
    assert configuration.differences(Config(), changed) == ["build.kappa: None -> 0.5"]
    assert configuration.overridden(Config(), [], "build") == Config()


@pytest.mark.parametrize("override", ["training.epochs=3", "build.kapa=1", "kappa=1", "build.kappa=-1"])
def test_overrides_of_another_section_or_of_no_key_are_refused(override: str) -> None:
    with pytest.raises(UsageError, match=r"--set"):
        configuration.overridden(Config(), [override], "build")


def test_scales_of_a_tile_are_one_by_default_and_a_list_where_told() -> None:
    assert Config().tile.scales == (1.0,)
    changed = configuration.parse({"tile": {"scales": [1, 2, 4, 8]}})
    assert changed.tile.scales == (1.0, 2.0, 4.0, 8.0)
    assert configuration.parse(yaml.safe_load(configuration.dump(changed))) == changed


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": {"query_prototype": 0}}, r"loss\.query_prototype 0 trains none"),
        ({"training": {"batch_size": 60}}, "does not divide the 30 places of a batch"),
        ({"loss": {"query_aerial": 0}}, "needs a loss between photos and tiles of a batch"),
    ],
)
def test_places_that_look_alike_are_refused_where_they_cannot_be_found_or_would_teach_nothing(
    values: dict[str, dict[str, int]], message: str
) -> None:
    training = {"hard_group_size": 4, **values.get("training", {})}
    with pytest.raises(UsageError, match=message):
        configuration.parse({**values, "training": training})
    assert configuration.parse({"training": {"hard_group_size": 4}}).training.hard_group_size == 4


def test_configurations_of_the_regions_differ_in_size_only() -> None:
    """What is tuned on one holds on the other."""
    folder = SHIPPED[0].parent
    one, other = (configuration.load(folder / f"{name}.yaml") for name in ("bedenl", "europewest"))
    assert (one.levels.prototype, one.levels.cell, one.tile.size_m) == (15, 16, 154.0)  # what the paper says
    changed = {line.partition(":")[0] for line in configuration.differences(one, other)}
    assert changed == {
        "name",
        "validation.share",
        "validation.withheld_share",
        "training.epochs",
        "training.activation_checkpointing",
        "training.checkpoint_every_steps",
        "training.validate_every_steps",
    }


def _write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def test_a_file_extends_another_block_by_block_and_lists_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "bases").mkdir()
    _write(tmp_path / "bases", low="extends: campus\nname: low\ntraining: {epochs: 3}\nevaluation: {ranks: [1, 2]}")
    _write(tmp_path, top="extends: bases/low.yaml\ntraining: {batch_size: 16}\nevaluation: {ranks: [7]}\nmodel:\n")
    config = configuration.load(tmp_path / "top.yaml", ["training.seed=5"])
    assert config.name == "low"
    assert configuration.differences(configuration.load("campus"), config) == [
        "name: campus -> low",
        "training.epochs: 12 -> 3",
        "training.batch_size: 32 -> 16",
        "training.seed: 0 -> 5",
        "evaluation.ranks: [1, 5, 10] -> [7]",
    ]


def test_a_file_of_the_user_comes_before_a_shipped_name(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("name: mine")
    _write(tmp_path, top="extends: demo")
    assert configuration.load(tmp_path / "top.yaml").name == "mine"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"top": "extends: top.yaml"}, "{top}, extended by {top}: a configuration cannot extend itself"),
        (
            {"top": "extends: one.yaml", "one": "extends: ./top.yaml"},
            "{top}, extended by {one}, extended by {top}: a configuration cannot extend itself",
        ),
        ({"top": "extends: absent.yaml"}, "{absent}, extended by {top}: the configuration cannot be read"),
        (
            {"top": "extends: dmeo"},
            "extended by {top}: the configuration cannot be read (No such file or directory); shipped ",
        ),
        ({"top": "extends: one.yaml", "one": "[1, 2]"}, "{one}, extended by {top} must hold a mapping"),
        ({"top": "extends: one.yaml", "one": "a: b: c"}, "{one}, extended by {top} is not valid YAML"),
        ({"top": "extends: [demo, town]"}, "{top}: extends takes one file or one of bedenl, "),
    ],
)
def test_what_cannot_be_extended_is_named_with_the_chain(tmp_path: Path, files: dict[str, str], message: str) -> None:
    _write(tmp_path, **files)
    with pytest.raises(InputError) as caught:
        configuration.load(tmp_path / "top.yaml")
    named = {name: tmp_path / f"{name}.yaml" for name in ("top", "one", "absent")}
    assert message.format(**named) in str(caught.value).replace("/./", "/")
    assert "\n" not in str(caught.value)


def test_an_override_of_one_encoder_leaves_the_other_that_shares_its_yaml_anchor() -> None:
    config = configuration.load("bedenl", ["model.ground.backbone=tiny"])
    assert (config.model.ground.backbone, config.model.aerial.backbone) == ("tiny", "hf:facebook/dinov2-base")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("training.accumulation=2", "training.gradient_accumulation"),
        ("training.gradient_norm=1", "training.max_grad_norm"),
        ("training.ema=0.5", "training.ema_decay"),
        ("training.tempering=0.5", "training.sampling_exponent"),
        ("training.alike_places=4", "training.hard_group_size"),
        ("training.device=cpu", "machine.device"),
        ("training.precision=float32", "machine.precision"),
        ("stream.threads=3", "machine.threads"),
    ],
)
def test_old_names_are_refused_with_the_new_one_and_translated_in_what_was_saved(
    tmp_path: Path, old: str, new: str
) -> None:
    key, _, value = old.partition("=")
    block, name = key.split(".")
    with pytest.raises(UsageError) as caught:
        configuration.load(_file(tmp_path, ""), [old])
    assert str(caught.value).endswith(f": {key} is now {new}")
    path = _file(tmp_path, f"{block}: {{{name}: {value}}}")
    with pytest.raises(UsageError, match=f"{key} is now {new}"):
        configuration.load(path)
    saved = configuration.load_saved(path)
    assert saved.machine == MachineConfig()  # no machine settings of another machine
    if not new.startswith("machine."):
        assert configuration.differences(saved, configuration.load(_file(tmp_path, ""), [f"{new}={value}"])) == []


def test_machine_settings_are_not_saved_and_no_difference() -> None:
    config = configuration.resolve("demo", ["training.epochs=2"], MachineConfig(device="cpu", precision="float32"))
    assert (config.training.epochs, config.machine.precision) == (2, "float32")
    assert "machine" not in yaml.safe_load(configuration.dump(config))
    assert yaml.safe_load(configuration.dump(config, machine=True))["machine"]["device"] == "cpu"
    other = configuration.resolve(config, ["machine.threads=3"])
    assert other.machine == MachineConfig(device="cpu", precision="float32", threads=3)
    assert configuration.differences(config, other) == []


def _fields(model: type[pydantic.BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, pydantic.BaseModel):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def test_every_key_is_described() -> None:
    assert [key for key, field in _fields(Config) if not field.description] == []


def test_the_page_of_the_configuration_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("configuration_page", ROOT / "tools" / "configuration_page.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert tool.page() == page, "run `python tools/configuration_page.py`"
    for key, _ in _fields(Config):
        assert f"`{key}`" in page or key.startswith("model.aerial.")
    assert (
        "| `levels.cell` | integer | `16` | level of the cell codes; 16: cells of about 140 m; at least 0, at most 30 |"
        in page
    )
    assert "| `evaluation.ranks` | list of integers | `[1, 5, 10, 100]` | ranks of recall; each at least 1 |" in page
    assert "| `build.kappa` | number or null | `null` |" in page


def _command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["config", *map(str, arguments)])
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


def test_config_list_names_the_shipped_files_in_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = _command(capsys, "list")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == [path.stem for path in SHIPPED]
    assert all(len(line.split()) > 5 for line in out.splitlines())


def test_config_show_prints_what_train_would_use(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = _command(capsys, "show", "bedenl", "--set", "training.epochs=3")
    assert status == 0
    assert configuration.parse(yaml.safe_load(out)) == configuration.load("bedenl", ["training.epochs=3"])


def test_config_check_exits_as_the_contract_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("extends: town\nname: mine")
    bad.write_text("training: {epoch: 3}")
    assert _command(capsys, "check", good) == (0, f"{good}: valid\n", "")
    status, out, err = _command(capsys, "check", bad)
    assert (status, out) == (2, "")
    assert err == f"cellcode: {bad}: unknown key training.epoch; the nearest known key is training.epochs\n"
    status, out, err = _command(capsys, "check", tmp_path / "absent.yaml")
    assert (status, out) == (1, "")
    assert "absent.yaml: the configuration cannot be read" in err
