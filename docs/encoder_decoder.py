"""A network reads, another writes [Goodfellow et al. 2016, section 10.4]: backwards, or numbers in words. ``python encoder_decoder.py``"""

import numpy as np

import fastrnn as fr
from fastrnn.data import NumberWords, Reversal


def build(task, units: int = 128, reverse: bool = False) -> fr.EncoderDecoder:
    encoder = fr.Embedding(task.num_inputs, 16), fr.GRU(16, units, reverse=reverse)
    decoder = fr.Embedding(task.num_outputs, 16), fr.GRU(16, units, seed=1), fr.Linear(units, task.num_outputs)
    return fr.EncoderDecoder(encoder, decoder, stop=task.stop)


def held_out(task, training, n: int = 1500):
    """Fresh pairs that were not trained on."""
    x, _, lengths = training
    seen = {tuple(x[:length, b]) for b, length in enumerate(lengths)}
    x, target, lengths = task.sample(n, np.random.default_rng(1))
    new = [b for b, length in enumerate(lengths) if tuple(x[:length, b]) not in seen]
    return x[:, new], target[new], lengths[new]


if __name__ == "__main__":
    for task, sequences, epochs in ((Reversal(7, symbols=8), 20_000, 12), (NumberWords(4), 6_000, 40)):
        training = task.sample(sequences, np.random.default_rng(0))
        model = build(task, reverse=isinstance(task, Reversal))
        rate = fr.schedules.CosineDecay(5e-3, steps=epochs * sequences // 64)
        fr.fit(model, training, epochs=epochs, batch_size=64, optimizer=fr.Adam(rate, clip_norm=1.0), progress=True)
        fresh = held_out(task, training)
        print(f"{task}: {model.evaluate(*fresh)['exact']:.3f} of {len(fresh[1])} sequences that were not trained on are written right")
        for b, written in enumerate(model.predict(fresh[0][:, :3], fresh[2][:3])):
            read = fresh[0][: fresh[2][b], b]
            print("  ", *read, "->", *(task.words[k] if isinstance(task, NumberWords) else k for k in written))
