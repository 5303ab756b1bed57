from pathlib import Path

import pytest
import yaml

from cellcode import config as configuration
from cellcode.config import Config
from cellcode.errors import InputError, UsageError

SHIPPED = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


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
    assert configuration.parse(yaml.safe_load(configuration.dump(config))) == config


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
