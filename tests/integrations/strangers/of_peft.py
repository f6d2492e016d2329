"""LoRA on a small Llama with peft, in a plain loop: what moves is the adapter, which peft writes at the end."""

import sys

import peft
import torch
import transformers

import landscape
from landscape.optim import DISAM, SAM, BatchLoss


def network():
    torch.manual_seed(0)  # in place of pretrained weights
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        num_labels=3, pad_token_id=0,
    )  # fmt: skip
    base = transformers.LlamaForSequenceClassification(config)
    return peft.get_peft_model(base, peft.LoraConfig("SEQ_CLS", r=2, lora_alpha=8, lora_dropout=0.1))


def data():
    random, y = torch.Generator().manual_seed(0), torch.arange(24) % 3
    words = {name: torch.randint(k, k + 20, (24, 6), generator=random) for name, k in (("news", 5), ("mail", 20))}
    return {"train": {k: ({"input_ids": 1 + (w + y[:, None] * 3) % 49}, y) for k, w in words.items()}}


if __name__ == "__main__":
    folder, method = sys.argv[1], {"sam": SAM, "disam": DISAM}[sys.argv[2]]
    x, y = ([part[i] for part in data()["train"].values()] for i in (0, 1))
    words, y, domains = torch.cat([part["input_ids"] for part in x]), torch.cat(y), torch.arange(48) // 24
    model = network().train()
    optimizer = method(torch.optim.AdamW(model.parameters(), lr=2e-2), rho=0.05)
    told = {"loss": "cross_entropy", "model_name": f"{__file__}:network", "data": f"{__file__}:data"}
    with landscape.record(model, optimizer, folder, every=4, **told) as recorder:
        for _ in recorder.until(steps=12):
            rows = torch.randperm(48)[:16]

            def closure(rows=rows):
                logits = model(words[rows]).logits
                each = torch.nn.functional.cross_entropy(logits, y[rows], reduction="none")
                return BatchLoss.of_examples(each, domains[rows])

            recorder.step(optimizer.step(closure))
    model.save_pretrained(f"{folder}-adapter")
