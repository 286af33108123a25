"""What a model card says, and what it must not."""

from pathlib import Path

import yaml
from huggingface_hub import ModelCard

from trainer_core.config import Config
from trainer_core.hub.card import CardKind, CardSubject, build_card, name_publicly


def build(kind: CardKind = "adapter", *, base: str = "acme/base", **keys) -> str:
    config = Config(model_name_or_path=base, huggingface_hub_token="hf_canary", wandb_api_key=None, **keys)
    return build_card(
        CardSubject(
            kind,
            "acme/tuned",
            base,
            config,
            base_revision="c0ffee",
            facts={"train_loss": 0.123456789, "num_tokens": 1234567, "device": "H200", "source": "/home/bob/fused|x"},
            data_facts={"rows": 10, "collator_key": "chat", "revisions": {"a": "b"}},
        )
    )


def test_a_card_tells_base_data_config_results_and_versions() -> None:
    card = build(dataset_key="soda", learning_rate=3e-4, apply_lora=True)

    metadata = ModelCard(card).data.to_dict()
    assert metadata == {
        "base_model": "acme/base",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["finesmith", "lora"],
        "datasets": ["allenai/soda"],
    }
    for words in ("commit `c0ffee`", "`allenai/soda`", '"learning_rate": 0.0003', "0.123457", "1,234,567", "H200"):
        assert words in card
    assert "| transformers |" in card
    assert "| rows | 10 |" in card
    assert "the collator `chat`" in card
    assert 'revision="c0ffee"' in card


def test_a_card_holds_no_secret_and_no_path(tmp_path: Path) -> None:
    card = build(
        output_dir=str(tmp_path / "out"),
        train_local_path_to_data=str(tmp_path / "data.jsonl"),
        quantization_dataset_id=str(tmp_path / "rows.jsonl"),
        tokenizer_name_or_path=str(tmp_path),
    )
    assert "canary" not in card
    assert str(tmp_path) not in card
    assert "/home/bob" not in card
    assert '"quantization_dataset_id": "local:rows.jsonl"' in card


def test_a_base_that_lies_on_a_disk_is_no_base_on_the_hub(tmp_path: Path) -> None:
    assert "base_model" not in ModelCard(build(base="local:mine")).data.to_dict()
    assert name_publicly(str(tmp_path)) == f"local:{tmp_path.name}"
    assert name_publicly("acme/base") == "acme/base"


def test_each_kind_says_how_it_is_loaded() -> None:
    assert "PeftModel.from_pretrained" in build("adapter")
    for kind in ("model", "fused", "quantized"):
        card = build(kind)  # type: ignore[arg-type]
        assert "PeftModel" not in card
        assert 'AutoModelForCausalLM.from_pretrained("acme/tuned")' in card
        assert ModelCard(card).data.library_name == "transformers"


def test_names_that_yaml_would_read_as_something_else_stay_names() -> None:
    for base in ("acme/no", "acme/1e3", 'acme/"quoted"', "acme/a: b"):
        header = build(base=base).split("---")[1]
        assert yaml.safe_load(header)["base_model"] == base


def test_the_same_subject_gives_the_same_card() -> None:
    assert build() == build()
