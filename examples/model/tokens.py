"""The tokenizer: byte-level BPE that llama.cpp reads as `gpt2` with pre-tokenizer `gpt-2`."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from corpus import random_source

N_VOCAB = 1536
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PAD, START, END = range(3)

# ChatML. A message without a reply after it may ask for one.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


def train_tokenizer(corpus, seed):
    """Learns the merges from composed conversations."""
    rng = random_source(seed, "tokenizer")
    texts = [text for _ in range(6000) for _, text in corpus.conversation(3, rng)]
    texts += ["system\n", "user\n", "assistant\n"] * 100
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCAB,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.get_vocab_size() == N_VOCAB
    return tokenizer


class Encoder:
    """Messages to tokens, each with its share in the loss."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.newline = self.text("\n")

    def text(self, text):
        """The tokens of plain text."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def prompt(self, messages):
        """The tokens of a conversation that waits for a reply."""
        tokens = []
        for role, text in messages:
            tokens += [START, *self.text(f"{role}\n{text}"), END, *self.newline]
        return tokens + [START, *self.text("assistant\n")]

    def conversation(self, messages, question_loss):
        """Tokens and their weights in the loss: 1 for replies and their end."""
        tokens, weights = [], []
        for role, text in messages:
            head = [START, *self.text(f"{role}\n")]
            # Split after the head, as a reply is generated: never a merge across it.
            body = self.text(text) if role == "assistant" else self.text(f"{role}\n{text}")[len(head) - 1 :]
            weight = {"assistant": 1.0, "user": question_loss, "system": 0.0}[role]
            tokens += [*head, *body, END, *self.newline]
            weights += [0.0] * len(head) + [weight] * len(body)
            weights += [1.0 if role == "assistant" else 0.0] + [0.0] * len(self.newline)
        return tokens, weights
