"""Small models with random weights but real shapes, tokenizers and folders: one per family that Winnow must read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

TEXTS = [
    "the bank of the river is green in spring",
    "a central bank sets the rate of interest",
    "how do vectors and graphs find what is near",
    "Zürich, Łódź and 東京 are cities; so is Köln!",
    "tokens are counted before they are cut, never after",
]
LIMIT = 64

FAMILIES = ("bert", "xlm-roberta", "modernbert")
ENCODERS = (*FAMILIES, "mpnet", "nomic_bert", "qwen3")

_SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    # Large enough that texts differ.
    "initializer_range": 0.3,
}
_SETTINGS: dict[str, dict[str, Any]] = {
    "bert": {"max_position_embeddings": LIMIT},
    "xlm-roberta": {"max_position_embeddings": LIMIT + 2, "type_vocab_size": 1, "pad_token_id": 1},
    "modernbert": {
        "max_position_embeddings": LIMIT,
        "local_attention": 8,
        "pad_token_id": 0,
        "cls_token_id": 2,
        "sep_token_id": 3,
        "bos_token_id": 2,
        "eos_token_id": 3,
    },
    "mpnet": {"max_position_embeddings": LIMIT + 2, "pad_token_id": 1},
    "nomic_bert": {"max_position_embeddings": LIMIT},
    "qwen3": {"max_position_embeddings": LIMIT, "num_key_value_heads": 1, "head_dim": 16, "pad_token_id": 0},
}
# What reads text alone: a chat template in the tokenizer does not make messages of it.
_PLAIN: dict[str, Any] = {
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
_POOLING = {"xlm-roberta": "cls", "qwen3": "lasttoken"}
_PROMPTS = {
    "xlm-roberta": {"query": "near: ", "document": "river of: "},
    "nomic_bert": {"query": "search_query: ", "document": "search_document: "},
    "qwen3": {"query": "Instruct: find what is near\nQuery:", "document": ""},
}


def tokenizer(family: str) -> Tokenizer:
    """Word pieces (bert), sentence pieces by a unigram model (xlm-roberta) or pairs of bytes (modernbert)."""
    found: Tokenizer = _TOKENIZERS[family].backend_tokenizer
    return found


def save_encoder(family: str, folder: Path, *, chat: bool = False, **settings: Any) -> Path:
    """A SentenceTransformer folder; the families differ in pooling, prompts and what comes after."""
    torch.manual_seed(1)
    body = str(_save_body(family, folder.with_name(f"{folder.name}-body"), 0))
    transformer = Transformer(body) if chat else Transformer(body, **_PLAIN)
    modules: list[torch.nn.Module] = [transformer, Pooling(32, _POOLING.get(family, "mean"))]
    if family == "bert":
        modules += [Dense(32, 24), Normalize()]
    if family == "modernbert":
        settings = {"truncate_dim": 16} | settings
    if family in _PROMPTS:
        settings = {"prompts": _PROMPTS[family]} | settings
    SentenceTransformer(modules=modules, device="cpu", **settings).save(str(folder), create_model_card=False)
    return folder


def save_reranker(family: str, folder: Path, *, labels: int = 1, **settings: Any) -> Path:
    """A CrossEncoder folder."""
    torch.manual_seed(2)
    body = _save_body(family, folder.with_name(f"{folder.name}-body"), labels)
    CrossEncoder(str(body), device="cpu", local_files_only=True, **settings).save(str(folder), create_model_card=False)
    return folder


def save_late(
    folder: Path,
    *,
    expansion: Mapping[str, Any] | None = None,
    query_length: int | None = None,
    document_length: int | None = 40,
    skipped: Sequence[str] = (".", ","),
    **settings: Any,
) -> Path:
    """A MultiVectorEncoder folder, of BERT's family."""
    torch.manual_seed(3)
    lengths: dict[str, Any] = {"query_length": query_length, "document_length": document_length}
    body = _save_body("bert", folder.with_name(f"{folder.name}-body"), 0)
    transformer = Transformer(str(body), query_expansion=expansion, **lengths)
    head = Dense(32, 12, bias=False, activation_function=torch.nn.Identity(), module_input_name="token_embeddings")
    modules = [transformer, head, MultiVectorMask(list(skipped)), Normalize(module_input_name="token_embeddings")]
    settings = {"prompts": {"query": "bank ", "document": "river "}} | settings
    MultiVectorEncoder(modules=modules, device="cpu", **settings).save(str(folder), create_model_card=False)
    return folder


def save_sparse(folder: Path, *, looks_up: bool = False, plain: bool = False, **settings: Any) -> Path:
    """A SparseEncoder folder, of BERT's family. Queries are read or looked up; a plain one foresees only the words that
    are there."""
    torch.manual_seed(4)
    body = str(_save_masked(folder.with_name(f"{folder.name}-body"), plain=plain))
    reading = [Transformer(body, transformer_task="fill-mask"), SpladePooling()]
    modules: list[torch.nn.Module] = list(reading)
    if looks_up:
        tokenizer = reading[0].tokenizer
        table = SparseStaticEmbedding(tokenizer=tokenizer, weight=torch.rand(len(tokenizer)), frozen=True)
        modules = [Router.for_query_document([table], reading)]
    SparseEncoder(modules=modules, device="cpu", **settings).save(str(folder), create_model_card=False)
    return folder


def _save_masked(folder: Path, *, plain: bool) -> Path:
    """With a head that foresees words; a plain one lets each token through as it is, and takes off what chance adds."""
    tokenizer, shape = _TOKENIZERS["bert"], _SHAPE | {"hidden_size": 64, "hidden_act": "linear"} if plain else _SHAPE
    config = AutoConfig.for_model("bert", vocab_size=len(tokenizer), **shape, **_SETTINGS["bert"])
    opened: Any = AutoModelForMaskedLM
    model = opened.from_config(config)
    if plain:
        state = model.state_dict()
        for name in state:
            if ".output.dense." in name or "position_emb" in name or "token_type" in name:
                state[name].zero_()
        torch.nn.init.eye_(state["cls.predictions.transform.dense.weight"])
        state["cls.predictions.bias"].fill_(-10.0)
        state["cls.predictions.bias"][: len(tokenizer.all_special_ids)] = -1e3
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _save_body(family: str, folder: Path, labels: int) -> Path:
    tokenizer = _TOKENIZERS[family]
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), num_labels=labels, **_SHAPE, **_SETTINGS[family])
    opened: Any = AutoModelForSequenceClassification if labels else AutoModel
    opened.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _word_pieces() -> Any:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=180, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return _wrapped(tokenizer, "[CLS]", "[SEP]", "[PAD]", "[UNK]", types=True)


def _sentence_pieces() -> Any:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return _wrapped(tokenizer, "<s>", "</s>", "<pad>", "<unk>", types=False)


def _bytes(single: str = "[CLS] $A [SEP]") -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return _wrapped(tokenizer, "[CLS]", "[SEP]", "[PAD]", "[UNK]", types=False)


def _causal() -> Any:
    """Only an end token, and padding in front of what is read: as chat models have it."""
    tokenizer = _bytes("$A [SEP]")
    tokenizer.padding_side = "left"
    tokenizer.chat_template = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
    return tokenizer


def _wrapped(tokenizer: Tokenizer, start: str, end: str, pad: str, unknown: str, *, types: bool) -> Any:
    wrapper: Any = PreTrainedTokenizerFast
    return wrapper(
        tokenizer_object=tokenizer,
        cls_token=start,
        sep_token=end,
        pad_token=pad,
        unk_token=unknown,
        mask_token="<mask>" if start == "<s>" else "[MASK]",
        model_input_names=["input_ids", *(["token_type_ids"] if types else []), "attention_mask"],
    )


_TOKENIZERS = {
    "bert": _word_pieces(),
    "xlm-roberta": _sentence_pieces(),
    "modernbert": _bytes(),
    "mpnet": _sentence_pieces(),
    "nomic_bert": _word_pieces(),
    "qwen3": _causal(),
}
