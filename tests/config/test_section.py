"""What may not change on resume stands on the fields."""

from mtllm_ds.config.data import DataSettings, OrderSettings
from mtllm_ds.config.schema import Settings
from mtllm_ds.config.section import Section, fixed_fields


def test_what_decides_the_order_is_fixed_and_what_is_speed_is_not():
    order = set(fixed_fields(OrderSettings))
    assert order == set(OrderSettings.model_fields) - {"cells_per_forward", "encoder_buckets"}
    assert set(fixed_fields(DataSettings)) == order | {"targets"}


def test_fixed_fields_of_a_whole_run():
    fixed = set(fixed_fields(Settings))
    assert {
        "run.seed",
        "model.start",
        "model.llm.max_length",
        "objective",
        "data.mixing",
        "training.precision",
    } <= fixed
    assert not {"run.max_steps", "data.train", "data.num_workers", "optim.learning_rate", "training.deepspeed"} & fixed


def test_code_that_a_model_brings_runs_only_where_a_setting_says_so():
    def below(section):
        return {section, *(found for own in section.__subclasses__() for found in below(own))}

    asking = [section for section in below(Section) if "trust_remote_code" in section.model_fields]
    assert len(asking) >= 3
    assert all(section.model_fields["trust_remote_code"].default is False for section in asking)
