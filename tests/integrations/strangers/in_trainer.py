"""A small BERT in the Trainer of Hugging Face: accumulation, warm-up, its own checkpoints."""

import sys
from pathlib import Path

import torch
import transformers
from transformers.trainer_utils import get_last_checkpoint

from landscape.integrations.huggingface import LandscapeCallback, SharpnessAware
from landscape.optim import DISAM, SAM, BatchLoss


def network():
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=3
    )
    return transformers.BertForSequenceClassification(config)


def data():
    random, y = torch.Generator().manual_seed(0), torch.arange(48) % 3
    words = {name: torch.randint(k, k + 20, (48, 6), generator=random) for name, k in (("news", 5), ("mail", 20))}
    return {"train": {k: ({"input_ids": (w + y[:, None] * 3) % 50}, y) for k, w in words.items()}}


class Trainer(SharpnessAware, transformers.Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **_):
        domain, labels = inputs.pop("domain"), inputs.pop("labels")
        outputs = model(**inputs)
        each = torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="none")
        loss = optimizer.objective(BatchLoss.of_examples(each, domain, domains=2))
        return (loss, outputs) if return_outputs else loss


if __name__ == "__main__":
    folder, method = sys.argv[1], {"sam": SAM, "disam": DISAM}[sys.argv[2]]
    transformers.set_seed(0)
    parts = enumerate(data()["train"].values())
    rows = [
        {"input_ids": w, "labels": int(c), "domain": k}
        for k, (x, y) in parts
        for w, c in zip(x["input_ids"], y, strict=True)
    ]
    arguments = transformers.TrainingArguments(
        f"{folder}-theirs",
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        max_steps=12,
        save_steps=4,
        logging_steps=1,
        warmup_steps=3,
        remove_unused_columns=False,
        report_to=[],
        use_cpu=True,
    )
    model = network()
    optimizer = method(torch.optim.AdamW(model.parameters(), lr=2e-3), rho=0.05)
    recorder = LandscapeCallback(
        folder, every=4, loss="cross_entropy", model_name=f"{__file__}:network", data=f"{__file__}:data"
    )
    trainer = Trainer(model, arguments, train_dataset=rows, optimizers=(optimizer, None), callbacks=[recorder])
    last = get_last_checkpoint(arguments.output_dir) if Path(arguments.output_dir).is_dir() else None
    trainer.train(resume_from_checkpoint=last)
