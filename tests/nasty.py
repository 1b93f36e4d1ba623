"""Texts that have broken something somewhere, each of a few kilobytes at most unless its length is the point."""

# ruff: noqa: RUF001  # letters that look like others are here on purpose

from __future__ import annotations

MEGABYTE = 2**20
LONG = 2**16

KEPT: dict[str, str] = {
    "right to left": "שלום עולם مرحبا بالعالم and back",
    "bidi controls": "\u202eevil\u202c \u2066isolated\u2069 \u200fmark\u200e",
    "emoji families": "👨‍👩‍👧‍👦 👩🏽‍🚀 🏳️‍🌈 🇩🇪🇫🇷 ☝🏿 1️⃣ " * 20,
    "emoji run": "👨‍👩‍👧‍👦" * 500,
    "stacked marks": "".join(letter + "\u0301\u0316\u0334\u0352" * 20 for letter in "zalgo comes "),
    "marks alone": "\u0301" * 300,
    "composed and not": "café cafe\u0301 Å A\u030a ﬁ fi",
    "joiners alone": "x\u200d\u200c\u200b\ufeff\u2060\u00ad" * 50,
    "noncharacters": "a\ufdd0b\ufffec\uffffd\U0010ffff",
    "private use": "\ue000\uf8ff\U000f0000",
    "replacement": "\ufffd" * 40,
    "odd separators": "one\u2028two\u2029three\x85four\x0cfive",
    "odd spaces": "a\u00a0b\u1680c\u2003d\u202fe\u205ff\u3000g",
    "line ends": "one\rtwo\r\nthree\n\n\n\rfour",
    "punctuation": "!?.,;:-–—…\"'`´()[]{}<>/\\|@#$%^&*_+=~" * 30,
    "full stops": "。！？" * 300,
    "homoglyphs": "раураl аdmin ｐａｙｐａｌ ρaypal",
    "mixed scripts": "aбγ漢ع한ไทยह" * 100,
    "cjk without spaces": "検索拡張生成とは何か" * 300,
    "thai without spaces": "สวัสดีชาวโลกการค้นหา" * 200,
    "special tokens": "[CLS] [SEP] [PAD] [MASK] [UNK] <s> </s> <pad> <|endoftext|> ##ing [unused1]",
    "special tokens, many": "[SEP]" * 2000,
    "long number": "9" * 400 + " " + "0." + "3" * 400,
    "sql": "'; DROP TABLE documents; -- \" OR 1=1",
    "query syntax": 'title:x AND (a OR "b) NOT c* d~2 ^3 +e -f [g TO h] /i/ {j}',
    "markup": "<script>alert(1)</script><!-- --><![CDATA[ ]]>&amp;&#0;&#x110000;",
    "format strings": "%s %n {0} {{}} ${x} $(id) `id` \\u0000 \\x00 %00",
    "json in json": '{"text": "\\u0000", "a": [1, 2}',
    "paths": "../../etc/passwd ..\\..\\windows C:\\CON \\\\host\\share file:///etc/passwd",
    "turkish and sharp": "İIıi ẞß ŉ ǰ ΐ Σσς",
    "ligature of many": "ﷺ" * 300,
    "half width": "ﾊﾝｶｸ ＡＢＣ １２３",
    "markdown that nests": "> " * 200 + "deep\n" + "- " * 200 + "deep\n" + "[" * 200 + "]" * 200,
    "table that never ends": "|" * 1000 + "\n" + "|-" * 500,
    "only tokens that mean nothing": "a " * 2000,
    "one letter": "x",
    "spaces around": "   \n\t padded \t\n  ",
    "one long token": "x" * MEGABYTE,
    "one long token of any kind": "xé漢🦜" * (LONG // 16),
    "spaces between": "a" + " " * LONG + "b",
    "line breaks between": "a" + "\n" * LONG + "b",
    "one long line": "word " * (LONG // 16),
}
"""By what is odd about them: all of these are text."""

NO_TEXT: dict[str, str] = {
    "NUL": "a\0b",
    "controls": "a\x01\x02\x1b[31m\x7f",
    "half a surrogate pair": "a\ud800b",
    "the other half": "\udfff",
    "a pair the wrong way round": "\udc00\ud800",
}

BLANK: dict[str, str] = {
    "nothing": "",
    "spaces": " " * MEGABYTE,
    "line breaks": "\n" * MEGABYTE,
    "odd spaces": "\u00a0\u2003\u3000\u2028",
}
