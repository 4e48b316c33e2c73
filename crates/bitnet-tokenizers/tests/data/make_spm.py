#!/usr/bin/env python3
"""Makes spm/tokenizer.model and spm/golden.json: a small SentencePiece BPE vocabulary laid out as LLaMA-2's, with ids from
sentencepiece itself.

The vocabulary is trained on the reference texts of bitnet-models (byte fallback, identity normalisation, nothing
removed). The ids are those of the 434 reference strings and some more, as the model is, without the dummy prefix, and
with a third of the pieces marked unused (which sentencepiece takes apart again after merging).

    pip install -r requirements.txt
    python make_spm.py

Training is deterministic: running it again must not change the files.
"""
import json
import pathlib
import tempfile

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

HERE = pathlib.Path(__file__).resolve().parent
TEXTS = HERE.parents[2] / "bitnet-models/tests/data/reference/texts"
VOCAB_SIZE = 640

# Beyond the 434 reference strings: what is special to SentencePiece.
MORE_STRINGS = [
    "\u2581", "a\u2581b", " \u2581 ", "<0x0A>", "<s>", "</s>", "<unk>", "a<s>b",
    "<sep>", "a<sep>b", " <sep> a", "<sep><sep>", "the <sep>the", "<sep", "sep>",
    "aaaaaaaaaaaaaaaaaaaaaaa", "thethethethethe", "\u3042\u3044", "x" * 300,
]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def type_of(model, piece_id):
    """The number that GGUF stores in tokenizer.ggml.token_type."""
    if model.is_unknown(piece_id):
        return UNKNOWN
    if model.is_control(piece_id):
        return CONTROL
    if model.is_unused(piece_id):
        return UNUSED
    if model.is_byte(piece_id):
        return BYTE
    return USER_DEFINED if model.id_to_piece(piece_id) == "<sep>" else NORMAL


def main():
    with tempfile.TemporaryDirectory() as folder:
        sentencepiece.SentencePieceTrainer.train(
            input=[str(TEXTS / "corpus.txt"), str(TEXTS / "perplexity.txt")],
            model_prefix=f"{folder}/spm",
            model_type="bpe",
            vocab_size=VOCAB_SIZE,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            character_coverage=0.995,
            user_defined_symbols=["<sep>"],
            num_threads=1,
            minloglevel=2,
        )
        model_bytes = pathlib.Path(f"{folder}/spm.model").read_bytes()
    proto = sentencepiece_model_pb2.ModelProto.FromString(model_bytes)
    for field in ("input", "model_prefix"):  # where this ran
        proto.trainer_spec.ClearField(field)
    model_bytes = proto.SerializeToString(deterministic=True)
    (HERE / "spm/tokenizer.model").write_bytes(model_bytes)

    def load(change=lambda proto: None):
        proto = sentencepiece_model_pb2.ModelProto.FromString(model_bytes)
        change(proto)
        return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())

    def drop_prefix(proto):
        proto.normalizer_spec.add_dummy_prefix = False

    def mark_unused(proto):
        longer = [p for p in proto.pieces if p.type == NORMAL and len(p.piece) > 1]
        for piece in longer[1::3]:
            piece.type = UNUSED

    model, without_prefix, partly_unused = load(), load(drop_prefix), load(mark_unused)
    pieces = [model.id_to_piece(i) for i in range(model.vocab_size())]

    reference = json.loads((HERE / "tiny/golden_ids.json").read_text(encoding="utf-8"))
    strings = [case["text"] for case in reference["encode"]]
    cases = []
    for text in strings + MORE_STRINGS:
        case = {"text": text, "ids": model.encode(text), "ids_no_prefix": without_prefix.encode(text)}
        case["ids_unused"] = partly_unused.encode(text)
        # SentencePiece spells a space as U+2581, so it cannot tell the two apart.
        assert model.decode(case["ids"]) == text.replace("\u2581", " "), text
        cases.append(case)

    golden = {
        "made_by": f"make_spm.py, sentencepiece {sentencepiece.__version__}",
        "pieces": pieces,
        "scores": [model.get_score(i) for i in range(len(pieces))],
        "types": [type_of(model, i) for i in range(len(pieces))],
        "types_unused": [type_of(partly_unused, i) for i in range(len(pieces))],
        "bos": model.bos_id(),
        "eos": model.eos_id(),
        "unk": model.unk_id(),
        "cases": cases,
    }
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=True)}" for k, v in golden.items() if k != "cases")
    body = ",\n".join(json.dumps(case, ensure_ascii=True) for case in cases)
    (HERE / "spm/golden.json").write_text(f'{{\n{lines},\n"cases": [\n{body}\n]\n}}\n', encoding="utf-8")
    print(len(pieces), "pieces,", len(cases), "strings")


if __name__ == "__main__":
    main()
