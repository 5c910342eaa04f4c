#!/usr/bin/env python3
"""Makes multiple-choice questions of a text, for `moray choices` and `moray quantize --items`.

usage: choice_items.py TEXT.txt OUT.jsonl [ITEMS [SEED]]

A line of the text is a document. A question is a sentence of it with the first half of the next; the choices are the rest of that
sentence and the second halves of three others of the same document that are the nearest in length, so that neither the subject nor the
length gives the answer away. At most ITEMS questions (400), drawn and shuffled by SEED (1); documents without four fitting sentences
have none. The result depends only on the arguments. Needs Python 3 and nothing else.
"""

import json
import random
import re
import sys

CHOICES = 4
WORDS = range(12, 41)  # of a sentence that is halved


def sentences(document):
    """The sentences of a document: they end with a mark before a space and a capital letter or a quotation mark."""
    parts = re.split(r'(?<=[.!?])\s+(?=[A-Z"\'])', re.sub(r"\s+", " ", document).strip())
    return [part for part in parts if part]


def halves(sentence):
    """The two halves of a sentence by words; None where it is too short or too long."""
    words = sentence.split(" ")
    if len(words) not in WORDS:
        return None
    middle = len(words) // 2
    return " ".join(words[:middle]), " ".join(words[middle:])


def items_of(document, chance):
    """The questions of one document."""
    parts = sentences(document)
    halved = [halves(part) for part in parts]
    for place in range(1, len(parts)):
        if halved[place] is None:
            continue
        begun, rest = halved[place]
        # what the question itself says is no choice
        others = {pair[1] for at, pair in enumerate(halved) if pair is not None and at not in (place - 1, place)} - {rest}
        # the same length in characters, and then the same order wherever this runs
        nearest = sorted(others, key=lambda other: (abs(len(other) - len(rest)), other))[: CHOICES - 1]
        if len(nearest) < CHOICES - 1:
            continue
        choices = nearest + [rest]
        chance.shuffle(choices)
        yield {"question": f"{parts[place - 1]} {begun}", "choices": choices, "answer": choices.index(rest)}


def main():
    if len(sys.argv) not in (3, 4, 5):
        sys.exit(__doc__)
    text, out = sys.argv[1:3]
    count, seed = (int(argument) for argument in (sys.argv[3:] + ["400", "1"][len(sys.argv) - 3 :]))
    if count < 1:
        sys.exit(f"choice_items.py: expected at least 1 item, got {count}")
    chance = random.Random(seed)
    with open(text, encoding="utf-8") as lines:
        items = [item for document in lines for item in items_of(document, chance)]
    if not items:
        sys.exit(f"choice_items.py: {text}: expected documents of at least {CHOICES + 1} sentences, got none that fits")
    chance.shuffle(items)
    with open(out, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in items[:count])
    print(f"{min(count, len(items))} of {len(items)} questions", file=sys.stderr)


if __name__ == "__main__":
    main()
