#!/usr/bin/env python3
"""Writes the prose of a Wikipedia dump as plain text, an article after its title, a paragraph a line.

usage: wiki_text.py DUMP.xml.bz2 OUT.txt

Templates, tables, references, files, categories, headings, lists and markup are left out; what remains is running text as
people wrote it. The result depends only on the dump. Needs Python 3 and nothing else.
"""

import bz2
import html
import re
import sys
import xml.etree.ElementTree as ElementTree

SHORTEST_PARAGRAPH = 200  # characters; what is shorter is captions and remains of lists


def without_nested(text, opening, closing):
    """Removes everything between `opening` and `closing`, nested ones too."""
    kept, depth, position = [], 0, 0
    for mark in re.finditer(re.escape(opening) + "|" + re.escape(closing), text):
        if depth == 0:
            kept.append(text[position : mark.start()])
        if mark.group() == opening:
            depth += 1
        elif depth > 0:
            depth -= 1
        position = mark.end()
    if depth == 0:
        kept.append(text[position:])
    return "".join(kept)


def without_files(text):
    """Removes [[File:…]], [[Image:…]] and [[Category:…]], whose captions hold links of their own."""
    kept, position = [], 0
    for start in re.finditer(r"\[\[(?:File|Image|Category|[a-z-]{2,12}):", text):
        if start.start() < position:
            continue
        kept.append(text[position : start.start()])
        depth, position = 0, start.start()
        for mark in re.finditer(r"\[\[|\]\]", text[start.start() :]):
            depth += 1 if mark.group() == "[[" else -1
            position = start.start() + mark.end()
            if depth == 0:
                break
    kept.append(text[position:])
    return "".join(kept)


def prose(text):
    """The paragraphs of one article."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"<ref[^>]*/>|<ref.*?</ref>", "", text, flags=re.S)
    text = re.sub(r"<(math|gallery|code|pre|timeline|source)\b.*?</\1>", "", text, flags=re.S)
    text = without_nested(text, "{{", "}}")
    text = without_nested(text, "{|", "|}")
    text = without_files(text)
    text = re.sub(r"\[\[(?:[^|\]]*\|)?([^\]]*)\]\]", r"\1", text)
    text = re.sub(r"\[(?:https?|ftp)://\S*\s?([^\]]*)\]", r"\1", text)
    text = html.unescape(re.sub(r"<[^>]+>", "", text)).replace("'''", "").replace("''", "")
    for line in text.split("\n"):
        line = re.sub(r"\s+", " ", line).replace("( ", "(").replace("()", "").strip()
        if len(line) >= SHORTEST_PARAGRAPH and line[0] not in "*#:;=|!{}<":
            yield line


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    articles = 0
    with bz2.open(sys.argv[1]) as dump, open(sys.argv[2], "w", encoding="utf-8") as out:
        title, namespace = "", ""
        for _, element in ElementTree.iterparse(dump):
            tag = element.tag.rsplit("}", 1)[-1]
            if tag == "title":
                title = element.text or ""
            elif tag == "ns":
                namespace = element.text
            elif tag == "text" and namespace in ("0", ""):
                text = element.text or ""
                if not text.lower().startswith("#redirect"):
                    paragraphs = list(prose(text))
                    if paragraphs:
                        articles += 1
                        out.write(title + "\n" + "\n".join(paragraphs) + "\n\n")
                element.clear()
    print(f"{articles} articles", file=sys.stderr)


if __name__ == "__main__":
    main()
